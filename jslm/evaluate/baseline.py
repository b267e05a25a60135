"""What a byte 5-gram makes of the held-out text of a run, counted on its training text: kept beside the token files."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jslm.errors import JslmError
from jslm.evaluate.ngram import BYTES, DOCUMENT_END, ORDER, Ngram
from jslm.files import write_text
from jslm.tokenizer import Tokenizer
from jslm.tokens import TokenFile, open_tokens

CACHE_NAME = "ngram.json"
NAME = f"byte {ORDER}-gram, Kneser-Ney"
# Three seconds and 0.7 GB at most; of more text, stretches from all over it are taken.
TRAINING_BYTES = 32 << 20
HELD_OUT_BYTES = 4 << 20
_STRETCHES = 64
_BLOCK = 1 << 20
_log = logging.getLogger("jslm")


@dataclass(frozen=True)
class Baseline:
    """Bits a byte of held-out text by a byte 5-gram with Kneser-Ney smoothing; how much of both texts it has read."""

    bits_per_byte: float
    training_bytes: int
    all_training_bytes: int
    held_out_bytes: int
    all_held_out_bytes: int

    def record(self) -> dict[str, Any]:
        """As JSON-able values."""
        return asdict(self)

    def said(self, model_bits: float) -> str:
        """In a line, beside the bits a byte of a model."""
        return f"{NAME}: {self.bits_per_byte:.4g} bits a byte; the model: {model_bits:.4g}{said_limits(asdict(self))}"


def said_limits(record: Mapping[str, Any]) -> str:
    """Of a baseline's record: how much of the text it has read, as " (it counted ...)"; empty where it read all."""
    parts = [
        f"{verb} {record[key] / 1e6:,.0f} of {record[f'all_{key}'] / 1e6:,.0f} MB"
        for verb, key in (("it counted", "training_bytes"), ("was measured on", "held_out_bytes"))
        if record[key] < record[f"all_{key}"]
    ]
    return f" ({' and '.join(parts)})" if parts else ""


def split_baseline(folders: Sequence[str | Path], tokenizer: Tokenizer) -> Baseline | None:
    """The baseline of the val split of prepared data, several folders as one text; None where nothing there counts.

    As of the model, of prompt/completion pairs the completions alone count, and of conversations what assistants say;
    an end of a document is a symbol to be foretold, of no bytes. It is computed once, and kept in the first folder.
    Raises JslmError where the folders hold no prepared data.
    """
    training = [open_tokens(folder, "train") for folder in folders]
    held_out = [open_tokens(folder, "val") for folder in folders]
    shas = [file.meta["val"]["sha256"] for file in held_out]

    def compute() -> Baseline | None:
        parts = _read(held_out, tokenizer, HELD_OUT_BYTES)
        return _measure(training, tokenizer, *parts, sum(file.meta["val"]["bytes"] for file in held_out))

    return _kept(folders, training, shas, compute)


def text_baseline(folders: Sequence[str | Path], tokenizer: Tokenizer, documents: Sequence[str]) -> Baseline | None:
    """The baseline of a text of some documents, by counts of the training split of prepared data; as above."""
    training = [open_tokens(folder, "train") for folder in folders]
    texts = [document.encode("utf-8", "surrogatepass") for document in documents]
    digest = hashlib.sha256(b"".join(len(text).to_bytes(8, "little") + text for text in texts)).hexdigest()

    def compute() -> Baseline | None:
        ends = _has_ends(training)
        # A document begins after the end of another, which the model isn't asked for here.
        pieces = [np.frombuffer(text, np.uint8).astype(np.uint16) for text in texts]
        start = np.full(int(ends), DOCUMENT_END, np.uint16)
        symbols = np.concatenate([part for piece in pieces for part in (start, piece)])
        kept = np.concatenate([symbols[span] for span in _stretches(len(symbols), HELD_OUT_BYTES / len(symbols))])
        return _measure(training, tokenizer, kept, kept != DOCUMENT_END, sum(map(len, texts)))

    return _kept(folders, training, [digest], compute) if any(texts) else None


