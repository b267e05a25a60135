"""What the loss needs of logits on GPUs, in one pass over them: a Pallas kernel.

XLA makes three passes of it, for the largest logit, the sum of exponentials and the target's; logits are the largest
array of a step. Milakov & Gimelshein 2018, "Online normalizer calculation for softmax".
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from jslm.model.kernels.choice import takes_own_kernels
from jslm.model.kernels.plain import cap_logits, mask_padding, pick_logit

_BLOCK, _WARPS = 4096, 8
_LOWEST = -1e30


def logit_sums(
    logits: Float[Array, "batch length padded_vocab"],
    targets: Int[Array, "batch length"],
    vocab_size: int,
    softcap: float,
    *,
    interpret: bool = False,
) -> tuple[Float[Array, "batch length"], Float[Array, "batch length"], Float[Array, "batch length"]]:
    """Of each position, in float32: its largest logit, the sum of exp(logit - largest), and its target's logit
    (anything where the target is -1). Padding past `vocab_size` does not count; `softcap` as in `cap_logits`.

    Not differentiable. By XLA where `takes_own_kernels` says no. `interpret` runs the kernel anywhere, slowly.
    """
    if not takes_own_kernels():
        return plain_logit_sums(logits, targets, vocab_size, softcap)
    batch, length, padded = logits.shape
    rows = batch * length
    one = pl.BlockSpec((None,), lambda row: (row,))
    sums = pl.pallas_call(
        functools.partial(_kernel, vocab_size=vocab_size, softcap=softcap),
        grid=(rows,),
        in_specs=[pl.BlockSpec((None, padded), lambda row: (row, 0)), one],
        out_specs=[one] * 3,
        out_shape=[jax.ShapeDtypeStruct((rows,), jnp.float32)] * 3,
        compiler_params=None if interpret else triton.CompilerParams(num_warps=_WARPS, num_stages=2),
        interpret=interpret,
    )(logits.reshape(rows, padded), targets.reshape(rows))
    top, total, target = (each.reshape(batch, length) for each in sums)
    return top, total, target


def plain_logit_sums(logits: Array, targets: Array, vocab_size: int, softcap: float) -> tuple[Array, Array, Array]:
    """`logit_sums` as anyone would write it."""
    capped = cap_logits(logits.astype(jnp.float32), softcap)
    masked = mask_padding(capped, vocab_size)
    top = jnp.max(masked, axis=-1)
    return top, jnp.sum(jnp.exp(masked - top[..., None]), axis=-1), pick_logit(capped, targets)


def _kernel(
    logits_ref: Any, target_ref: Any, top_ref: Any, total_ref: Any, picked_ref: Any, *, vocab_size: int, softcap: float
) -> None:
    target = target_ref[...]

    def body(index: Array, carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        top, total, picked = carry
        start = index * _BLOCK
        ids = start + jnp.arange(_BLOCK)
        inside = ids < vocab_size
        block = triton.load(logits_ref.at[pl.ds(start, _BLOCK)], mask=inside, other=0.0).astype(jnp.float32)
        block = cap_logits(block, softcap)
        masked = jnp.where(inside, block, _LOWEST)
        new_top = jnp.maximum(top, jnp.max(masked))
        total = total * jnp.exp(top - new_top) + jnp.sum(jnp.where(inside, jnp.exp(masked - new_top), 0.0))
        return new_top, total, picked + jnp.sum(jnp.where(ids == target, block, 0.0))

    # NaNs pass: a maximum with one is one, and so is every sum.
    start = (jnp.float32(_LOWEST), jnp.float32(0.0), jnp.float32(0.0))
    top, total, picked = jax.lax.fori_loop(0, pl.cdiv(vocab_size, _BLOCK), body, start)
    top_ref[...], total_ref[...], picked_ref[...] = top, total, picked
