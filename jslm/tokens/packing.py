"""Whole documents side by side in rows of one context, none across two where it can be helped."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int32, Int64

from jslm.config import ConditionConfig
from jslm.tokens.example_tokens import ExampleTokens
from jslm.tokens.labels import condition_name, labels_of
from jslm.tokens.token_file import NO_LABEL, TokenFile

log = logging.getLogger("jslm")

NO_TARGET = -1


class PackedDocuments:
    """A token stream as rows of `length` inputs and targets, each row filled with whole documents.

    A document is predicted from its first token to its end-of-text token: its first input is the end-of-text token that
    stands before it. Corpora without end-of-text tokens lose each document's first target. Documents over `length`
    tokens are cut into pieces of `length`, the last one shorter. With `conditions`, each token has its document's
    labels. Each token is a target in exactly one row, save those of prompts, and in conversations all but what
    assistants say (see `token_file`), which are inputs only.

    Rows are the result of best-fit packing, longest first (Ding et al. 2024, "Fewer Truncations Improve Language
    Modeling"): the same for the same token file, whatever the seed. `gather` gives inputs (padding 0), targets (padding
    -1) and segments: 1, 2, ... for the documents of a row and 0 for padding.
    """

    def __init__(self, token_file: TokenFile, length: int, conditions: Sequence[ConditionConfig] = ()) -> None:
        self.length = length
        # Plain views: indexing through np.memmap's subclass machinery is several times slower.
        self._tokens = np.asarray(token_file.tokens)
        offsets = np.asarray(token_file.offsets).astype(np.int64)
        skipped = 0 if token_file.meta["end_of_text"] else 1
        starts, sizes, documents = _cut(offsets[:-1] + skipped, offsets[1:], length)
        pieces, self._rows = _best_fit(sizes, length)
        self._starts, self._sizes = starts[pieces], sizes[pieces]
        self._masked = None
        if token_file.prompts is not None:
            prompt_ends = offsets[:-1] + token_file.prompts
            self._masked = np.clip(prompt_ends[documents] - starts, 0, sizes)[pieces]
            _warn_of_cut_pairs(token_file.path, np.diff(offsets) - skipped, length)
        self._learned = None if token_file.learned is None else np.asarray(token_file.learned)
        if self._learned is not None:
            _warn_of_cut_pairs(token_file.path, np.diff(offsets) - skipped, length, "conversations")
        self._labels = {
            condition_name(condition): labels_of(token_file, condition)[documents][pieces] for condition in conditions
        }
        # The document at the very start has no token before it; any document's last token is the one it needs.
        self._before_all = int(self._tokens[offsets[1] - 1]) if len(offsets) > 1 and offsets[1] else 0

    @property
    def count(self) -> int:
        """Rows."""
        return len(self._rows) - 1

    @property
    def targets(self) -> int:
        """Tokens that are predicted, in all rows together."""
        if self._learned is not None:
            return int(np.count_nonzero(self._learned))
        return int(self._sizes.sum()) - (0 if self._masked is None else int(self._masked.sum()))

    @property
    def tokens(self) -> ExampleTokens:
        """What a row holds on average."""
        return ExampleTokens(self.length, float(self._sizes.sum()) / self.count, self.targets / self.count)

    @property
    def first_lengths(self) -> tuple[int, int]:
        """Rows don't depend on where an epoch begins."""
        return self.length, self.length

    def gather(
        self, rows: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"] | None = None
    ) -> dict[str, Int32[np.ndarray, "rows length"]]:
        """The rows of these numbers; a negative number gives an empty row. `first` is for windows, see the loader."""
        del first
        shape = (len(rows), self.length)
        inputs, targets = np.zeros(shape, np.int32), np.full(shape, NO_TARGET, np.int32)
        segments = np.zeros(shape, np.int32)
        # Every piece of every row at once: `piece` [pieces], then its tokens `source` -> `place` [tokens].
        present = np.flatnonzero(rows >= 0)
        begins, ends = self._rows[rows[present]], self._rows[rows[present] + 1]
        pieces_before = np.cumsum(ends - begins) - (ends - begins)
        number = _count_up(ends - begins)
        piece = np.repeat(begins, ends - begins) + number
        sizes = self._sizes[piece]
        inside = _count_up(sizes)
        source = np.repeat(self._starts[piece], sizes) + inside
        tokens_before = np.cumsum(sizes) - sizes
        at = tokens_before - np.repeat(tokens_before[pieces_before], ends - begins)
        place = np.repeat(np.repeat(present, ends - begins) * self.length + at, sizes) + inside
        # A target that stands first in the file has no token before it: source - 1 would be the file's last.
        inputs.ravel()[place] = np.where(source > 0, self._tokens[source - 1], self._before_all)
        kept: slice | Bool[np.ndarray, " tokens"] = slice(None)
        if self._masked is not None:
            kept = inside >= np.repeat(self._masked[piece], sizes)
        elif self._learned is not None:
            kept = self._learned[source] > 0
        targets.ravel()[place[kept]] = self._tokens[source[kept]]
        segments.ravel()[place] = np.repeat(number + 1, sizes)
        batch = {"inputs": inputs, "targets": targets, "segments": segments}
        for name, labels in self._labels.items():
            batch[name] = np.full(shape, NO_LABEL, np.int32)
            batch[name].ravel()[place] = np.repeat(labels[piece], sizes)
        return batch


def _warn_of_cut_pairs(path: Path, sizes: Int64[np.ndarray, " documents"], length: int, what: str = "pairs") -> None:
    cut = int(np.count_nonzero(sizes > length))
    if cut:
        log.warning(
            "%s: %s of %s %s are over one context of %s tokens and are cut: the end of their completions is learned "
            "without the prompt (raise model.context_length or drop them)",
            path,
            f"{cut:,}",
            f"{len(sizes):,}",
            what,
            f"{length:,}",
        )


def _count_up(sizes: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " total"]:
    """0, 1, ... size - 1 for each size."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _cut(
    starts: Int64[np.ndarray, " documents"], ends: Int64[np.ndarray, " documents"], length: int
) -> tuple[Int64[np.ndarray, " pieces"], Int64[np.ndarray, " pieces"], Int64[np.ndarray, " pieces"]]:
    """Starts, sizes and documents of the pieces of documents [start, end), none over `length` and none empty."""
    sizes = np.maximum(ends - starts, 0)
    pieces = -(-sizes // length)
    document = np.repeat(np.arange(len(sizes)), pieces)
    number = _count_up(pieces)
    return starts[document] + number * length, np.minimum(sizes[document] - number * length, length), document


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
