"""jslm's compiled training step alone, on random tokens: what a device makes of it, without loader and files."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from jslm.config import config_from_dict
from jslm.learn import make_optimizer, make_train_step
from jslm.learn.state import init_state
from jslm.model import compute_dtype, flops_per_token
from jslm.parallel import batch_sharding, make_mesh, peak_flops, start_jax
from scripts.bench.lanes.jax_facts import device_memory, jax_facts

_STEPS = 1_000
# Steps that are on their way at once, as the training loop keeps them.
_AHEAD = 2


class StepLane:
    """One shape, in whole optimizer steps; metrics stay on the device."""

    def __init__(self, spec: dict[str, Any]) -> None:
        start_jax()
        rows, document = spec["batch"], spec.get("document", 0)
        sections = {**spec["config"], "train": {"steps": _STEPS, "batch_size": rows}}
        if document:
            sections["data"] = {"packing": "documents"}
        config = config_from_dict(sections, "benchmark")
        self.mesh, dtype = make_mesh(config.mesh, jax.devices()[:1]), compute_dtype(config.model)
        optimizer = make_optimizer(config.optimizer, _STEPS, dtype)
        length = config.model.context_length
        noise = np.random.default_rng(0).integers(0, config.model.vocab_size, (1, rows, length + 1)).astype(np.int32)
        batch = {"inputs": noise[..., :-1], "targets": noise[..., 1:]}
        if document:
            batch["segments"] = np.broadcast_to(np.arange(length, dtype=np.int32) // document, (1, rows, length))
        where = batch_sharding(self.mesh, accumulation=True)
        self.batch = {name: jax.device_put(np.ascontiguousarray(array), where) for name, array in batch.items()}
        with jax.set_mesh(self.mesh):
            self.state = init_state(config, optimizer, self.mesh, dtype)
            self.step = make_train_step(config, optimizer, _STEPS, self.mesh, dtype)
        self.tokens = rows * length
        self.facts = {
            **jax_facts(),
            "dtype": dtype.name,
            "flops_per_token": flops_per_token(config.model),
            # Of an accelerator; a CPU's would have to be measured.
            "peak_flops": peak_flops(dtype.name) if jax.default_backend() != "cpu" else None,
        }
        for _ in range(2):
            self.turn("", 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Steps; the unit is a token."""
        steps, waiting, started = 0, [], time.perf_counter()
        with jax.set_mesh(self.mesh):
            while steps == 0 or time.perf_counter() - started < seconds:
                self.state, metrics = self.step(self.state, self.batch)
                waiting.append(metrics["loss"])
                if len(waiting) > _AHEAD:
                    waiting.pop(0).block_until_ready()
                steps += 1
            jax.block_until_ready(self.state)
        elapsed = time.perf_counter() - started
        self.facts["device_memory_bytes"] = device_memory()
        return steps * self.tokens, elapsed


def open_lane(spec: dict[str, Any]) -> StepLane:
    """`spec`: config (sections "model" with `vocab_size`, "optimizer"), batch in rows; document: length in tokens of
    documents packed into rows, 0 for plain windows."""
    return StepLane(spec)
