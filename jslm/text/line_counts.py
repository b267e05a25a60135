"""How often each line of a corpus occurs, in 16 bytes a distinct line, 80 while they are sorted."""

from __future__ import annotations

from array import array
from collections import Counter
from hashlib import blake2b

import numpy as np
from jaxtyping import UInt32, UInt64

_SMALLEST_MERGE = 1 << 16


class LineCounts:
    """Documents that each line occurs in, and its occurrences in all of them, by 64-bit hashes of normalised lines.

    Two different lines of 10**8 share a hash with a probability of 0.0003. The counts don't depend on the order of the
    documents, so parts of a corpus can be counted in any number of processes and merged.
    """

    def __init__(self, min_characters: int) -> None:
        """Lines under `min_characters`, normalised, are not counted; blank ones never are."""
        self.min_characters = min_characters
        self._hashes: UInt64[np.ndarray, " lines"] = np.zeros(0, np.uint64)
        self._documents: UInt32[np.ndarray, " lines"] = np.zeros(0, np.uint32)
        self._occurrences: UInt32[np.ndarray, " lines"] = np.zeros(0, np.uint32)
        # Not tuples, which take ten times the memory; a line of each document is pending once.
        self._pending_hashes = array("Q")
        self._pending_occurrences = array("I")

    def add(self, text: str) -> None:
        """Counts a document's lines."""
        lines = Counter(
            number for line in text.split("\n") if (number := line_hash(line, self.min_characters)) is not None
        )
        self._pending_hashes.extend(lines.keys())
        self._pending_occurrences.extend(lines.values())
        # Merging costs the length of both: a share of what is there keeps the sum of all merges near-linear.
        if len(self._pending_hashes) > max(_SMALLEST_MERGE, len(self._hashes) // 4):
            self._settle()

    def merge(self, other: LineCounts) -> None:
        """Adds the counts of other documents; raises ValueError where the two leave out different lines."""
        if self.min_characters != other.min_characters:
            raise ValueError(f"lines from {self.min_characters} and from {other.min_characters} characters on")
        self._settle()
        other._settle()
        self._absorb(other._hashes, other._documents, other._occurrences)

    def __len__(self) -> int:
        """Distinct lines."""
        self._settle()
        return len(self._hashes)

    def frequent(self, max_documents: int, max_occurrences: int) -> frozenset[int]:
        """Hashes of lines in more than `max_documents` documents, or that occur more than `max_occurrences` times.

        0 is no limit.
        """
        self._settle()
        over = np.zeros(len(self._hashes), bool)
        if max_documents:
            over |= self._documents > max_documents
        if max_occurrences:
            over |= self._occurrences > max_occurrences
        return frozenset(self._hashes[over].tolist())

    def _settle(self) -> None:
        if self._pending_hashes:
            hashes = np.array(self._pending_hashes, np.uint64)
            occurrences = np.array(self._pending_occurrences, np.uint32)
            self._pending_hashes, self._pending_occurrences = array("Q"), array("I")
            self._absorb(hashes, np.ones(len(hashes), np.uint32), occurrences)

    def _absorb(
        self,
        hashes: UInt64[np.ndarray, " more"],
        documents: UInt32[np.ndarray, " more"],
        occurrences: UInt32[np.ndarray, " more"],
    ) -> None:
        every = np.concatenate([self._hashes, hashes])
        order = np.argsort(every, kind="stable")
        every = every[order]
        starts = np.flatnonzero(np.concatenate([[True], every[1:] != every[:-1]])) if len(every) else order
        self._hashes = every[starts]
        for name, more in (("_documents", documents), ("_occurrences", occurrences)):
            values = np.concatenate([getattr(self, name), more])[order]
            setattr(self, name, np.add.reduceat(values, starts) if len(values) else values)


def line_hash(line: str, min_characters: int) -> int | None:
    """64-bit hash of a line, the same whatever its case and white space; None for a line that is blank or too short."""
    normalized = " ".join(line.split()).lower()
    if not normalized or len(normalized) < min_characters:
        return None
    # A lone surrogate, which a JSON file may hold, has no UTF-8 form of its own.
    return int.from_bytes(blake2b(normalized.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
