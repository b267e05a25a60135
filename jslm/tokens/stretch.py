"""Tokens between their encoding and a token file: one form for plain text, pairs, conversations and preferences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from jaxtyping import Bool, Float64, Int, Int16, UInt64


@dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive tokens of one split, and what is known of the documents that end among them.

    `ends` says after how many of the tokens each document ends: what stands before the first end belongs to the
    document under way, what follows the last begins another one. `learned` is false of tokens that are only read.
    `bits` is a document's information content (NaN: not known), `labels` the numbers of its labels (-1: none).
    `characters` and `utf8_bytes` count the text.
    """

    ids: Int[np.ndarray, " tokens"]
    ends: UInt64[np.ndarray, " documents"]
    learned: Bool[np.ndarray, " tokens"]
    bits: Float64[np.ndarray, " documents"]
    labels: Int16[np.ndarray, "documents conditions"]
    characters: int
    utf8_bytes: int

    @classmethod
    def joined(cls, stretches: Sequence[Self]) -> Self:
        """Stretches (at least one) that follow each other, as one."""
        before = np.cumsum([0, *(len(stretch.ids) for stretch in stretches)]).astype(np.uint64)
        return cls(
            ids=np.concatenate([stretch.ids for stretch in stretches]),
            ends=np.concatenate([stretch.ends + start for stretch, start in zip(stretches, before, strict=False)]),
            learned=np.concatenate([stretch.learned for stretch in stretches]),
            bits=np.concatenate([stretch.bits for stretch in stretches]),
            labels=np.concatenate([stretch.labels for stretch in stretches]),
            characters=sum(stretch.characters for stretch in stretches),
            utf8_bytes=sum(stretch.utf8_bytes for stretch in stretches),
        )

    def to_arrays(self, prefix: str) -> dict[str, Any]:
        """Its columns by name, each behind `prefix`, as `numpy.savez` takes them."""
        return {prefix + column.name: np.asarray(getattr(self, column.name)) for column in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Any, prefix: str) -> Self:
        """What `to_arrays` made these of: a mapping, or what `numpy.load` gives."""
        columns: dict[str, Any] = {column.name: arrays[prefix + column.name] for column in fields(cls)}
        return cls(**{**columns, "characters": int(columns["characters"]), "utf8_bytes": int(columns["utf8_bytes"])})
