"""Text to ids, in parts on disk; the same ids for any number of workers."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from jslm.console import Bar
from jslm.errors import JslmError
from jslm.prepare.split import Piece
from jslm.prepare.tasks import Task, Workers, run_tasks
from jslm.prepare.work import WorkFolder
from jslm.prompts.pairs import Part
from jslm.tokenizer import Tokenizer, tokenizer_from_json
from jslm.tokens.token_file import NO_LABEL, SPLITS, Split, TokenWriter, token_dtype

CHUNK_CHARACTERS = 1 << 18
# Some seconds' work, which is what a killed run loses.
PART_CHARACTERS = 1 << 24
TOKENS = "tokens"
# GPT-2's pre-tokens take white space in front of a word, never behind it: nothing reaches across these places.
_SAFE_CUT = re.compile(r"\S(?=[ \n])")
# What is written down of the tokens that are read and not learned: how many begin a document, or which they are.
Mask: TypeAlias = Literal["", "prompts", "learned"]
# A text and whether a start-of-text and an end-of-text token go around it; or the name of a special token.
Text: TypeAlias = tuple[str, bool, bool, bool]


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece or a part of one; of pairs and conversations, a part of what is learned or of what is only read."""

    text: str
    piece: Piece
    begins_piece: bool
    ends_piece: bool
    is_learned: bool
    is_special: bool


@dataclass(frozen=True, slots=True)
class Encoded:
    """The ids of a task's texts in a row, how many each text has, and how many characters had no id."""

    ids: NDArray[Any]
    lengths: list[int]
    unknown: int


@dataclass(slots=True)
class EncodedTally:
    """How many tasks are done at the end of a part; `unknown` characters and the text of each split in it."""

    tasks: int = 0
    unknown: int = 0
    characters: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    utf8_bytes: dict[Split, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))


def encode_corpus(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    work: WorkFolder,
    workers: Workers,
    utf8_bytes: int,
    log: Callable[[str], None],
    split: Callable[[str], list[Part]] = lambda text: [Part(text)],
    mask: Mask = "",
    labels: Sequence[Sequence[str]] = (),
    kind: str = TOKENS,
) -> None:
    """Encodes what no earlier run has, and leaves it in `work` as parts of `kind`; `add_parts` takes it from there.

    Long pieces are cut where no token can reach across, so the ids are those of the whole piece, or of each of the
    parts that `split` makes of it; `mask` says what is kept of which are learned. `labels` are those of each condition.
    Raises JslmError as `split`, `run_tasks` and the disk do.
    """
    done = work.parts(kind)
    tallies = [_read_tally(path) for path in done]
    before = sum(sum(tally.utf8_bytes.values()) for tally in tallies)
    if before:
        log(f"going on after {before / 1e6:,.1f} MB that an interrupted run has tokenised")
    n_tasks = tallies[-1].tasks if tallies else 0
    part = _Part(tokenizer, n_tasks, mask, labels)
    number = len(done)
    with Bar("tokenising", utf8_bytes, "MB", before=before, scale=1e6, log=log) as bar:
        tasks = islice(_tasks(pieces, tokenizer, split), n_tasks, None)
        for chunks, encoded in run_tasks(encode_texts, tokenizer.to_json(), tasks, workers):
            bar.add(part.add(chunks, encoded))
            if part.size >= PART_CHARACTERS:
                work.write(work.part(kind, number).name, part.write)
                part, number = _Part(tokenizer, part.tally.tasks, mask, labels), number + 1
        if part.size:
            work.write(work.part(kind, number).name, part.write)


