"""jslm's loader alone: batches one after the other, as the training loop asks for them."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

from jslm.tokens import open_tokens
from jslm.tokens.loader import TrainLoader
from scripts.bench.sizes import SIZES


class LoaderLane:
    """Inputs and targets, int32."""

    def __init__(self, spec: dict[str, Any]) -> None:
        size = SIZES[spec["size"]]
        tokens = open_tokens(Path(spec["folder"], "data"), "train")
        self.loader = TrainLoader(tokens, context_length=size.context, batch_size=spec["batch"], seed=0)
        self.tokens = spec["batch"] * self.loader.tokens.targets
        self.facts = {"versions": {"python": platform.python_version()}}
        self.turn("", 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Batches; the unit is a token."""
        batches, started = 0, time.perf_counter()
        while batches == 0 or time.perf_counter() - started < seconds:
            next(self.loader)
            batches += 1
        return batches * self.tokens, time.perf_counter() - started


def open_lane(spec: dict[str, Any]) -> LoaderLane:
    """`spec`: size, folder, batch."""
    return LoaderLane(spec)
