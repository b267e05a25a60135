"""What the two programs take and give: how rows are written, pieces of prompts, a group's state, tokens, scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jslm.infer.row import Row
from jslm.infer.samplers import Sampling
from jslm.model import Cache

_SHORTEST = 16
_SLOTS_STEP = 64


class Settings(NamedTuple):
    """How a row is written: a column a slot on the device, one entry of each where a row joins.

    `labels` are those of the model's conditions, -1 for none; a model without conditions has no kinds.
    """

    sampling: Sampling
    key: Key[Array, " slots"]
    wants_top: Bool[Array, " slots"]
    labels: Int[Array, "slots kinds"]


class Pieces(NamedTuple):
    """Tokens of prompts to read, padded on the right with anything: `length` of them, at positions `start` on.

    `left` is what the row may write once they are read: 0 but for a prompt's last piece. `written` is what it has
    written before (a row whose context was full is read anew). `seen` marks what the repetition penalty is for;
    `counts` says how often the continuation has each token, None for never. `targets` are the tokens that follow, for
    scores.
    """

    tokens: Int[Array, "rows length"]
    start: Int[Array, " rows"]
    length: Int[Array, " rows"]
    left: Int[Array, " rows"]
    written: Int[Array, " rows"]
    settings: Settings
    seen: Bool[Array, "rows vocab"] | None = None
    counts: Int[Array, "rows vocab"] | None = None
    targets: Int[Array, "rows length"] | None = None


class State(NamedTuple):
    """What lives on the device between dispatches, a row a slot. Slots without a row have `left` = 0.

    `seen` and `counts` are there where rows may be penalised.
    """

    cache: Cache
    logits: Float[Array, "slots vocab"]
    position: Int[Array, " slots"]
    left: Int[Array, " slots"]
    written: Int[Array, " slots"]
    seen: Bool[Array, "slots vocab"] | None
    counts: Int[Array, "slots vocab"] | None
    settings: Settings


class Written(NamedTuple):
    """Tokens with natural log-probabilities under the model's own distribution (temperature 1, no filter or penalty).

    What follows a row's end-of-text token, or its last allowed one, means nothing; the same holds for `top` where no
    row wants it, which has no columns where none may.
    """

    tokens: Int[Array, "slots dispatch"]
    logprobs: Float[Array, "slots dispatch"]
    top_tokens: Int[Array, "slots dispatch top"]
    top_logprobs: Float[Array, "slots dispatch top"]


class Scores(NamedTuple):
    """Of the token after each of a piece: `target`'s natural log-probability, and the likeliest tokens."""

    logprobs: Float[Array, "rows length"]
    top_tokens: Int[Array, "rows length top"]
    top_logprobs: Float[Array, "rows length top"]


def padded_length(tokens: int, context: int) -> int:
    """The length that prompts of up to `tokens` are padded to: few lengths, so that few programs are compiled."""
    return min(max(_SHORTEST, 1 << (tokens - 1).bit_length()), context)


def cache_slots(tokens: int, longest: int, context: int) -> int:
    """Cache places for rows that grow to `tokens`, of prompts padded to `longest`."""
    return max(min(round_slots(tokens), context), longest)


def round_slots(tokens: int) -> int:
    """Up to a multiple of 64, so that few programs are compiled."""
    return -(-tokens // _SLOTS_STEP) * _SLOTS_STEP


def piece_lengths(tokens: int, chunk: int, context: int) -> list[tuple[int, int]]:
    """(tokens, padded length) of each piece in which a prompt is read: full chunks, then a power of two."""
    pieces = []
    for start in range(0, tokens, chunk):
        length = min(chunk, tokens - start)
        pieces.append((length, min(padded_length(length, chunk), context - start)))
    return pieces


def whole_prompts(rows: Sequence[Row], length: int, settings: Settings) -> Pieces:
    """What `Programs.start` takes to read the rows' texts, each padded to `length`; without marks for penalties."""
    # A row that has ended takes part with one token, to keep the batch's shape.
    windows = [row.ids[row.start :] if row.left else row.ids[-1:] for row in rows]
    tokens = np.zeros((len(rows), length), np.int32)
    for row_tokens, window in zip(tokens, windows, strict=True):
        row_tokens[: len(window)] = window
    columns: dict[str, Any] = {
        "start": np.zeros(len(rows), np.int32),
        "length": np.array([len(window) for window in windows], np.int32),
        "left": np.array([row.left for row in rows], np.int32),
        "written": np.array([len(row.tokens) for row in rows], np.int32),
    }
    return Pieces(cast(Any, tokens), settings=settings, **columns)


def labels_of(settings: Settings) -> Int[Array, "slots kinds"] | None:
    """Each row's labels, None where the model has no conditions."""
    return settings.labels if settings.labels.shape[1] else None
