"""PyTorch's training step: transformers' model, fused AdamW, clipping, batches cut from the same token file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.bench.lanes.torch_model import (
    DEVICE,
    autocast,
    check_compiler,
    device_memory,
    make_model,
    synchronize,
    torch_facts,
)
from scripts.bench.sizes import SIZES


class TrainLane:
    """One run, in steps."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.size, self.dtype, self.batch = SIZES[spec["size"]], spec["dtype"], spec["batch"]
        self.model = make_model(self.size).train()
        self.tokens = np.memmap(Path(spec["folder"], "data", "train.bin"), np.dtype("<u2"), "r")
        self.noise = np.random.default_rng(0)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
        )
        self.forward: Any = self.model
        if spec["compile"]:
            check_compiler()
            self.forward = torch.compile(self.model, dynamic=False)
        self.facts = {**torch_facts(), "dtype": self.dtype}
        for _ in range(spec.get("warmup", 2)):
            self.turn("", 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Steps; the unit is a token."""
        steps, started = 0, time.perf_counter()
        while steps == 0 or time.perf_counter() - started < seconds:
            self._step()
            steps += 1
        synchronize()
        elapsed = time.perf_counter() - started
        self.facts["device_memory_bytes"] = device_memory()
        return steps * self.batch * self.size.context, elapsed

    def _step(self) -> None:
        ids = self._ids()
        with autocast(self.dtype):
            loss = self.forward(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _ids(self) -> torch.Tensor:
        # As nanoGPT does: windows at random places of a memory-mapped file.
        length = self.size.context
        starts = self.noise.integers(0, len(self.tokens) - length, self.batch)
        rows = np.stack([self.tokens[start : start + length].astype(np.int64) for start in starts])
        return torch.from_numpy(rows).to(DEVICE)


def open_lane(spec: dict[str, Any]) -> TrainLane:
    """`spec`: size, folder, batch, dtype ("float32", or "bfloat16" for autocast), compile, warmup (steps)."""
    return TrainLane(spec)
