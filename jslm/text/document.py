"""A text on its way from a file to tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it came from; `bits` is its information content where a generator knows it.

    `source` is its file, with the member's name inside an archive; `where` is the place of a record there, as in
    `a.jsonl:3`, `a.zip:b.csv:7` or `a.parquet (row 2)`. `labels` are those of `data.conditions`, in their order (empty:
    none). `rejected` is the answer that `data.rejected` names. `removed` says how many characters each cleaner took
    out, by what they were, and `gutted` which share those took that took over half.
    """

    text: str
    source: str
    bits: float | None = None
    removed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    gutted: Mapping[str, float] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    rejected: str | None = None
    where: str = ""

    @property
    def place(self) -> str:
        """Where it is from, for messages: with the line or row of a record."""
        return self.where or self.source
