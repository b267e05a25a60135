"""Whole texts at once: logits at every position, and log-probabilities of given tokens."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jslm.config import ModelConfig
from jslm.model import Params, apply_decoder, choose_kernels, decoding_kernels, logits_from_hidden
from jslm.model.loss import split_positions, target_log_probs


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def all_logits(
    params: Params,
    tokens: Int[Array, "batch length"],
    labels: Int[Array, "batch kinds"],
    *,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> Float[Array, "batch length vocab"]:
    """float32 logits at every position, by the forward pass that training uses."""
    kernels = decoding_kernels(config, dtype)
    conditions = None
    if labels.shape[1]:
        conditions = jnp.broadcast_to(labels[:, None], (*tokens.shape, labels.shape[1]))
    hidden = apply_decoder(params, tokens, config, dtype, conditions=conditions, kernels=kernels)
    return logits_from_hidden(params, hidden, config, kernels)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def token_scores(
    params: Params,
    tokens: Int[Array, "batch length"],
    targets: Int[Array, "batch length"],
    *,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[Float[Array, "batch length"], Bool[Array, "batch length"]]:
    """Log-probability of each target, and whether it is the likeliest; logits exist for a chunk at a time."""
    kernels = choose_kernels(config, dtype)
    hidden = apply_decoder(params, tokens, config, dtype, kernels=kernels)
    batch, length = tokens.shape
    chunk = kernels.loss_chunk(batch, length, config.padded_vocab_size, 0)

    def score(piece: tuple[Array, Array]) -> tuple[Array, Array]:
        logits = logits_from_hidden(params, piece[0], config, kernels)
        return target_log_probs(logits, piece[1], kernels), jnp.argmax(logits, axis=-1) == piece[1]

    if chunk == length:
        return score((hidden, targets))

    pieces = split_positions(hidden, chunk), split_positions(targets, chunk)
    logprobs, likeliest = jax.lax.map(score, pieces)
    return tuple(jnp.moveaxis(x, 0, 1).reshape(batch, length) for x in (logprobs, likeliest))  # type: ignore[return-value]
