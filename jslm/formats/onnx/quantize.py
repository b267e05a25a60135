"""Weights as 8-bit integers: one scale a column of a kernel, one a row of a table."""

from __future__ import annotations

import numpy as np

# The largest integer of each kind. 7 bits: x86 without VNNI adds two products of 8 bits in 16, which may overflow.
LEVELS = {"int8": 127, "int7": 63}


def quantize_columns(kernel: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """`[in, out]` as int8 of the same shape and float32 scales `[out]`; symmetric, so that 0 stays 0."""
    largest = np.abs(kernel).max(axis=0).astype(np.float32)
    scales = np.where(largest > 0, largest / np.float32(levels), np.float32(1)).astype(np.float32)
    return np.clip(np.rint(kernel / scales[None]), -levels, levels).astype(np.int8), scales


def quantize_rows(table: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """`[rows, d]` as int8 of the same shape and float32 scales `[rows]`."""
    values, scales = quantize_columns(table.T, levels)
    return np.ascontiguousarray(values.T), scales
