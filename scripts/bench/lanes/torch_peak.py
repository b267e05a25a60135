"""What the machine gives a simple PyTorch program: matrix products by type, and reading and writing of memory."""

from __future__ import annotations

import time
from typing import Any

import torch

from scripts.bench.lanes.torch_model import DEVICE, synchronize, torch_facts


class PeakLane:
    """Cases: "float32" and "bfloat16" (unit: a floating-point operation), "memory" (unit: a byte)."""

    def __init__(self, spec: dict[str, Any]) -> None:
        torch.set_float32_matmul_precision("high")
        side = spec["matrix"] if DEVICE == "cpu" else 8192
        self.matrices = {
            dtype: torch.ones((side, side), dtype=getattr(torch, dtype), device=DEVICE)
            for dtype in ("float32", "bfloat16")
        }
        self.numbers = torch.ones(spec["megabytes"] * 2**20 // 4, device=DEVICE)
        self.facts = {**torch_facts(), "dtype": ""}
        for case in ("float32", "bfloat16", "memory"):
            self.turn(case, 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """The best of the calls that fit: a peak is what can be reached, not what is usual."""
        best, began = float("inf"), time.perf_counter()
        while best == float("inf") or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            units = self._work(case)
            synchronize()
            best = min(best, time.perf_counter() - started)
        return units, best

    def _work(self, case: str) -> float:
        if case == "memory":
            self.numbers.neg_()
            return 2.0 * self.numbers.nbytes
        matrix = self.matrices[case]
        torch.mm(matrix, matrix)
        return 2.0 * len(matrix) ** 3


def open_lane(spec: dict[str, Any]) -> PeakLane:
    """`spec`: matrix (side on CPUs), megabytes (of the array that is read)."""
    return PeakLane(spec)
