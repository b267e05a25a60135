"""What the machine gives a simple JAX program: matrix products by type, and reading and writing of memory."""

from __future__ import annotations

import time
from typing import Any

import jax
import jax.numpy as jnp

from jslm.parallel import start_jax
from scripts.bench.lanes.jax_facts import jax_facts


class PeakLane:
    """Cases: "float32" and "bfloat16" (unit: a floating-point operation), "memory" (unit: a byte)."""

    def __init__(self, spec: dict[str, Any]) -> None:
        start_jax()
        side = spec["matrix"] if jax.default_backend() == "cpu" else 8192
        self.work: dict[str, tuple[Any, Any, float]] = {}
        for dtype in ("float32", "bfloat16"):
            self.work[dtype] = jax.jit(lambda a: a @ a), jnp.ones((side, side), dtype), 2.0 * side**3
        numbers = jnp.ones(spec["megabytes"] * 2**20 // 4, jnp.float32)
        # In place: new pages would be what is measured.
        self.work["memory"] = jax.jit(lambda x: -x, donate_argnums=0), numbers, 2.0 * numbers.nbytes
        self.facts = {**jax_facts(), "dtype": ""}
        for case in self.work:
            self.turn(case, 0.0)

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """The best of the calls that fit: a peak is what can be reached, not what is usual."""
        function, argument, units = self.work[case]
        best, began = float("inf"), time.perf_counter()
        while best == float("inf") or time.perf_counter() - began < seconds:
            started = time.perf_counter()
            result = function(argument).block_until_ready()
            best = min(best, time.perf_counter() - started)
            if case == "memory":
                argument = result
                self.work[case] = function, argument, units
        return units, best


def open_lane(spec: dict[str, Any]) -> PeakLane:
    """`spec`: matrix (side on CPUs), megabytes (of the array that is read)."""
    return PeakLane(spec)
