"""A pseudo-random permutation that is computed, not stored: any part of any epoch's order, in constant memory."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# Even, so that the two halves of a Feistel network end with the widths they began with.
ROUNDS = 8
_EPOCH_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_ROUND_STRIDE = np.uint64(0xD1B54A32D192ED03)


def shuffled_order(start: int, stop: int, size: int, seed: int) -> NDArray[np.int64]:
    """Examples at positions start..stop of the endless stream of shuffled epochs over `size` examples: [stop - start].

    Position p is in epoch p // size; inside an epoch each example comes exactly once, and each epoch and seed has its
    own order. A Feistel network over the next power of two with cycle walking (Black and Rogaway 2002, "Ciphers with
    arbitrary finite domains"), its round function SplitMix64's mixer (Steele, Lea and Flood 2014).
    """
    positions = np.arange(start, stop, dtype=np.int64)
    if size == 1:
        return np.zeros_like(positions)
    epochs, values = (part.astype(np.uint64) for part in np.divmod(positions, size))
    keys = mix(mix(np.array([seed & (1 << 64) - 1], np.uint64)) + epochs * _EPOCH_STRIDE)
    bits = max(2, (size - 1).bit_length())
    order = _feistel(values, keys, bits)
    # Walk each value that fell outside along its cycle until it is inside: the result stays a permutation.
    while (outside := np.flatnonzero(order >= size)).size:
        order[outside] = _feistel(order[outside], keys[outside], bits)
    return order.astype(np.int64)


def epoch_draws(epochs: NDArray[np.int64], choices: int, seed: int) -> NDArray[np.int64]:
    """A number under `choices` for each epoch, by the seed: [n] -> [n]."""
    keys = mix(mix(np.array([~seed & (1 << 64) - 1], np.uint64)) + epochs.astype(np.uint64) * _EPOCH_STRIDE)
    return (keys % np.uint64(choices)).astype(np.int64)


def _feistel(values: NDArray[np.uint64], keys: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
    """A permutation of 0..2**bits for each key: values, keys [n] -> [n]."""
    widths = (bits // 2, bits - bits // 2)
    left, right = values >> np.uint64(widths[1]), values & np.uint64((1 << widths[1]) - 1)
    for number in range(ROUNDS):
        mask = np.uint64((1 << widths[number % 2]) - 1)
        scrambled = mix(right ^ (keys + np.array([number + 1], np.uint64) * _ROUND_STRIDE))
        left, right = right, left ^ (scrambled & mask)
    return (left << np.uint64(widths[1])) | right


def mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spreads each value over 64 bits (Steele et al. 2014, SplitMix64's finalizer)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
