"""The number type that a platform computes in where `model.dtype` is "auto": a small table, each row a measurement."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from jslm.parallel import compute_capability

Task = Literal["training", "writing"]


class Types(NamedTuple):
    """Names of types, as in `model.dtype`."""

    training: str
    writing: str


# TPUs, and GPUs from compute capability 8.0 on: their matrix units have it, and float32's range needs no loss scale.
_BFLOAT16 = Types("bfloat16", "bfloat16")
# A T4 has units for float16 alone.
_OLD_GPU = Types("float16", "float16")
# CPUs with AVX512-BF16 (AMD's), on 2 cores: the Shakespeare recipe in 52 s instead of 83 s at a loss of 1.7503 and
# 1.7502; the quickstart in 82 s instead of 100 s, 1.2% above its entropy. Written by one row, float32 has 595 to 713
# tokens/s and bfloat16 390 to 430.
_AVX512_BF16 = Types("bfloat16", "float32")
# All others. Intel's with AMX are up to twice as fast in bfloat16, but the quickstart ended 5.3% above its entropy
# (1.1% in float32). Before jax 0.11 bfloat16 was slower than float32. Without either, bfloat16 is emulated.
_CPU = Types("float32", "float32")
_BFLOAT16_JAX = (0, 11, 0)


def auto_type(task: Task, platform: str, kind: str = "") -> str:
    """The type for that task on `platform` ("cpu", "gpu" or "tpu"); `kind` of a GPU as JAX names it."""
    return str(getattr(_types(platform, kind), task))


def _types(platform: str, kind: str) -> Types:
    if platform == "cpu":
        flags = _cpu_flags()
        is_measured = "avx512_bf16" in flags and "amx_bf16" not in flags and jax.__version_info__ >= _BFLOAT16_JAX
        return _AVX512_BF16 if is_measured else _CPU
    return _OLD_GPU if platform == "gpu" and compute_capability(kind) < 8 else _BFLOAT16


@functools.cache
def _cpu_flags() -> frozenset[str]:
    """What this machine's CPU can do, as Linux tells; nothing elsewhere. `$JSLM_CPUINFO` is another file to ask."""
    try:
        lines = Path(os.environ.get("JSLM_CPUINFO") or "/proc/cpuinfo").read_text("ascii", "replace").splitlines()
    except OSError:
        return frozenset()
    flags = next((line.partition(":")[2] for line in lines if line.startswith("flags")), "")
    return frozenset(flags.split())