def add_parts(work: WorkFolder, writer: TokenWriter, kind: str = TOKENS) -> int:
    """Moves all that was encoded into `writer`; returns how many characters the tokenizer did not know."""
    unknown = 0
    for path in work.parts(kind):
        tally = _read_tally(path)
        unknown += tally.unknown
        with np.load(path) as arrays:
            for split in SPLITS:
                writer.extend(
                    split,
                    arrays[f"{split}_ids"],
                    arrays[f"{split}_ends"],
                    [None if np.isnan(bits) else float(bits) for bits in arrays[f"{split}_bits"]],
                    characters=tally.characters[split],
                    utf8_bytes=tally.utf8_bytes[split],
                    prompts=arrays[f"{split}_prompts"].tolist() if writer.has_prompts else (),
                    learned=arrays[f"{split}_learned"] if writer.has_learned else None,
                    labels=arrays[f"{split}_labels"] if writer.conditions else None,
                )
    return unknown


def encode_texts(tokenizer_json: str, texts: list[Text]) -> Encoded:
    """What a worker does."""
    tokenizer = _open_tokenizer(tokenizer_json)
    dtype = token_dtype(tokenizer.vocab_size)
    start, end = np.array([tokenizer.bos_id], dtype), np.array([tokenizer.eot_id], dtype)
    arrays = [np.zeros(0, dtype)]
    lengths = []
    special = tokenizer.special_tokens
    ordinary = ["" if is_special else text for text, _, _, is_special in texts]
    for ids, (text, starts, ends, is_special) in zip(tokenizer.encode_arrays(ordinary), texts, strict=True):
        ids = np.array([special[text]]) if is_special else ids
        arrays += [start] * starts + [ids.astype(dtype)] + [end] * ends
        lengths.append(ids.size + starts + ends)
    unknown = sum(text.count(character) for text in ordinary for character in tokenizer.unknown_characters(text))
    return Encoded(np.concatenate(arrays), lengths, unknown)


# The same string each time: it is compared by identity first.
@functools.lru_cache(maxsize=1)
def _open_tokenizer(tokenizer_json: str) -> Tokenizer:
    return tokenizer_from_json(tokenizer_json)


def cut_text(text: str, chunk_characters: int, cuts: Literal["anywhere", "before_spaces", "nowhere"]) -> Iterator[str]:
    """Parts of at least `chunk_characters` whose ids, in a row, are those of `text`.

    `cuts` is the tokenizer's. Text with no safe place to cut is left whole.
    """
    start = 0
    while len(text) - start > chunk_characters and cuts != "nowhere":
        cut = start + chunk_characters
        if cuts == "before_spaces":
            match = _SAFE_CUT.search(text, cut - 1)
            if match is None:
                break
            cut = match.end()
        yield text[start:cut]
        start = cut
    yield text[start:]


def _tasks(
    pieces: Iterable[Piece], tokenizer: Tokenizer, split: Callable[[str], list[Part]]
) -> Iterator[Task[list[Chunk], list[Text]]]:
    """Chunks in groups of about CHUNK_CHARACTERS, so that a task is worth the trip to a worker."""
    chunks: list[Chunk] = []
    size = 0
    for piece in pieces:
        try:
            parts = split(piece.text)
        except JslmError as error:
            raise JslmError(f"{piece.where}: {error}" if piece.where else str(error)) from None
        for chunk in _chunks(piece, tokenizer, parts):
            chunks.append(chunk)
            size += len(chunk.text)
            if size >= CHUNK_CHARACTERS:
                yield _task(chunks, size, tokenizer)
                chunks, size = [], 0
    if chunks:
        yield _task(chunks, size, tokenizer)


def _chunks(piece: Piece, tokenizer: Tokenizer, parts: list[Part]) -> Iterator[Chunk]:
    cut = [
        part._replace(text=text)
        for part in parts
        for text in ([part.text] if part.is_special else cut_text(part.text, CHUNK_CHARACTERS, tokenizer.cuts))
    ]
    for number, part in enumerate(cut):
        yield Chunk(
            part.text,
            piece,
            number == 0 and not piece.continues,
            number == len(cut) - 1,
            part.is_learned,
            part.is_special,
        )