def _measure(
    training: Sequence[TokenFile],
    tokenizer: Tokenizer,
    symbols: NDArray[np.uint16],
    counted: NDArray[np.bool_],
    all_held_out: int,
) -> Baseline | None:
    held_out_bytes = int(np.count_nonzero(counted & (symbols != DOCUMENT_END)))
    if not held_out_bytes:
        return None
    text, _ = _read(training, tokenizer, TRAINING_BYTES)
    model = Ngram(text, alphabet=BYTES + _has_ends(training))
    return Baseline(
        bits_per_byte=model.bits(symbols, counted) / held_out_bytes,
        training_bytes=int(np.count_nonzero(text != DOCUMENT_END)),
        all_training_bytes=sum(file.meta["train"]["bytes"] for file in training),
        held_out_bytes=held_out_bytes,
        # Of pairs and conversations, the bytes of what does not count are in the files' count.
        all_held_out_bytes=all_held_out if bool(counted.all()) else held_out_bytes,
    )


def _has_ends(files: Sequence[TokenFile]) -> bool:
    return any(file.meta.get("end_of_text") for file in files)


def _read(files: Sequence[TokenFile], tokenizer: Tokenizer, limit: int) -> tuple[NDArray[np.uint16], NDArray[np.bool_]]:
    """The text of token files as symbols, about `limit` of them from all over where there are more, and which count."""
    ends = _has_ends(files)
    pieces = [
        np.frombuffer(tokenizer.decode_bytes([token]) if length else b"", np.uint8).astype(np.uint16)
        for token, length in enumerate(tokenizer.token_bytes().tolist())
    ]
    if ends:
        pieces[tokenizer.eot_id] = np.array([DOCUMENT_END], np.uint16)
    flat, lengths = np.concatenate(pieces), np.array([len(piece) for piece in pieces])
    starts = np.cumsum(lengths) - lengths
    sizes = [
        sum(int(lengths[file.tokens[at : at + _BLOCK]].sum()) for at in range(0, len(file.tokens), _BLOCK))
        for file in files
    ]
    share = limit / max(1, sum(sizes))
    symbols, counted = [np.zeros(0, np.uint16)], [np.zeros(0, np.bool_)]
    for file in files:
        mask = _counted(file)
        for span in _stretches(len(file.tokens), share):
            for at in range(span.start, span.stop, _BLOCK):
                block = slice(at, min(span.stop, at + _BLOCK))
                ids = np.asarray(file.tokens[block]).astype(np.int64)
                size = lengths[ids]
                first = np.repeat(starts[ids] - (np.cumsum(size) - size), size)
                symbols.append(flat[first + np.arange(len(first))])
                counted.append(np.ones(len(first), np.bool_) if mask is None else np.repeat(mask[block], size))
    return np.concatenate(symbols), np.concatenate(counted)


def _counted(file: TokenFile) -> NDArray[np.bool_] | None:
    """Which tokens are learned; None where all are."""
    if file.learned is not None:
        return np.asarray(file.learned) > 0
    if file.prompts is None:
        return None
    starts = np.asarray(file.offsets[:-1]).astype(np.int64)
    change = np.zeros(len(file.tokens) + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + np.asarray(file.prompts).astype(np.int64), -1)
    return np.cumsum(change[:-1]) == 0


def _stretches(length: int, share: float) -> Iterator[slice]:
    """Slices of `length` that hold `share` of it together, from all over it."""
    if share >= 1:
        yield slice(0, length)
        return
    for number in range(_STRETCHES):
        start = number * length // _STRETCHES
        yield slice(start, start + int(length * share / _STRETCHES))


def _kept(
    folders: Sequence[str | Path],
    training: Sequence[TokenFile],
    held_out: Sequence[str],
    compute: Callable[[], Baseline | None],
) -> Baseline | None:
    """What the first folder has of the same texts, or what `compute` gives, which is put there."""
    path = Path(folders[0], CACHE_NAME)
    counts = "+".join([f"{ORDER}-gram 1", str(TRAINING_BYTES), *(file.meta["train"]["sha256"] for file in training)])
    key = "+".join([str(HELD_OUT_BYTES), *held_out])
    try:
        found = json.loads(path.read_text("utf-8"))
        # Text that is prepared anew leaves nothing of the old.
        known = dict(found["of"]) if found["counts"] == counts else {}
        if key in known:
            return Baseline(**known[key])
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    result = compute()
    if result is not None:
        try:
            write_text(path, json.dumps({"counts": counts, "of": known | {key: result.record()}}, indent=1) + "\n")
        except JslmError as error:
            # Data that may only be read: it is counted again the next time.
            _log.debug("%s", error)
    return result
