"""Loss, perplexity, bits per byte and bits per character of a whole text, each token predicted exactly once."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jslm.config import DataConfig
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.evaluate.scoring import BATCH_TOKENS, Window, cover, score_windows, start_ids
from jslm.infer import LanguageModel
from jslm.learn import LossResult
from jslm.text.documents import InputFile, clean_document
from jslm.text.readers import read_file
from jslm.tokenizer import Tokenizer
from jslm.tokens import TokenFile, open_tokens
from jslm.tokens.token_file import SPLITS, Split

_log = logging.getLogger("jslm")


@dataclass(frozen=True)
class TextLoss(LossResult):
    """Sums over all tokens of a text, and how it was cut: windows of `context` tokens, each `stride` after the last.

    `text_sha256` is the digest of the text as the model read it: figures of one digest compare.
    """

    characters: int
    context: int
    stride: int
    text_sha256: str
    documents: int = 1
    unknown_characters: int = 0

    @property
    def bits_per_character(self) -> float:
        """Bits to code one Unicode character of text."""
        return self.nats / math.log(2) / max(1, self.characters)

    def record(self) -> dict[str, Any]:
        """All of it for a JSON report."""
        return {
            "loss": self.loss,
            "perplexity": self.perplexity,
            "bits_per_byte": self.bits_per_byte,
            "bits_per_character": self.bits_per_character,
            "tokens": self.tokens,
            "bytes": self.bytes,
            "characters": self.characters,
            "documents": self.documents,
            "context": self.context,
            "stride": self.stride,
            "text_sha256": self.text_sha256,
            **({"unknown_characters": self.unknown_characters} if self.unknown_characters else {}),
        }


def text_loss(
    model: LanguageModel,
    text: str | Sequence[str],
    *,
    stride: int = 0,
    batch_tokens: int = BATCH_TOKENS,
    where: str = "text",
) -> TextLoss:
    """The loss of `text`, a document or several, each from its first token on, which follows the start of a document.

    It is read as `LanguageModel.as_read` has it, and bytes and characters are those of what is read: the figures are
    the same however a file writes its line breaks. `stride` is how many new tokens a window of the model's context
    asks for, by default half the context; the context itself gives disjoint windows. Characters that the tokenizer has
    never seen are read as its unknown one, and counted in the result. Raises JslmError for an empty text and a stride
    outside 1 to the context.
    """
    texts = [model.as_read(each) for each in ([text] if isinstance(text, str) else text)]
    documents = [np.asarray(ids, np.int64) for ids in model.tokenizer.encode_batch(texts)]
    if not any(ids.size for ids in documents):
        raise JslmError(f"{where}: empty; expected text to measure the model on")
    unknown = sum(each.count(character) for each in texts for character in model.tokenizer.unknown_characters(each))
    nats, tokens, context, stride = _sum(model, [ids for ids in documents if ids.size], stride, batch_tokens)
    raw = "".join(texts).encode("utf-8", "surrogatepass")
    digest = hashlib.sha256(raw).hexdigest()
    return TextLoss(nats, tokens, len(raw), sum(map(len, texts)), context, stride, digest, len(texts), unknown)


def split_loss(
    model: LanguageModel, folder: str | Path, split: str = "val", *, stride: int = 0, batch_tokens: int = BATCH_TOKENS
) -> TextLoss:
    """The loss of one split of prepared data: as one stream of tokens, or document by document where training packed
    documents (`data.packing`). As in training, of prompt/completion pairs the completions alone count, and of
    conversations what assistants say.

    Raises JslmError where there is no such split, it is empty, or another tokenizer made it.
    """
    if split not in SPLITS:
        raise JslmError(f"--split {split}: expected {' or '.join(SPLITS)}")
    chosen: Split = "val" if split == "val" else "train"
    file = open_tokens(folder, chosen)
    made_with = file.meta["tokenizer"]["fingerprint"]
    if made_with != model.tokenizer.fingerprint:
        raise JslmError(
            f"{folder}: tokens of tokenizer {made_with}, but the model has {model.tokenizer.fingerprint}; "
            "give the data it was trained on, or measure it on text: --text FILE"
        )
    if not len(file.tokens):
        raise JslmError(f"{file.path}: no tokens; this corpus was split without them (data.validation_fraction)")
    masks = None
    if not file.has_completions and model.config.data.packing != "documents":
        documents, prompts, counted = [file.tokens], None, file.tokens
    else:
        documents, prompts, masks = _documents(file)
        asked = [ids[length:] for ids, length in zip(documents, prompts, strict=True)]
        counted = np.concatenate([*asked, file.tokens[:0]]) if file.prompts is not None else file.tokens
        counted = counted if file.learned is None else file.tokens[file.learned > 0]
    nats, tokens, context, stride = _sum(model, documents, stride, batch_tokens, prompts, masks)
    byte_count, characters = _text_sizes(model.tokenizer, counted)
    # Where prompts don't count, they are a part of the question all the same.
    digest = text_digest(model.tokenizer, [file.tokens] if counted is file.tokens else [file.tokens, counted])
    return TextLoss(nats, tokens, byte_count, characters, context, stride, digest, len(file.offsets) - 1)


def read_text(path: str | Path, data: DataConfig | None = None) -> list[str]:
    """The documents of a text file as a corpus of these settings would have them: the readers and cleaners of training.

    Of `data`, `separator` and `cleaners` count; what the latter change of the size is said on the log. Raises JslmError
    where the file is absent, empty, no text, or nothing of it is left.
    """
    data = data or DataConfig()
    # The encoding is this file's, and how records were read has no bearing on a text.
    config = DataConfig(format="text", separator=data.separator, cleaners=data.cleaners)
    before, after = 0, []
    for document in read_file(InputFile(str(path), 0), config):
        before += len(document.text)
        cleaned = clean_document(document, config).text
        if cleaned and not cleaned.isspace():
            after.append(cleaned)
    if not before:
        raise JslmError(f"{path}: empty; expected text")
    names = ", ".join(data.cleaners)
    if not after:
        raise JslmError(
            f"{path}: nothing is left of its {before:,} characters"
            + (f" after data.cleaners ({names}) of the model; data.cleaners=[] reads it as it is" if names else "")
        )
    if (left := sum(map(len, after))) != before and names:
        _log.info("%s: read as in training, %s: %s of %s characters", path, names, f"{left:,}", f"{before:,}")
    return after


def _sum(
    model: LanguageModel,
    documents: Sequence[NDArray[Any]],
    stride: int,
    batch_tokens: int,
    prompts: Sequence[int] | None = None,
    masks: Sequence[NDArray[Any]] | None = None,
) -> tuple[float, int, int, int]:
    """(nats, tokens, context, stride), each document after a start of its own, without its first `prompts` tokens, and
    where there are `masks`, without the tokens that have 0 there."""
    context = model.config.model.context_length
    stride = stride or max(1, context // 2)
    if not 1 <= stride <= context:
        raise JslmError(f"--stride {stride}: expected from 1 to the model's context of {context} tokens")
    before = np.asarray(start_ids(model))
    pairs = zip(documents, prompts or itertools.repeat(0), strict=False)
    # Which of its tokens each window under way is asked for, by the number that it comes back with.
    asked: dict[int, NDArray[Any]] = {}
    numbers = itertools.count()

    def windows() -> Iterator[Window]:
        for number, (ids, skip) in enumerate(pairs):
            for window, place in _windows(before, ids, skip, context, stride):
                if masks is None:
                    yield window
                elif np.any(mask := masks[number][place]):
                    owner = next(numbers)
                    asked[owner] = mask > 0
                    yield dataclasses.replace(window, owner=owner)

    nats, tokens = 0.0, 0
    with Bar("scoring", sum(map(len, documents)) - sum(prompts or ()), "tokens") as bar:
        for scored in score_windows(model, windows(), batch_tokens=batch_tokens):
            bar.add(scored.logprobs.size)
            logprobs = scored.logprobs if masks is None else scored.logprobs[asked.pop(scored.owner)]
            nats -= float(np.sum(logprobs, dtype=np.float64))
            tokens += logprobs.size
    return nats, tokens, context, stride


def _windows(
    before: NDArray[Any], ids: NDArray[Any], skip: int, context: int, stride: int
) -> Iterator[tuple[Window, slice]]:
    """Windows of `before` and `ids` for all but `skip` of these, without copying what may be a file of gigabytes; and
    the place in `ids` of the tokens that each is asked for."""
    shift = len(before)
    for begin, end, first in cover(shift + len(ids), shift + skip, context, stride):
        piece = np.asarray(ids[max(0, begin - shift) : end - shift], np.int64)
        window = Window(np.concatenate([before[begin:], piece]) if begin < shift else piece, first)
        yield window, slice(begin + first - shift, end - shift)


def _documents(file: TokenFile) -> tuple[list[NDArray[Any]], list[int], list[NDArray[Any]] | None]:
    """Each document that is not empty, how many of its first tokens are a prompt, and which of them are learned."""
    offsets = np.asarray(file.offsets).astype(np.int64).tolist()
    prompts = [0] * (len(offsets) - 1) if file.prompts is None else file.prompts.tolist()
    spans = [
        (span, prompt) for span, prompt in zip(itertools.pairwise(offsets), prompts, strict=True) if len({*span}) == 2
    ]
    masks = None if file.learned is None else [file.learned[start:end] for (start, end), _ in spans]
    return [file.tokens[start:end] for (start, end), _ in spans], [prompt for _, prompt in spans], masks


def _text_sizes(tokenizer: Tokenizer, tokens: NDArray[Any]) -> tuple[int, int]:
    """UTF-8 bytes and characters that the tokens stand for; special tokens stand for none."""
    counts = np.zeros(tokenizer.vocab_size, np.int64)
    for start in range(0, len(tokens), 1 << 22):
        counts += np.bincount(tokens[start : start + (1 << 22)], minlength=tokenizer.vocab_size)
    lengths = tokenizer.token_bytes().astype(np.int64)
    used = np.flatnonzero((counts > 0) & (lengths > 0)).tolist()
    # A character has one byte that does not continue another, so that characters cut between tokens count once.
    starts = {token: sum(byte & 0xC0 != 0x80 for byte in tokenizer.decode_bytes([token])) for token in used}
    return int(counts @ lengths), sum(int(counts[token]) * number for token, number in starts.items())


def text_digest(tokenizer: Tokenizer, streams: Sequence[NDArray[Any]]) -> str:
    """SHA-256 of the text that the tokens stand for, the same with every tokenizer; special tokens stand for none."""
    lengths = tokenizer.token_bytes()
    spellings: dict[int, bytes] = {}
    digest = hashlib.sha256()
    for number, tokens in enumerate(streams):
        digest.update(b"\xff" * number)
        for start in range(0, len(tokens), 1 << 20):
            ids = np.asarray(tokens[start : start + (1 << 20)]).astype(np.int64)
            for token in np.unique(ids).tolist():
                if token not in spellings:
                    spellings[token] = tokenizer.decode_bytes([token]) if lengths[token] else b""
            digest.update(b"".join(map(spellings.__getitem__, ids.tolist())))
    return digest.hexdigest()
