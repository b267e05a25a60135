"""The longest stretch of each sample that stands in the training data word for word, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from jslm.tokens.shuffle import mix

_BLOCK = 1 << 20
_FILTER_BITS = 20
# A large odd multiplier spreads neighbouring ids over all 64 bits.
_BASE = np.uint64(0x9E3779B97F4A7C15)
_EXTENSIONS = 1 << 22

Hashes = NDArray[np.uint64]


class Copy(NamedTuple):
    """Tokens [start, start + length) of a sample occur in the training data; length 0: nothing of the least length."""

    start: int
    length: int


def longest_copies(
    samples: Sequence[Sequence[int]], training: NDArray[np.integer], *, least: int = 8, block: int = _BLOCK
) -> list[Copy]:
    """The longest run of tokens of each sample that occurs in `training` (a token file may stay mapped), exactly.

    Runs under `least` tokens count as none. Passes over the training data look for runs of 1, 2, 4, ... times `least`
    tokens by rolling hash (Karp and Rabin 1987) until no sample has one; a last one extends the longest found token by
    token, so that no collision of hashes reaches the result. Memory is that of a block and of the samples, whatever
    the size of `training`.
    """
    texts = [np.asarray(sample, np.int64) for sample in samples]
    reached = np.zeros(len(texts), np.int64)
    length = least
    while candidates := [index for index, text in enumerate(texts) if len(text) >= length]:
        # One that has no run of half the length has none of the whole.
        candidates = [index for index in candidates if length == least or reached[index] == length // 2]
        grams = _Grams([texts[index] for index in candidates], length)
        found = np.zeros(len(candidates), bool)
        for _, hashes in _rolling(training, length, block):
            found[np.unique(grams.owners(hashes[grams.among(hashes)]))] = True
            if found.all():
                break
        if not found.any():
            break
        reached[np.array(candidates)[found]] = length
        length *= 2
    best = [Copy(0, 0)] * len(texts)
    for rung in np.unique(reached[reached > 0]).tolist():
        chosen = np.flatnonzero(reached == rung).tolist()
        for index, copy in zip(chosen, _extended([texts[i] for i in chosen], training, rung, block), strict=True):
            best[index] = copy
    return best


class _Grams:
    """All runs of one length in some texts, sorted by hash: whose they are, and where."""

    def __init__(self, texts: Sequence[NDArray[np.int64]], length: int) -> None:
        hashes = [_hashes(text, length) for text in texts]
        joined = np.concatenate([*hashes, np.zeros(0, np.uint64)])
        order = np.argsort(joined, kind="stable")
        self.sorted = joined[order]
        self.text = np.repeat(np.arange(len(texts)), [len(h) for h in hashes])[order]
        self.place = np.concatenate([*(np.arange(len(h)) for h in hashes), np.zeros(0, np.int64)])[order]
        # Most of the training data is told apart by a table that fits in the cache.
        self._filter = np.zeros(1 << _FILTER_BITS, bool)
        self._filter[self.sorted >> np.uint64(64 - _FILTER_BITS)] = True

    def among(self, hashes: Hashes) -> NDArray[np.int64]:
        """Which of the hashes are of a run in the texts."""
        likely = np.flatnonzero(self._filter[hashes >> np.uint64(64 - _FILTER_BITS)])
        if not len(self.sorted):
            return likely
        at = np.searchsorted(self.sorted, hashes[likely])
        return likely[self.sorted[np.minimum(at, len(self.sorted) - 1)] == hashes[likely]]

    def ranges(self, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where each hash begins and ends in the sorted order."""
        return np.searchsorted(self.sorted, hashes), np.searchsorted(self.sorted, hashes, side="right")

    def owners(self, hashes: Hashes) -> NDArray[np.int64]:
        """The texts that have a run with one of the hashes."""
        starts, ends = self.ranges(np.unique(hashes))
        return self.text[_expand(starts, ends)]


def _extended(
    texts: Sequence[NDArray[np.int64]], training: NDArray[np.integer], rung: int, block: int
) -> Iterator[Copy]:
    """The longest runs of texts whose longest one is known to be of `rung` to 2 * rung - 1 tokens."""
    grams = _Grams(texts, rung)
    best = np.zeros((len(texts), 2), np.int64)
    # -1 and -2 equal nothing, so that no run goes past an end.
    padded = [np.concatenate([text, np.full(2 * rung, -1)]) for text in texts]
    offsets = np.cumsum([0, *(len(text) for text in padded)])
    joined = np.concatenate(padded)
    steps = np.arange(2 * rung)
    for first, hashes in _rolling(training, rung, block):
        places = grams.among(hashes)
        starts, ends = grams.ranges(hashes[places])
        end = first + len(hashes) + 2 * rung
        there = np.concatenate([training[first:end].astype(np.int64), np.full(3 * rung, -2)])
        # Common runs occur in many places of both: pairs of them are taken a bounded number at a time.
        step = max(1, _EXTENSIONS // (2 * rung * max(1, int((ends - starts).max(initial=1)))))
        for at in range(0, len(places), step):
            chosen = slice(at, at + step)
            entries = _expand(starts[chosen], ends[chosen])
            sources = np.repeat(places[chosen], (ends - starts)[chosen])
            owner, place = grams.text[entries], grams.place[entries]
            same = joined[(offsets[owner] + place)[:, None] + steps] == there[sources[:, None] + steps]
            lengths = np.logical_and.accumulate(same, axis=1).sum(axis=1)
            # Ascending, so that of several assignments to one text the last stays: the longest, and of those the first.
            order = np.lexsort((-place, lengths))
            owner, place, lengths = owner[order], place[order], lengths[order]
            start, longest = best[owner].T
            better = (lengths > longest) | ((lengths == longest) & (place < start))
            best[owner[better]] = np.stack([place[better], lengths[better]], axis=1)
    return (Copy(start, length) for start, length in best.tolist())


def _expand(starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """All numbers of the ranges, one range after the other."""
    sizes = ends - starts
    return np.arange(int(sizes.sum())) + np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)


def _rolling(tokens: NDArray[np.integer], length: int, block: int) -> Iterator[tuple[int, Hashes]]:
    """(place of the first, hashes) of all runs of `length`, a block at a time."""
    for first in range(0, len(tokens) - length + 1, block):
        yield first, _hashes(tokens[first : first + block + length - 1], length)


def _hashes(tokens: NDArray[np.integer], length: int) -> Hashes:
    """A hash of each run of `length` tokens, modulo 2**64; equal runs have equal ones wherever they stand."""
    count = len(tokens) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    # Doubling: the hash of a run is that of its first half, shifted, and that of its second.
    values = mix(np.asarray(tokens).astype(np.uint64) + np.uint64(1))
    total, done = np.zeros(len(values), np.uint64), 0
    power, size = values, 1
    while True:
        if length & size:
            shifted = power[done : done + len(total)]
            total = total[: len(shifted)] * _pow(size) + shifted if done else power
            done += size
        if 2 * size > length:
            return mix(total[:count])
        power = power[: len(power) - size] * _pow(size) + power[size:]
        size *= 2


def _pow(exponent: int) -> np.uint64:
    return np.uint64(pow(int(_BASE), exponent, 1 << 64))
