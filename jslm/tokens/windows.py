"""A token stream as windows of consecutive tokens, side by side or overlapping."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int32, Int64

from jslm.tokens.example_tokens import ExampleTokens
from jslm.tokens.packing import NO_TARGET
from jslm.tokens.token_file import TokenFile


class Windows:
    """Windows of `length` inputs and targets; each ends `stride` tokens after the one before it (0: `length`).

    Every token but the first of the file is a target: exactly once where the stride is `length`, else in about
    `length / stride` windows. Only the first and last windows may be shorter; they are padded (inputs 0, targets -1).
    """

    def __init__(self, token_file: TokenFile, length: int, stride: int = 0) -> None:
        # A plain view: indexing through np.memmap's subclass machinery is several times slower.
        self._tokens = np.asarray(token_file.tokens)
        self.length = length
        self._stride = stride or length
        self._targets = max(0, len(self._tokens) - 1)
        after_first = max(0, self._targets - length)
        self._count = 1 + -(-after_first // self._stride) if self._targets else 0

    @property
    def count(self) -> int:
        """Windows in one pass."""
        return self._count

    @property
    def tokens(self) -> ExampleTokens:
        """What a window holds on average: those between the first and the last are full."""
        if self._stride == self.length:
            mean = self._targets / self._count
        else:
            ends = min(self.length, self._targets) + self._stride * np.arange(self._count)
            sizes = np.minimum(ends, self._targets) - np.maximum(ends - self.length, 0)
            mean = float(sizes.mean())
        return ExampleTokens(self.length, mean, mean)

    @property
    def first_lengths(self) -> tuple[int, int]:
        """The shortest and longest first window that leaves their number as it is."""
        if self._count < 2:
            return self.length, self.length
        return self.length - (-(self._targets - self.length) % self._stride), self.length

    def gather(
        self, windows: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"]
    ) -> dict[str, Int32[np.ndarray, "rows length"]]:
        """Windows by number, where the text is cut so that window 0 has `first` targets."""
        ends = first + windows * self._stride
        starts = np.maximum(ends - self.length, 0)
        sizes = np.minimum(ends, self._targets) - starts
        sizes[windows < 0] = 0
        text = np.zeros((len(windows), self.length + 1), self._tokens.dtype)
        # Stretch by stretch, which is faster than place by place.
        for row, start, size in zip(text, starts.tolist(), sizes.tolist(), strict=True):
            row[: size + 1] = self._tokens[start : start + size + 1]
        inputs, targets = text[:, :-1].astype(np.int32), text[:, 1:].astype(np.int32)
        if (sizes < self.length).any():
            padding = np.arange(self.length) >= sizes[:, None]
            inputs[padding], targets[padding] = 0, NO_TARGET
        return {"inputs": inputs, "targets": targets}
