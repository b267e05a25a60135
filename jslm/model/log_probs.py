"""Log-probabilities of whole rows, without the logits of a whole row."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.model.decoder import Params, apply_decoder, head_table
from jslm.model.kernels import Kernels, choose_kernels
from jslm.model.loss import IGNORED, cap_logits, split_positions, target_log_probs
from jslm.parallel import constrain


def row_log_probs(
    params: Params,
    inputs: Int[Array, "batch length"],
    targets: Int[Array, "batch length"],
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    *,
    loss_chunk: int = 0,
    batch_shards: int = 1,
    conditions: Int[Array, "batch length kinds"] | None = None,
    kernels: Kernels | None = None,
) -> Float[Array, " batch"]:
    """The log-probability in nats of each row's targets together, those of -1 left out; float32, without dropout."""
    kernels = kernels or choose_kernels(config, dtype)
    hidden = apply_decoder(params, inputs, config, dtype, conditions=conditions, kernels=kernels)
    batch, length = inputs.shape
    chunk = kernels.loss_chunk(max(1, batch // batch_shards), length, config.padded_vocab_size, loss_chunk)
    head = head_table(params)
    return summed_log_probs(hidden, head, targets, config.vocab_size, config.logit_softcap, chunk, kernels)


def summed_log_probs(
    hidden: Float[Array, "batch length d_model"],
    head: Float[Array, "padded_vocab d_model"],
    targets: Int[Array, "batch length"],
    vocab_size: int,
    softcap: float,
    chunk: int,
    kernels: Kernels,
) -> Float[Array, " batch"]:
    """Per row, the sum of log-probabilities of the targets that are not -1.

    Logits exist for `chunk` positions of each sequence at a time, in float32. What a row's gradient is multiplied with
    is known only when all rows are (unlike in `Kernels.cross_entropy`), so the backward pass computes them once more.
    """
    batch, length, _ = hidden.shape
    one = jax.checkpoint(functools.partial(_one_chunk, vocab_size=vocab_size, softcap=softcap, kernels=kernels))
    if chunk == length:
        return one(hidden, head, targets)

    def step(total: Array, piece: tuple[Array, Array]) -> tuple[Array, None]:
        return total + one(piece[0], head, piece[1]), None

    pieces = split_positions(hidden, chunk), split_positions(targets, chunk)
    total, _ = jax.lax.scan(step, jnp.zeros(batch, jnp.float32), pieces)
    return total


def _one_chunk(
    hidden: Array, head: Array, targets: Array, *, vocab_size: int, softcap: float, kernels: Kernels
) -> Array:
    # Narrowed in here: the chunks' gradients of the head then add up in float32.
    weights = head.astype(hidden.dtype)
    logits = jnp.einsum("btd,vd->btv", hidden, weights, preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "vocab")
    ids = jax.lax.broadcasted_iota(jnp.int32, (1, 1, weights.shape[0]), 2)
    masked = jnp.where(ids < vocab_size, cap_logits(logits, softcap), -jnp.inf)
    return jnp.sum(jnp.where(targets != IGNORED, target_log_probs(masked, targets, kernels), 0.0), axis=-1)
