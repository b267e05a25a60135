"""Whole documents side by side in rows of one context, none across two where it can be helped."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32, Int64

from jslm.data.token_file import TokenFile

NO_TARGET = -1


class PackedDocuments:
    """A token stream as rows of `length` inputs and targets, each row filled with whole documents.

    A document is predicted from its first token to its end-of-text token: its first input is the end-of-text token that
    stands before it. Corpora without end-of-text tokens lose each document's first target. Documents over `length`
    tokens are cut into pieces of `length`, the last one shorter. Each token is a target in exactly one row.

    Rows are the result of best-fit packing, longest first (Ding et al. 2024, "Fewer Truncations Improve Language
    Modeling"): the same for the same token file, whatever the seed. `gather` gives inputs (padding 0), targets (padding
    -1) and segments: 1, 2, ... for the documents of a row and 0 for padding.
    """

    def __init__(self, token_file: TokenFile, length: int) -> None:
        self.length = length
        # Plain views: indexing through np.memmap's subclass machinery is several times slower.
        self._tokens = np.asarray(token_file.tokens)
        offsets = np.asarray(token_file.offsets).astype(np.int64)
        skipped = 0 if token_file.meta["end_of_text"] else 1
        self._starts, self._sizes = _cut(offsets[:-1] + skipped, offsets[1:], length)
        self._pieces, self._rows = _best_fit(self._sizes, length)
        # The document at the very start has no token before it; any document's last token is the one it needs.
        self._before_all = int(self._tokens[offsets[1] - 1]) if len(offsets) > 1 and offsets[1] else 0

    @property
    def count(self) -> int:
        """Rows."""
        return len(self._rows) - 1

    @property
    def targets(self) -> int:
        """Tokens that are predicted, in all rows together."""
        return int(self._sizes.sum())

    @property
    def first_lengths(self) -> tuple[int, int]:
        """Rows don't depend on where an epoch begins."""
        return self.length, self.length

    def gather(
        self, rows: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"] | None = None
    ) -> dict[str, Int32[np.ndarray, "rows length"]]:
        """The rows of these numbers; a negative number gives an empty row. `first` is for windows, see the loader."""
        del first
        inputs = np.zeros((len(rows), self.length), np.int32)
        targets = np.full((len(rows), self.length), NO_TARGET, np.int32)
        segments = np.zeros((len(rows), self.length), np.int32)
        for index, row in enumerate(rows):
            if row < 0:
                continue
            at = 0
            for number, piece in enumerate(self._pieces[self._rows[row] : self._rows[row + 1]], 1):
                start, size = self._starts[piece], self._sizes[piece]
                end = at + size
                targets[index, at:end] = self._tokens[start : start + size]
                inputs[index, at] = self._tokens[start - 1] if start else self._before_all
                inputs[index, at + 1 : end] = targets[index, at : end - 1]
                segments[index, at:end] = number
                at = end
        return {"inputs": inputs, "targets": targets, "segments": segments}


def _cut(
    starts: Int64[np.ndarray, " documents"], ends: Int64[np.ndarray, " documents"], length: int
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " pieces"]]:
    """Starts and sizes of the pieces of documents [start, end), none over `length` and none empty."""
    sizes = np.maximum(ends - starts, 0)
    pieces = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), pieces)
    number = np.arange(len(document)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    return starts[document] + number * length, np.minimum(sizes[document] - number * length, length)


def _best_fit(
    sizes: Int64[np.ndarray, " pieces"], capacity: int
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " rows_and_end"]]:
    """Pieces in the order of their rows, and where each row begins among them, then their number."""
    row_of = np.empty(len(sizes), np.int64)
    rooms: list[int] = []  # the distinct rooms left in rows, ascending
    rows_with: dict[int, list[int]] = {}
    count = 0
    order: Sequence[int] = np.argsort(-sizes, kind="stable").tolist()
    for piece in order:
        size = int(sizes[piece])
        found = bisect.bisect_left(rooms, size)
        if found == len(rooms):
            row, room = count, capacity
            count += 1
        else:
            room = rooms[found]
            row = rows_with[room].pop()
            if not rows_with[room]:
                del rows_with[room], rooms[found]
        row_of[piece] = row
        left = room - size
        if left:
            if left not in rows_with:
                bisect.insort(rooms, left)
            rows_with.setdefault(left, []).append(row)
    pieces = np.argsort(row_of, kind="stable")
    return pieces, np.concatenate([[0], np.cumsum(np.bincount(row_of, minlength=count))]).astype(np.int64)
