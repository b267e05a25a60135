"""Log-probabilities of given tokens: sequences cut into windows, windows batched with others of like length."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jslm.errors import JslmError
from jslm.infer import LanguageModel

BATCH_TOKENS = 8192
_SHORTEST = 16
# Windows that are sorted by length together; more would only cost memory.
_LOOKAHEAD = 1024


@dataclass(frozen=True)
class Window:
    """A context's worth of a sequence, and one token more: those from `ids[first]` on are asked for, given all before.

    `ids` is `[length + 1]` with a length of the model's context at most, `first` at least 1; `owner` numbers the
    sequence that the window is of.
    """

    ids: NDArray[Any]
    first: int = 1
    owner: int = 0


class Scored(NamedTuple):
    """Natural log-probabilities of the tokens that a window asks for, and whether each was the likeliest."""

    owner: int
    logprobs: NDArray[np.float32]
    likeliest: NDArray[np.bool_]


class Span(NamedTuple):
    """Tokens [begin, end) of a sequence make a window, whose token `first` is the first one asked for."""

    begin: int
    end: int
    first: int


def start_ids(model: LanguageModel) -> list[int]:
    """What stands before a text with nothing before it: the token that begins a document, as in sampling."""
    return [model.tokenizer.bos_id] if model.ends_documents else model.neutral_start()


def cover(length: int, first: int, context: int, stride: int) -> Iterator[Span]:
    """Windows over a sequence of `length` tokens that ask for each token from `first` on exactly once.

    Each window but the first asks for `stride` tokens, the last one for what remains, and sees as many before them as
    its `context` inputs hold: between `context - stride` and `context - 1` before each token. `first` is at least 1 and
    `stride` at most `context`.
    """
    done = first
    while done < length:
        end = min(length, max(context + 1, done + stride))
        begin = max(0, end - context - 1)
        yield Span(begin, end, done - begin)
        done = end


def windows_of(ids: Sequence[int], first: int, context: int, owner: int = 0) -> Iterator[Window]:
    """The fewest windows that ask for `ids[first:]`: one, unless that is longer than the context.

    What doesn't fit before it is cut on the left, as in lm-evaluation-harness.
    """
    array = np.asarray(ids)
    for span in cover(len(array), first, context, context):
        yield Window(array[span.begin : span.end], span.first, owner)


def score_windows(
    model: LanguageModel, windows: Iterable[Window], *, batch_tokens: int = BATCH_TOKENS
) -> Iterator[Scored]:
    """The scores of windows, in no particular order; each batch has about `batch_tokens` tokens, padding included.

    Raises JslmError where a log-probability is not finite.
    """
    context = model.config.model.context_length
    remaining = iter(windows)
    while group := list(itertools.islice(remaining, _LOOKAHEAD)):
        group.sort(key=lambda window: len(window.ids))
        start = 0
        while start < len(group):
            length = padded_length(len(group[start].ids) - 1, context)
            fitting = bisect.bisect_right(group, length + 1, lo=start, key=lambda window: len(window.ids))
            rows = max(1, batch_tokens // length)
            batch = group[start : min(fitting, start + rows)]
            # Few shapes, so that few programs are compiled.
            yield from _score_batch(model, batch, min(rows, 1 << (len(batch) - 1).bit_length()), length)
            start += len(batch)


def padded_length(length: int, context: int) -> int:
    """The length that windows of `length` inputs are padded to: 16, 24, 32, 48, 64, ... or the context."""
    size = _SHORTEST
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return min(size, context)


def _score_batch(model: LanguageModel, batch: Sequence[Window], rows: int, length: int) -> Iterator[Scored]:
    tokens = np.zeros((rows, length + 1), np.int32)
    for index, window in enumerate(batch):
        tokens[index, : len(window.ids)] = window.ids
    logprobs, likeliest = map(np.asarray, model.programs.score(tokens[:, :-1], tokens[:, 1:]))
    for row, window in enumerate(batch):
        asked = slice(window.first - 1, len(window.ids) - 1)
        if not np.all(np.isfinite(logprobs[row, asked])):
            raise JslmError(
                "the model's logits are not finite; its training has diverged, or model.dtype is too narrow: "
                "try another checkpoint, or model.dtype=float32"
            )
        yield Scored(window.owner, logprobs[row, asked], likeliest[row, asked])
