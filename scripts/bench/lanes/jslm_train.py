"""jslm's training step as its loop runs it: loader, placing, step, metrics read one step late."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import jax

from jslm.learn import make_train_step
from jslm.parallel import start_jax
from jslm.runs.folder import RunFolder
from jslm.train.setup import build, place_batch, prepare_data, resolve_config
from scripts.bench.lanes.corpus import run_config
from scripts.bench.lanes.jax_facts import device_memory, jax_facts


class TrainLane:
    """One run, in steps."""

    def __init__(self, spec: dict[str, Any]) -> None:
        start_jax()
        config = run_config(
            spec["size"],
            Path(spec["folder"]),
            model={"dtype": spec["dtype"]},
            train={"steps": 1_000_000, "batch_size": spec["batch"]},
        )
        data = prepare_data(config)
        config = resolve_config(config, data)
        folder = RunFolder(str(Path(spec["folder"], f"run-{spec['dtype']}")))
        folder.create()
        self.setup = build(config, data, folder)
        # Those that count: of windows all, but for the padding of an epoch's first and last.
        self.tokens = config.train.batch_size * self.setup.loader.tokens.targets
        with jax.set_mesh(self.setup.mesh):
            self.step = make_train_step(
                config, self.setup.optimizer, self.setup.steps, self.setup.mesh, self.setup.dtype
            )
        self.facts = {**jax_facts(), "dtype": self.setup.dtype.name}
        # The first compiles; the second meets the state as a step leaves it.
        for _ in range(2):
            self.turn("", 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Steps; the unit is a token."""
        setup, steps = self.setup, 0
        pending: dict[str, jax.Array] | None = None
        started = time.perf_counter()
        with jax.set_mesh(setup.mesh):
            while steps == 0 or time.perf_counter() - started < seconds:
                batch = place_batch(next(setup.loader), setup.mesh, 1)
                setup.state, metrics = self.step(setup.state, batch)
                if pending is not None:
                    jax.device_get(pending)
                pending, steps = metrics, steps + 1
            jax.device_get(pending)
        elapsed = time.perf_counter() - started
        self.facts["device_memory_bytes"] = device_memory()
        return steps * self.tokens, elapsed


def open_lane(spec: dict[str, Any]) -> TrainLane:
    """`spec`: size, folder (with the files of `corpus`), batch in sequences, dtype as `model.dtype`."""
    return TrainLane(spec)
