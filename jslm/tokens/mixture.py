"""Which sequence of which corpus comes at each place of an endless stream: computed, not stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from jslm.tokens.examples import Examples
from jslm.tokens.shuffle import epoch_draws, shuffled_order

# Order is computed a block at a time: a batch alone is too few examples to be worth numpy's overhead. Shares of a
# mixture are kept in every block, so another size is another order: never change it.
BLOCK = 4096
_SHARE_BITS = 32
_CORPUS_STRIDE = 0xA0761D6478BD642F
_INTERLEAVING = 0xE7037ED1A0B428DB


class Mixture:
    """An endless stream of sequences, drawn from corpora by weight: a pure function of (seed, position).

    The sequences of one corpus come in epochs, each in an order of its own in which every one comes exactly once. Of
    the first n sequences, n any multiple of 4,096, a corpus has its share to within one (the largest: one for each of
    the others); inside a block, which corpus comes where is shuffled.
    """

    def __init__(self, examples: Sequence[Examples], weights: Sequence[float], seed: int, shuffle: bool) -> None:
        self._examples = examples
        self._seed, self._shuffle = seed, shuffle
        # Whole numbers, so that no rounding of floats decides which sequence is seen.
        self._shares = [max(1, round(weight / sum(weights) * (1 << _SHARE_BITS))) for weight in weights]
        self._largest = int(np.argmax(weights))

    def block(self, number: int) -> Int64[np.ndarray, "3 block"]:
        """Positions number * BLOCK and on: corpus, sequence in it, and targets in its epoch's first sequence."""
        start, stop = number * BLOCK, (number + 1) * BLOCK
        if len(self._examples) == 1:
            return np.stack([np.zeros(BLOCK, np.int64), *self._corpus(0, start, stop)])
        before, after = self._seen(start), self._seen(stop)
        corpora = np.repeat(np.arange(len(before)), [b - a for a, b in zip(before, after, strict=True)])
        result = np.zeros((3, BLOCK), np.int64)
        result[0] = corpora[shuffled_order(start, stop, BLOCK, self._seed ^ _INTERLEAVING)]
        for index, (first, last) in enumerate(zip(before, after, strict=True)):
            if first < last:
                result[1:, result[0] == index] = self._corpus(index, first, last)
        return result

    def passes(self, position: int) -> list[float]:
        """Passes over each corpus completed before a position, to within 4,096 sequences."""
        return [seen / part.count for seen, part in zip(self._seen(position), self._examples, strict=True)]

    def _seen(self, positions: int) -> list[int]:
        """Sequences of each corpus among the first `positions`, a multiple of BLOCK."""
        seen = [positions * share >> _SHARE_BITS for share in self._shares]
        seen[self._largest] += positions - sum(seen)
        return seen

    def _corpus(self, index: int, start: int, stop: int) -> Int64[np.ndarray, "2 positions"]:
        """Sequences start..stop of one corpus' own stream of epochs, and their epochs' first lengths."""
        part, seed = self._examples[index], self._seed ^ index * _CORPUS_STRIDE
        positions = np.arange(start, stop)
        shortest, longest = part.first_lengths
        if not self._shuffle:
            return np.stack([positions % part.count, np.full_like(positions, longest)])
        first = shortest + epoch_draws(positions // part.count, longest - shortest + 1, seed)
        return np.stack([shuffled_order(start, stop, part.count, seed), first])
