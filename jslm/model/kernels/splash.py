"""Splash attention on TPUs: JAX's Pallas kernel, which keeps the scores on the chip, spread over the mesh."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jslm.model.kernels.sharding import attend_on_each_device

# A TPU's vector registers are 128 wide, and the kernel's blocks are whole numbers of them.
_LANES = 128
# Rows of queries and of keys that are on the chip together: what MaxText trains with. Longer blocks compute more of the
# half that the causal mask hides.
_LARGEST_BLOCK = 512


def splash_refusal(dtype: DTypeLike, length: int, dropout: float) -> str:
    """Why splash attention can't be used; an empty string where it can."""
    if dtype not in (jnp.bfloat16, jnp.float32):
        return f"splash attention is for bfloat16 and float32, not {jnp.dtype(dtype).name}"
    if length % _LANES:
        return f"splash attention needs a length of a multiple of {_LANES}, not {length}"
    if dropout:
        return "splash attention has no dropout"
    return ""


def splash_block_length(length: int) -> int:
    """Rows of a block: the largest multiple of 128 up to 512 that divides `length`, itself a multiple of 128."""
    return max(size for size in range(_LANES, _LARGEST_BLOCK + 1, _LANES) if length % size == 0)


def splash_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "batch length heads head_dim"]:
    """`jslm.model.kernels.plain.attention` without dropout, for shapes that `splash_refusal` lets pass.

    The compiler cannot split a Pallas call over devices: each has its rows (mesh axes data, fsdp) and heads (tensor),
    which need nothing of the others. `interpret` runs the kernel's steps on any device, slowly.
    Dao et al. 2022, "FlashAttention"; the kernel skips blocks that the mask leaves empty.
    """

    def on_device(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
        return _attend(q, k, v, segments, interpret)

    return attend_on_each_device(on_device, q, k, v, segments)


def _attend(q: Array, k: Array, v: Array, segments: Array | None, interpret: bool) -> Array:
    # Pallas takes a third of a second to import, and is for TPUs alone.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        BlockSizes,
        CausalMask,
        MultiHeadMask,
        SegmentIds,
        make_splash_mha,
    )

    _, length, heads, head_dim = q.shape
    block = splash_block_length(length)
    kernel = make_splash_mha(
        MultiHeadMask([CausalMask((length, length))] * heads),
        block_sizes=BlockSizes(
            block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # The kernel does not scale. Scaled in float32: 1 / sqrt(128) is no bfloat16.
    q = (q.astype(jnp.float32) * head_dim**-0.5).astype(q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    ids = None if segments is None else SegmentIds(segments, segments)
    return jnp.swapaxes(jax.vmap(kernel)(q, k, v, ids), 1, 2)
