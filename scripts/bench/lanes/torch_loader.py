"""Batches in PyTorch from the same token file: nanoGPT's `get_batch`, or a shuffled `DataLoader`."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from scripts.bench.sizes import SIZES

Pair = tuple[torch.Tensor, torch.Tensor]


class Windows(Dataset[Pair]):
    """Windows of a token file that follow each other."""

    def __init__(self, path: Path, length: int) -> None:
        self.tokens = np.memmap(path, np.dtype("<u2"), "r")
        self.length = length

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.length

    def __getitem__(self, index: int) -> Pair:
        return self.window(index * self.length)

    def window(self, start: int) -> Pair:
        """Inputs and targets of the window that begins at a token."""
        rows = torch.from_numpy(self.tokens[start : start + self.length + 1].astype(np.int64))
        return rows[:-1], rows[1:]


class LoaderLane:
    """Inputs and targets, int64."""

    def __init__(self, spec: dict[str, Any]) -> None:
        size = SIZES[spec["size"]]
        self.windows = Windows(Path(spec["folder"], "data", "train.bin"), size.context)
        self.batch, self.tokens = spec["batch"], spec["batch"] * size.context
        self.batches = self._from_loader(spec["workers"]) if spec["workers"] is not None else self._at_random()
        self.facts = {"versions": {"python": platform.python_version(), "torch": importlib.metadata.version("torch")}}
        self.turn("", 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Batches; the unit is a token."""
        batches, started = 0, time.perf_counter()
        while batches == 0 or time.perf_counter() - started < seconds:
            next(self.batches)
            batches += 1
        return batches * self.tokens, time.perf_counter() - started

    def _from_loader(self, workers: int) -> Iterator[Any]:
        loader = DataLoader(self.windows, self.batch, shuffle=True, drop_last=True, num_workers=workers)
        while True:
            yield from loader

    def _at_random(self) -> Iterator[Pair]:
        last = len(self.windows.tokens) - self.windows.length - 1
        while True:
            pairs = [self.windows.window(int(start)) for start in torch.randint(last, (self.batch,))]
            yield torch.stack([pair[0] for pair in pairs]), torch.stack([pair[1] for pair in pairs])


def open_lane(spec: dict[str, Any]) -> LoaderLane:
    """`spec`: size, folder, batch, workers (of the `DataLoader`; null for nanoGPT's way)."""
    return LoaderLane(spec)
