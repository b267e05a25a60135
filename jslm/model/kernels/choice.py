"""Which attention a device gets: `model.attention`, its type, shapes and dropout."""

from __future__ import annotations

import functools
import logging
from typing import Literal

import jax.numpy as jnp
from jax.typing import DTypeLike

from jslm.config import ModelConfig
from jslm.model.kernels.splash import splash_refusal
from jslm.parallel import compute_capability, mesh_kind, mesh_platform, mesh_size

# What the names of the kernels begin with.
FLASH_PREFIX = "jslm_flash_"
Implementation = Literal["xla", "cudnn", "flash", "splash", "blocked"]
# What cuDNN pads, and jslm's own kernel need not.
NARROW_HEAD = 32
_log = logging.getLogger("jslm")


def choose_attention(
    config: ModelConfig, dtype: DTypeLike, platform: str | None = None, capability: float | None = None
) -> Implementation:
    """What `model.attention` means for training on this platform; `auto`'s reason is logged once.

    cuDNN's flash attention wants a GPU of compute capability 8.0, a 16-bit type, head_dim a multiple of 8 up to 128
    (256 from 9.0 on), and no attention dropout; where attention drops out, and for heads 32 wide, such GPUs have a
    kernel of jslm's own ("flash"), for contexts of a multiple of 128 and head widths of 32, 64 or 128. Splash attention
    wants a TPU, bfloat16 or float32, a context of a multiple of 128, and no attention dropout. A run that names one of
    these opens on other devices too. CPUs have attention in blocks.
    """
    platform = platform or mesh_platform()
    dropout = config.attention_dropout_rate
    if config.attention == "xla" or (config.attention == "cudnn" and platform == "gpu" and not dropout):
        return config.attention
    if platform == "tpu":
        refusal = splash_refusal(dtype, config.context_length, dropout)
        return chosen("xla", refusal) if refusal else chosen("splash", "it fits the shapes")
    if platform == "cpu":
        return chosen("blocked", "the device is a CPU")
    if platform != "gpu" or config.attention == "splash":
        return chosen("xla", f"the device is a {platform}")
    head_dim, capability = config.dim_per_head, capability or compute_capability(mesh_kind())
    widest = 256 if capability >= 9 else 128
    if capability < 8:
        return chosen("xla", f"cuDNN flash attention needs compute capability 8.0, and this GPU has {capability}")
    if dtype not in (jnp.bfloat16, jnp.float16):
        return chosen("xla", f"cuDNN flash attention needs a 16-bit type, not {jnp.dtype(dtype).name}")
    if dropout:
        refusal = flash_refusal(config.context_length, head_dim)
        return chosen("xla", refusal) if refusal else chosen("flash", "jslm's own kernel drops attention weights out")
    if head_dim == NARROW_HEAD and not flash_refusal(config.context_length, head_dim):
        return chosen("flash", f"jslm's own kernel, as cuDNN pads heads {head_dim} wide")
    if head_dim % 8 or head_dim > widest:
        return chosen(
            "xla", f"cuDNN flash attention needs a head width of a multiple of 8 up to {widest} here, not {head_dim}"
        )
    return chosen("cudnn", "flash attention fits the shapes")


def takes_own_kernels() -> bool:
    """Whether jslm's own kernels for norms and sums over logits run here: on one GPU, as they are not split over
    several, of compute capability 8.0 or later, as Triton wants (a T4 has 7.5)."""
    return mesh_size() == 1 and compute_capability(mesh_kind()) >= 8


def flash_refusal(length: int, head_dim: int) -> str:
    """Why jslm's own GPU kernel can't be used; an empty string where it can."""
    if length % 128:
        return f"jslm's own flash attention needs a length of a multiple of 128, not {length}"
    if head_dim not in (32, 64, 128):
        return f"jslm's own flash attention needs a head width of 32, 64 or 128, not {head_dim}"
    return ""


@functools.cache
def chosen(name: Implementation, reason: str) -> Implementation:
    """`name`, with the reason logged the first time."""
    _log.info("attention: %s (%s)", name, reason)
    return name
