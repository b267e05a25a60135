"""How fast the device is: one product of the size that training has, timed."""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jslm.config import ModelConfig
from jslm.model import compute_dtype
from jslm.parallel import describe_devices, peak_flops

# On accelerators, whose peaks are known: the share of it that small models reach (docs/benchmarks.md).
_ACCELERATOR_SHARE = 0.35
_ROWS, _WIDTH = 2048, 256
_REPEATS = 9


@dataclass(frozen=True)
class Device:
    """`flops`: floating-point operations a second that products of training's size reach, on all devices together;
    `cores` are the CPU's, which prepare the text."""

    name: str
    platform: str
    count: int
    dtype: str
    flops: float
    cores: int = 2


def measure() -> Device:
    """Times the first device in the type that training would take there, in under a second; on accelerators the known
    peak counts, as a product alone tells little of a whole step."""
    dtype = compute_dtype(ModelConfig())
    platform, count = jax.default_backend(), jax.device_count()
    peak = peak_flops(dtype.name) if platform != "cpu" else None
    # Devices of a CPU share its cores.
    timed = 0.0 if peak else _timed_flops(dtype) * (count if platform != "cpu" else 1)
    flops = _ACCELERATOR_SHARE * peak * count if peak else timed
    return Device(describe_devices(), platform, count, dtype.name, flops, os.cpu_count() or 1)


def _timed_flops(dtype: jnp.dtype) -> float:
    a = jnp.ones((_ROWS, _WIDTH), dtype)
    b = jnp.full((_WIDTH, 4 * _WIDTH), 0.01, dtype)
    product = jax.jit(lambda a, b: (a @ b) @ b.T)
    product(a, b).block_until_ready()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        product(a, b).block_until_ready()
        times.append(time.perf_counter() - start)
    return 2 * 2.0 * _ROWS * _WIDTH * 4 * _WIDTH / statistics.median(times)