def _task(chunks: list[Chunk], size: int, tokenizer: Tokenizer) -> Task[list[Chunk], list[Text]]:
    has_own_start = tokenizer.adds_bos and tokenizer.bos_id != tokenizer.eot_id
    texts = [
        (
            chunk.text,
            has_own_start and chunk.begins_piece and chunk.piece.end_of_text,
            chunk.ends_piece and chunk.piece.end_of_text,
            chunk.is_special,
        )
        for chunk in chunks
    ]
    return Task(chunks, texts, size)


class _Part:
    """Encoded tasks on their way to a file: one `.npz`, whose reader checks a CRC-32 of each array."""

    def __init__(self, tokenizer: Tokenizer, tasks: int, mask: Mask, labels: Sequence[Sequence[str]]) -> None:
        self._dtype = token_dtype(tokenizer.vocab_size)
        self._ids: dict[Split, list[NDArray[Any]]] = {split: [] for split in SPLITS}
        self._ends: dict[Split, list[int]] = {split: [] for split in SPLITS}
        self._bits: dict[Split, list[float]] = {split: [] for split in SPLITS}
        self._tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self._mask = mask
        self._learned: dict[Split, list[NDArray[np.uint8]]] = {split: [] for split in SPLITS}
        # Of each document that ends in this part, and of the one that goes on.
        self._prompts: dict[Split, list[int]] = {split: [0] for split in SPLITS}
        self._label_numbers = [{label: number for number, label in enumerate(known)} for known in labels]
        self._labels: dict[Split, list[list[int]]] = {split: [] for split in SPLITS}
        self.tally = EncodedTally(tasks)

    @property
    def size(self) -> int:
        """Characters so far."""
        return sum(self.tally.characters.values())

    def add(self, chunks: list[Chunk], encoded: Encoded) -> int:
        """Appends a task; returns the bytes of its text."""
        added = start = 0
        for chunk, length in zip(chunks, encoded.lengths, strict=True):
            split = chunk.piece.split
            self._ids[split].append(encoded.ids[start : start + length])
            self._tokens[split] += length
            start += length
            if self._mask == "prompts" and not chunk.is_learned:
                self._prompts[split][-1] += length
            if self._mask == "learned":
                self._learned[split].append(np.full(length, chunk.is_learned, np.uint8))
            if chunk.ends_piece:
                self._prompts[split].append(0)
                self._ends[split].append(self._tokens[split])
                pairs = zip(self._label_numbers, chunk.piece.labels, strict=True)
                self._labels[split].append([numbers.get(label, NO_LABEL) for numbers, label in pairs])
                self._bits[split].append(float("nan") if chunk.piece.bits is None else chunk.piece.bits)
            text = "" if chunk.is_special else chunk.text
            utf8_bytes = len(text.encode("utf-8", "surrogatepass"))
            self.tally.characters[split] += len(text)
            self.tally.utf8_bytes[split] += utf8_bytes
            added += utf8_bytes
        self.tally.tasks += 1
        self.tally.unknown += encoded.unknown
        return added

    def write(self, file: BinaryIO) -> None:
        arrays: dict[str, NDArray[Any]] = {"tally": np.frombuffer(json.dumps(asdict(self.tally)).encode(), np.uint8)}
        for split in SPLITS:
            arrays[f"{split}_ids"] = np.concatenate([np.zeros(0, self._dtype), *self._ids[split]])
            arrays[f"{split}_ends"] = np.array(self._ends[split], np.uint64)
            arrays[f"{split}_bits"] = np.array(self._bits[split], np.float64)
            if self._mask == "learned":
                arrays[f"{split}_learned"] = np.concatenate([np.zeros(0, np.uint8), *self._learned[split]])
            if self._mask == "prompts":
                arrays[f"{split}_prompts"] = np.array(self._prompts[split], np.uint32)
            if self._label_numbers:
                labels = np.array(self._labels[split], np.int16)
                arrays[f"{split}_labels"] = labels.reshape(-1, len(self._label_numbers))
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_tally(path: Path) -> EncodedTally:
    with np.load(path) as arrays:
        return EncodedTally(**json.loads(arrays["tally"].tobytes()))
