"""Matrices as 8-bit integers with one float32 scale a row: the `int8` of the portable file.

What it means, for readers in other languages: docs/portable-format.md.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int8

from jslm.errors import JslmError
from jslm.formats.weights import check_weights

LIMIT = 127
ROWS, SCALES = "rows", "scales"


def is_quantised(name: str) -> bool:
    """Whether `int8` holds the parameter `name` as integers: projections, and tables of tokens and positions.

    Norms, biases and the few rows of conditions stay as they are: they weigh nothing.
    """
    return name.endswith("/kernel") or name in ("embed/tokens", "embed/positions", "head/tokens")


def to_rows(name: str, array: np.ndarray) -> np.ndarray:
    """A row for each output: kernels `[..., in, out]` are turned, tables have theirs. Its own inverse."""
    return np.swapaxes(array, -1, -2) if name.endswith("/kernel") else array


def quantise_rows(
    name: str, matrix: Float32[np.ndarray, "*layers rows columns"]
) -> tuple[Int8[np.ndarray, "*layers rows columns"], Float32[np.ndarray, "*layers rows"]]:
    """(integers from -127 to 127, scales): the largest weight of a row becomes 127, the others round to even.

    A row of zeros has scale 0. Raises JslmError naming `name` where a weight is not finite.
    """
    check_weights(name, matrix, "int8")
    largest = np.abs(matrix).max(axis=-1, initial=0.0)
    scales = (largest.astype(np.float64) / LIMIT).astype(np.float32)
    # Rows so small that their scale underflows are zeros too.
    steps = matrix.astype(np.float64) / np.where(scales > 0, scales, 1).astype(np.float64)[..., None]
    rounded = np.clip(np.rint(np.where(scales[..., None] > 0, steps, 0)), -LIMIT, LIMIT)
    return np.ascontiguousarray(rounded, np.int8), np.ascontiguousarray(scales)


def dequantise_rows(
    where: str, integers: Int8[np.ndarray, "*layers rows columns"], scales: Float32[np.ndarray, "*layers rows"]
) -> Float32[np.ndarray, "*layers rows columns"]:
    """Each integer times its row's scale, in float32.

    Raises JslmError, which begins with `where`, for a scale that is negative or not finite, and for -128.
    """
    # Written so that a NaN fails it.
    if not np.all((scales >= 0) & (scales <= np.finfo(np.float32).max / LIMIT)):
        raise JslmError(f"{where}/{SCALES}: a scale is negative, too large or not finite; the file is damaged")
    if integers.min(initial=0) < -LIMIT:
        raise JslmError(f"{where}/{ROWS}: holds -128, which int8 files do not have; the file is damaged")
    found: np.ndarray = integers.astype(np.float32)
    # In place: a second copy of the largest table would be most of the memory.
    found *= scales[..., None]
    return found
