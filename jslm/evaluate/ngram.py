"""A byte n-gram with interpolated Kneser-Ney smoothing: what counting alone makes of a text.

Kneser and Ney 1995, interpolated as in Chen and Goodman 1999, section 4.1.6, one discount an order. It knows nothing
past four bytes, so a model that does no better has learned nothing that counting would not give.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer
from numpy.typing import NDArray

ORDER = 5
BYTES = 256
# The symbol after the bytes, for texts of several documents.
DOCUMENT_END = BYTES
# Of an order whose counts of one and two can't say.
_DISCOUNT = 0.5
_BLOCK = 1 << 20


@dataclass(frozen=True)
class _Table:
    """One order: its n-grams as sorted numbers in base `alphabet`, their counts, and the contexts that begin them."""

    grams: NDArray[np.int64]
    counts: NDArray[np.int64]
    contexts: NDArray[np.int64]
    totals: NDArray[np.int64]
    kinds: NDArray[np.int64]
    discount: float


class Ngram:
    """Counts of a text, which give the probability of each symbol after up to `order - 1` others."""

    def __init__(self, symbols: Integer[np.ndarray, " length"], *, alphabet: int = BYTES, order: int = ORDER) -> None:
        """Counts `symbols`, numbers from 0 up to `alphabet`. About 40 bytes of memory a symbol while it does.

        The highest order has how often an n-gram comes, each lower one how many different symbols come before it, from
        the n-grams of one symbol more. The discount of an order is n1 / (n1 + 2 n2), of the n-grams with counts of one
        and two; a half where there are none of either. What no count says is left to the order below, and by the first
        order to all symbols alike. Raises ValueError where n-grams don't fit in 63 bits.
        """
        if alphabet**order >= 1 << 63:
            raise ValueError(f"{order} symbols of {alphabet} don't fit in 63 bits")
        self.alphabet, self.order = alphabet, order
        tables: list[_Table] = []
        grams, counts = np.unique(numbers(symbols, order, alphabet), return_counts=True)
        for size in range(order, 0, -1):
            tables.append(_table(grams, counts.astype(np.int64), alphabet))
            grams, counts = np.unique(grams % alphabet ** (size - 1), return_counts=True)
        self._tables = tables[::-1]

    def probabilities(self, grams: Int64[np.ndarray, " n"], size: int) -> Float64[np.ndarray, " n"]:
        """The probability of each n-gram's last symbol after the others; `grams` are numbers of `size` symbols (1 to
        the order) in base `alphabet`, the first symbol the most significant."""
        found = np.full(len(grams), 1 / self.alphabet)
        for number, table in enumerate(self._tables[:size], start=1):
            if not len(table.grams):
                continue
            suffixes = grams % self.alphabet**number
            counts = _looked_up(table.grams, table.counts, suffixes)
            place = _places(table.contexts, before := suffixes // self.alphabet)
            known = table.contexts[place] == before
            total = np.where(known, table.totals[place], 1)
            left = np.where(known, table.discount * table.kinds[place] / total, 1.0)
            found = np.maximum(counts - table.discount, 0.0) / total + left * found
        return found

    def bits(
        self, symbols: Integer[np.ndarray, " length"], counted: Bool[np.ndarray, " length"] | None = None
    ) -> float:
        """Bits to code `symbols`, each after those before it; with `counted`, those alone where it is true."""
        total = 0.0
        for place in range(min(self.order - 1, len(symbols))):
            if counted is None or counted[place]:
                gram = numbers(symbols[: place + 1], place + 1, self.alphabet)
                total -= float(np.log2(self.probabilities(gram, place + 1)[0]))
        grams = numbers(symbols, self.order, self.alphabet)
        different, times = np.unique(grams if counted is None else grams[counted[self.order - 1 :]], return_counts=True)
        for start in range(0, len(different), _BLOCK):
            block = slice(start, start + _BLOCK)
            total -= float(times[block] @ np.log2(self.probabilities(different[block], self.order)))
        return total


def numbers(symbols: Integer[np.ndarray, " length"], size: int, alphabet: int) -> Int64[np.ndarray, " n"]:
    """Each run of `size` symbols as a number in base `alphabet`, the first symbol the most significant."""
    count = max(0, len(symbols) - size + 1)
    found = np.zeros(count, np.int64)
    for place in range(size):
        found *= alphabet
        found += symbols[place : place + count]
    return found


def _table(grams: NDArray[np.int64], counts: NDArray[np.int64], alphabet: int) -> _Table:
    once, twice = (int(np.count_nonzero(counts == number)) for number in (1, 2))
    discount = once / (once + 2 * twice) if once and twice else _DISCOUNT
    before = grams // alphabet
    starts = np.flatnonzero(np.diff(before, prepend=-1))
    kinds = np.diff(starts, append=len(grams))
    totals = np.add.reduceat(counts, starts) if len(grams) else counts
    return _Table(grams, counts, before[starts], totals, kinds, discount)


def _places(table: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.intp]:
    return np.minimum(np.searchsorted(table, wanted), len(table) - 1)


def _looked_up(table: NDArray[np.int64], values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    place = _places(table, wanted)
    return np.where(table[place] == wanted, values[place], 0)
