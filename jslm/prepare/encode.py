"""Text to ids, in parts on disk; the same ids for any number of workers."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from jslm.console import Bar
from jslm.errors import JslmError
from jslm.prepare.split import Piece
from jslm.prepare.tasks import Task, Workers, run_tasks
from jslm.prepare.work import WorkFolder
from jslm.prompts.pairs import Part
from jslm.tokenizer import Tokenizer, tokenizer_from_json
from jslm.tokenizer.splitting import split_before_spaces
from jslm.tokens.stretch import Stretch
from jslm.tokens.token_file import NO_LABEL, SPLITS, Split, TokenWriter, token_dtype

CHUNK_CHARACTERS = 1 << 18
# Some seconds' work, which is what a killed run loses.
PART_CHARACTERS = 1 << 24
TOKENS = "tokens"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A text that is encoded by itself, and what becomes of its tokens: what a worker is given.

    `has_start` and `has_end` say whether the tokens for the start and the end of a text go around it; with
    `is_special` the text is a special token's name. `bits` and `labels` are those of its document, which it ends where
    it `ends_document`.
    """

    text: str
    split: Split
    is_learned: bool
    is_special: bool
    has_start: bool
    has_end: bool
    ends_document: bool
    bits: float | None
    labels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of a task, of each split that occurs in it, and how many characters had no id."""

    stretches: dict[Split, Stretch]
    unknown: int


def encode_corpus(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    work: WorkFolder,
    workers: Workers,
    utf8_bytes: int,
    log: Callable[[str], None],
    split: Callable[[str], list[Part]] = lambda text: [Part(text)],
    labels: Sequence[Sequence[str]] = (),
    kind: str = TOKENS,
) -> None:
    """Encodes what no earlier run has, and leaves it in `work` as parts of `kind`; `add_parts` takes it from there.

    Long pieces are cut where no token can reach across, so the ids are those of the whole piece, or of each of the
    parts that `split` makes of it. `labels` are those of each condition. Raises JslmError as `split`, `run_tasks` and
    the disk do.
    """
    done = work.parts(kind)
    before = sum(_text_of_part(path) for path in done)
    if before:
        log(f"going on after {before / 1e6:,.1f} MB that an interrupted run has tokenised")
    n_tasks = _read_tally(done[-1])["tasks"] if done else 0
    part, number = _Part(n_tasks), len(done)
    with Bar("tokenising", utf8_bytes, "MB", before=before, scale=1e6, log=log) as bar:
        tasks = islice(_tasks(pieces, tokenizer, split, labels), n_tasks, None)
        for _, encoded in run_tasks(encode_chunks, tokenizer.to_json(), tasks, workers):
            bar.add(part.add(encoded))
            if part.characters >= PART_CHARACTERS:
                work.write(work.part(kind, number).name, part.write)
                part, number = _Part(part.tasks), number + 1
        # What is left may be special tokens alone, which are no text.
        if part.stretches:
            work.write(work.part(kind, number).name, part.write)


def add_parts(work: WorkFolder, writer: TokenWriter, kind: str = TOKENS) -> int:
    """Moves all that was encoded into `writer`; returns how many characters the tokenizer did not know."""
    unknown = 0
    for path in work.parts(kind):
        unknown += _read_tally(path)["unknown"]
        with np.load(path) as arrays:
            for split in _splits(arrays):
                writer.extend(split, Stretch.from_arrays(arrays, f"{split}_"))
    return unknown


def encode_chunks(tokenizer_json: str, chunks: list[Chunk]) -> Encoded:
    """What a worker does."""
    tokenizer = _open_tokenizer(tokenizer_json)
    dtype = token_dtype(tokenizer.vocab_size)
    start, end = np.array([tokenizer.bos_id], dtype), np.array([tokenizer.eot_id], dtype)
    special = tokenizer.special_tokens
    ordinary = ["" if chunk.is_special else chunk.text for chunk in chunks]
    found: dict[Split, list[tuple[Chunk, NDArray[Any]]]] = {}
    for chunk, ids in zip(chunks, tokenizer.encode_arrays(ordinary), strict=True):
        ids = np.array([special[chunk.text]]) if chunk.is_special else ids
        ids = np.concatenate([start] * chunk.has_start + [ids.astype(dtype)] + [end] * chunk.has_end)
        found.setdefault(chunk.split, []).append((chunk, ids))
    unknown = sum(text.count(character) for text in ordinary for character in tokenizer.unknown_characters(text))
    return Encoded({split: _stretch(encoded) for split, encoded in found.items()}, unknown)


def _stretch(encoded: Sequence[tuple[Chunk, NDArray[Any]]]) -> Stretch:
    chunks, arrays = [chunk for chunk, _ in encoded], [ids for _, ids in encoded]
    sizes = [len(ids) for ids in arrays]
    ends = np.array([chunk.ends_document for chunk in chunks])
    texts = [chunk.text for chunk in chunks if not chunk.is_special]
    return Stretch(
        ids=np.concatenate(arrays),
        ends=np.cumsum(sizes).astype(np.uint64)[ends],
        learned=np.repeat([chunk.is_learned for chunk in chunks], sizes),
        bits=np.array([np.nan if chunk.bits is None else chunk.bits for chunk in chunks])[ends],
        labels=np.array([chunk.labels for chunk in chunks], np.int16)[ends],
        characters=sum(map(len, texts)),
        utf8_bytes=sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
    )


# The same string each time: it is compared by identity first.
@functools.lru_cache(maxsize=1)
def _open_tokenizer(tokenizer_json: str) -> Tokenizer:
    return tokenizer_from_json(tokenizer_json)


def cut_text(text: str, chunk_characters: int, cuts: Literal["anywhere", "before_spaces", "nowhere"]) -> Iterator[str]:
    """Parts of at least `chunk_characters` whose ids, in a row, are those of `text`.

    `cuts` is the tokenizer's. Text with no safe place to cut is left whole.
    """
    match cuts:
        case "before_spaces":
            yield from split_before_spaces(text, chunk_characters)
        case "anywhere":
            yield from (text[at : at + chunk_characters] for at in range(0, max(1, len(text)), chunk_characters))
        case "nowhere":
            yield text


def _tasks(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    split: Callable[[str], list[Part]],
    labels: Sequence[Sequence[str]],
) -> Iterator[Task[None, list[Chunk]]]:
    """Chunks in groups of about CHUNK_CHARACTERS, so that a task is worth the trip to a worker."""
    numbers = [{label: number for number, label in enumerate(known)} for known in labels]
    chunks: list[Chunk] = []
    size = 0
    for piece in pieces:
        try:
            parts = split(piece.text)
        except JslmError as error:
            raise JslmError(f"{piece.where}: {error}" if piece.where else str(error)) from None
        found = tuple(known.get(label, NO_LABEL) for known, label in zip(numbers, piece.labels, strict=True))
        for chunk in _chunks(piece, tokenizer, parts, found):
            chunks.append(chunk)
            size += len(chunk.text)
            if size >= CHUNK_CHARACTERS:
                yield Task(None, chunks, size)
                chunks, size = [], 0
    if chunks:
        yield Task(None, chunks, size)


def _chunks(piece: Piece, tokenizer: Tokenizer, parts: list[Part], labels: tuple[int, ...]) -> Iterator[Chunk]:
    cut = [
        part._replace(text=text)
        for part in parts
        for text in ([part.text] if part.is_special else cut_text(part.text, CHUNK_CHARACTERS, tokenizer.cuts))
    ]
    has_own_start = tokenizer.adds_bos and tokenizer.bos_id != tokenizer.eot_id and not piece.continues
    for number, part in enumerate(cut):
        is_last = number == len(cut) - 1
        yield Chunk(
            text=part.text,
            split=piece.split,
            is_learned=part.is_learned,
            is_special=part.is_special,
            has_start=has_own_start and piece.end_of_text and number == 0,
            has_end=piece.end_of_text and is_last,
            ends_document=is_last,
            bits=piece.bits,
            labels=labels,
        )


class _Part:
    """Encoded tasks on their way to a file: one `.npz`, whose reader checks a CRC-32 of each array."""

    def __init__(self, tasks: int) -> None:
        """`tasks` are done before it."""
        self.tasks = tasks
        self.characters = 0
        self._unknown = 0
        self.stretches: dict[Split, list[Stretch]] = {}

    def add(self, encoded: Encoded) -> int:
        """Appends a task; returns the bytes of its text."""
        for split, stretch in encoded.stretches.items():
            self.stretches.setdefault(split, []).append(stretch)
            self.characters += stretch.characters
        self.tasks += 1
        self._unknown += encoded.unknown
        return sum(stretch.utf8_bytes for stretch in encoded.stretches.values())

    def write(self, file: BinaryIO) -> None:
        tally = json.dumps({"tasks": self.tasks, "unknown": self._unknown})
        arrays: dict[str, NDArray[Any]] = {"tally": np.frombuffer(tally.encode(), np.uint8)}
        for split, stretches in self.stretches.items():
            arrays |= Stretch.joined(stretches).to_arrays(f"{split}_")
        np.savez(file, **arrays)  # type: ignore[arg-type]


def _read_tally(path: Path) -> dict[str, int]:
    """`tasks` that are done at the end of a part, and the `unknown` characters in it."""
    with np.load(path) as arrays:
        found: dict[str, int] = json.loads(arrays["tally"].tobytes())
        return found


def _text_of_part(path: Path) -> int:
    """Bytes of the text in a part."""
    with np.load(path) as arrays:
        return sum(int(arrays[f"{split}_utf8_bytes"]) for split in _splits(arrays))


def _splits(arrays: Any) -> list[Split]:
    return [split for split in SPLITS if f"{split}_ids" in arrays]
