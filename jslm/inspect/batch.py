"""A batch explained: which of its tokens are text, which are never a loss, which only fill up, and whose they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import numpy as np
from jaxtyping import Int32

from jslm.inspect.facts import SplitFacts
from jslm.tokens.loader import Batch, Packing, TrainLoader
from jslm.tokens.packing import NO_TARGET

Kind = Literal["text", "masked", "padding"]


@dataclass(frozen=True, slots=True)
class Place:
    """One position of a row: its token, the token to predict there (None: no loss), and its document (0: none)."""

    position: int
    token: int
    target: int | None
    segment: int
    kind: Kind


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """Rows of the batch at `step`, and whether documents are kept apart in them."""

    packing: Packing
    step: int
    context_length: int
    rows: list[list[Place]]


def show_batch(
    facts: SplitFacts, packing: Packing, *, context_length: int, rows: int, seed: int = 0, step: int = 0
) -> ShownBatch:
    """The batch of `rows` rows that training with this seed gets at `step`, from the loader itself.

    Raises JslmError as `TrainLoader` does: fewer than 2 tokens.
    """
    loader = TrainLoader(facts.file, context_length=context_length, batch_size=rows, seed=seed, packing=packing)
    return ShownBatch(packing, step, context_length, explain_batch(loader.batch_at(step)))


def explain_batch(batch: Batch) -> list[list[Place]]:
    """The places of each row. `text` is predicted from, `masked` is only seen, `padding` is neither."""
    segments = batch.get("segments")
    return [
        _explain_row(inputs, targets, None if segments is None else segments[row])
        for row, (inputs, targets) in enumerate(zip(batch["inputs"], batch["targets"], strict=True))
    ]


def runs(row: list[Place]) -> Iterator[list[Place]]:
    """The row in stretches of one kind and one document."""
    for _, places in groupby(row, key=lambda place: (place.kind, place.segment)):
        yield list(places)


def _explain_row(
    inputs: Int32[np.ndarray, " length"],
    targets: Int32[np.ndarray, " length"],
    segments: Int32[np.ndarray, " length"] | None,
) -> list[Place]:
    # Windows don't mark their padding: it is what stands at the end, id 0, without a target.
    fills = (targets == NO_TARGET) & (inputs == 0 if segments is None else segments == 0)
    words = np.flatnonzero(~fills)
    end = int(words[-1]) + 1 if len(words) else 0
    places = []
    for position, (token, target) in enumerate(zip(inputs.tolist(), targets.tolist(), strict=True)):
        is_padding = position >= end if segments is None else bool(segments[position] == 0)
        kind: Kind = "padding" if is_padding else "masked" if target == NO_TARGET else "text"
        segment = 0 if segments is None else int(segments[position])
        places.append(Place(position, token, None if target == NO_TARGET else target, segment, kind))
    return places
