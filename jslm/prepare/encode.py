"""Text to ids in worker processes; the same ids for any number of them."""

from __future__ import annotations

import os
import re
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from jslm.data.token_file import Split, token_dtype
from jslm.errors import JslmError
from jslm.prepare.split import Piece
from jslm.tokenizer import Tokenizer, load_tokenizer

CHUNK_CHARACTERS = 1 << 18
# Starting processes costs about what tokenising this much does.
MIN_PARALLEL_CHARACTERS = 2_000_000
# GPT-2's pre-tokens take white space in front of a word, never behind it: nothing reaches across these places.
_SAFE_CUT = re.compile(r"\S(?=[ \n])")


@dataclass(frozen=True, slots=True)
class EncodedChunk:
    """Ids of a whole piece or of a part of it; the last part has `ends_piece` and carries the piece's `bits`."""

    ids: NDArray[Any]
    text: str
    split: Split
    ends_piece: bool
    bits: float | None


def encode_pieces(
    pieces: Iterable[Piece], tokenizer: Tokenizer, tokenizer_path: Path, workers: int
) -> Iterator[EncodedChunk]:
    """Encodes pieces in order, in `workers` processes (1: in this one), holding a few chunks a process at a time.

    Long pieces are cut where no token can reach across, so the ids are those of the whole piece. The processes load
    the tokenizer from `tokenizer_path`. Raises JslmError where one of them dies.
    """
    tasks = _tasks(pieces, tokenizer)
    if workers <= 1:
        for task in tasks:
            yield from _finish(task, encode_texts(tokenizer, [chunk.text for chunk in task]), tokenizer)
        return
    # Not fork: JAX's threads may hold locks at this moment. Windows and macOS have spawn alone.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (str(tokenizer_path),))
    waiting: deque[tuple[list[_Chunk], Future[list[NDArray[Any]]]]] = deque()
    try:
        for task in tasks:
            waiting.append((task, pool.submit(_encode_in_worker, [chunk.text for chunk in task])))
            if len(waiting) > 2 * workers:
                done, future = waiting.popleft()
                yield from _finish(done, future.result(), tokenizer)
        while waiting:
            done, future = waiting.popleft()
            yield from _finish(done, future.result(), tokenizer)
    except BrokenProcessPool:
        raise JslmError(
            "a tokenising process died (out of memory, or prepare was called from a script without "
            "if __name__ == '__main__'); try prepare.workers=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def encode_texts(tokenizer: Tokenizer, texts: list[str]) -> list[NDArray[Any]]:
    """Ids of each text [n], in the token files' type."""
    dtype = token_dtype(tokenizer.vocab_size)
    return [np.asarray(ids, dtype) for ids in tokenizer.encode_batch(texts)]


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


@dataclass(frozen=True, slots=True)
class _Chunk:
    text: str
    piece: Piece
    begins_piece: bool
    ends_piece: bool


def _tasks(pieces: Iterable[Piece], tokenizer: Tokenizer) -> Iterator[list[_Chunk]]:
    """Chunks in groups of about CHUNK_CHARACTERS, so that a task is worth the trip to a worker."""
    task: list[_Chunk] = []
    size = 0
    for piece in pieces:
        left = len(piece.text)
        for part in cut_text(piece.text, CHUNK_CHARACTERS, tokenizer.cuts):
            begins = left == len(piece.text)
            left -= len(part)
            task.append(_Chunk(part, piece, begins, left == 0))
            size += len(part)
            if size >= CHUNK_CHARACTERS:
                yield task
                task, size = [], 0
    if task:
        yield task


def _finish(task: list[_Chunk], arrays: list[NDArray[Any]], tokenizer: Tokenizer) -> Iterator[EncodedChunk]:
    has_own_start = tokenizer.adds_bos and tokenizer.bos_id != tokenizer.eot_id
    for chunk, ids in zip(task, arrays, strict=True):
        if chunk.begins_piece and chunk.piece.end_of_text and has_own_start:
            ids = np.insert(ids, 0, tokenizer.bos_id)
        if chunk.ends_piece and chunk.piece.end_of_text:
            ids = np.append(ids, np.asarray([tokenizer.eot_id], ids.dtype))
        bits = chunk.piece.bits if chunk.ends_piece else None
        yield EncodedChunk(ids, chunk.text, chunk.piece.split, chunk.ends_piece, bits)


_encode: Callable[[list[str]], list[NDArray[Any]]]


def _start_worker(tokenizer_path: str) -> None:
    global _encode
    # Ctrl-C reaches the whole process group: only the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One process a core already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = load_tokenizer(tokenizer_path)

    def encode(texts: list[str]) -> list[NDArray[Any]]:
        return encode_texts(tokenizer, texts)

    _encode = encode


def _encode_in_worker(texts: list[str]) -> list[NDArray[Any]]:
    return _encode(texts)
