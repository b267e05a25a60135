"""The number type that a platform computes in where `model.dtype` is "auto": a small table, each row a measurement.

"Drafting" is writing by prompt lookup, which computes several tokens at once.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Literal, NamedTuple

import jax

from jslm.parallel import compute_capability

Task = Literal["training", "writing", "drafting"]


class Types(NamedTuple):
    """Names of types, as in `model.dtype`."""

    training: str
    writing: str
    drafting: str


# TPUs, and GPUs from compute capability 8.0 on: their matrix units have it, and float32's range needs no loss scale.
_BFLOAT16 = Types("bfloat16", "bfloat16", "bfloat16")
# A T4 has units for float16 alone.
_OLD_GPU = Types("float16", "float16", "float16")
# CPUs with AVX512-BF16, on 2 cores. AMD's: the Shakespeare recipe in 52 s instead of 83 s at a loss of 1.7503 and
# 1.7502; the quickstart in 82 s instead of 100 s, 1.2% above its entropy. Written by one row, float32 has 595 to 713
# tokens/s and bfloat16 390 to 430. Intel's, with AMX: the dial's 3 x 128 on books 1.7 times as fast at the same loss
# (4.938 and 4.939 nats), the quickstart 1.1% and 1.7% above its entropy, 2.6% in float32. Writing would be 1.4 to 2.4
# times as fast there; but `evaluate` computes in the type of writing, and a CPU's measurements are those of float32.
_AVX512_BF16 = Types("bfloat16", "float32", "float32")
# With AMX a round of prompt lookup, which has eight tokens, takes 1.5 ms where float32 takes 2.1 (6 x 192, 2 cores),
# one token 0.76 and 0.56 ms.
_AMX = Types("bfloat16", "float32", "bfloat16")
# All others: without it, bfloat16 is emulated; before jax 0.11 it was slower than float32 everywhere.
_CPU = Types("float32", "float32", "float32")
_BFLOAT16_JAX = (0, 11, 0)


def auto_type(task: Task, platform: str, kind: str = "") -> str:
    """The type for that task on `platform` ("cpu", "gpu" or "tpu"); `kind` of a GPU as JAX names it."""
    return str(getattr(_types(platform, kind), task))


def _types(platform: str, kind: str) -> Types:
    if platform == "cpu":
        has_bfloat16 = "avx512_bf16" in _cpu_flags() and jax.__version_info__ >= _BFLOAT16_JAX
        return (_AMX if "amx_bf16" in _cpu_flags() else _AVX512_BF16) if has_bfloat16 else _CPU
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
