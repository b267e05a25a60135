"""How a platform computes the few things that deserve words of its own: chosen once, handed to the layers.

`plain` is JAX as anyone would write it; `cpu`, `gpu` and `tpu` each override what measuring says. The model calls what
stands in `Kernels` and knows no platform.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jslm.config import ModelConfig
from jslm.model.kernels.base import Kernels
from jslm.model.kernels.choice import FLASH_PREFIX, Implementation, choose_attention
from jslm.model.kernels.splash import splash_block_length
from jslm.parallel import device_memory_bytes, mesh_kind, mesh_platform

__all__ = [
    "FLASH_PREFIX",
    "Implementation",
    "Kernels",
    "choose_attention",
    "choose_kernels",
    "decoding_kernels",
    "splash_block_length",
]


def choose_kernels(
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    *,
    implementation: Implementation | None = None,
    platform: str | None = None,
) -> Kernels:
    """The kernels for training and for whole sequences in `dtype`, on the mesh in context (default: this process's
    devices) or on `platform` ("cpu", "gpu" or "tpu"). `implementation` is that of attention, by default what
    `model.attention` means there.
    """
    platform = platform or mesh_platform()
    name = implementation or choose_attention(config, dtype, platform)
    return _training(platform, name, _memory_of(platform), jnp.dtype(dtype))


def decoding_kernels(config: ModelConfig, dtype: DTypeLike = jnp.float32, *, platform: str | None = None) -> Kernels:
    """The kernels for decoding in `dtype` with the weights of `Kernels.decoding_params`, on the mesh in context or on
    `platform`, as in `choose_kernels`."""
    platform = platform or mesh_platform()
    return _decoding(platform, choose_attention(config, dtype, platform), jnp.dtype(dtype))


def _memory_of(platform: str) -> int:
    return device_memory_bytes(mesh_kind()) if platform == "gpu" else 0


@functools.cache
def _training(platform: str, implementation: Implementation, memory: int, dtype: jnp.dtype) -> Kernels:
    more = {"gpu": (memory,), "cpu": (dtype,)}.get(platform, ())
    kernels: Kernels = _platform(platform).training(implementation, *more)
    return kernels


@functools.cache
def _decoding(platform: str, implementation: Implementation, dtype: jnp.dtype) -> Kernels:
    more = {"cpu": (dtype,)}.get(platform, ())
    kernels: Kernels = _platform(platform).decoding(implementation, *more)
    return kernels


def _platform(name: str) -> Any:
    """The platform's module, with all that only it needs (Pallas takes a third of a second to import)."""
    return importlib.import_module(f"jslm.model.kernels.{name if name in ('cpu', 'gpu') else 'tpu'}")
