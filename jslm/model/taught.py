"""Cross-entropy of a text, and the divergence from what teachers expect in it, by the likeliest of their tokens."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.model.decoder import Params, apply_decoder, head_table
from jslm.model.kernels import Kernels, choose_kernels
from jslm.model.kernels.plain import mask_padding
from jslm.model.loss import IGNORED, cap_logits, split_positions, target_log_probs
from jslm.parallel import constrain

# What a student is sure to leave for all other tokens together: float32 can't tell less from nothing.
_LEAST_REST = 1e-6


def taught_sums(
    params: Params,
    inputs: Int[Array, "batch length"],
    targets: Int[Array, "batch length"],
    ids: Int[Array, "batch length k"],
    log_probs: Float[Array, "batch length k"],
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    *,
    temperature: float = 1.0,
    dropout_key: jax.Array | None = None,
    loss_chunk: int = 0,
    batch_shards: int = 1,
    segments: Int[Array, "batch length"] | None = None,
    kernels: Kernels | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums in nats over the positions whose target is not -1: (cross-entropy, divergence from the teachers).

    `ids` are the teachers' k likeliest tokens at each position, `log_probs` their log-probabilities (at `temperature`).
    The divergence is KL(teachers || student) of k + 1 outcomes, the last being all other tokens together: the least
    that the KL over the whole vocabulary can be. Its gradient is that of the whole KL, were the teachers' rest spread
    as the student spreads its own. Where k is the vocabulary, there is no rest. Logits exist for a chunk of positions
    at a time, in float32, and are computed once more in the backward pass.
    """
    kernels = kernels or choose_kernels(config, dtype)
    hidden = apply_decoder(params, inputs, config, dtype, dropout_key=dropout_key, segments=segments, kernels=kernels)
    batch, length = inputs.shape
    chunk = kernels.loss_chunk(max(1, batch // batch_shards), length, config.padded_vocab_size, loss_chunk)
    one = jax.checkpoint(functools.partial(_one_chunk, config=config, temperature=temperature, kernels=kernels))
    head = head_table(params)
    if chunk == length:
        return one(hidden, head, targets, ids, log_probs)

    def step(totals: tuple[Array, Array], piece: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        added = one(piece[0], head, *piece[1:])
        return (totals[0] + added[0], totals[1] + added[1]), None

    zero = jnp.zeros((), jnp.float32)
    pieces = tuple(split_positions(array, chunk) for array in (hidden, targets, ids, log_probs))
    totals: tuple[Array, Array] = jax.lax.scan(step, (zero, zero), pieces)[0]
    return totals


def _one_chunk(
    hidden: Array,
    head: Array,
    targets: Array,
    ids: Array,
    log_probs: Array,
    *,
    config: ModelConfig,
    temperature: float,
    kernels: Kernels,
) -> tuple[Array, Array]:
    # Narrowed in here: the chunks' gradients of the head then add up in float32.
    logits = jnp.einsum("btd,vd->btv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "vocab")
    logits = mask_padding(cap_logits(logits, config.logit_softcap), config.vocab_size)
    counted = targets != IGNORED
    cross_entropy = -jnp.sum(jnp.where(counted, target_log_probs(logits, targets, kernels), 0.0))
    divergence = _divergence(logits / temperature, ids, log_probs, has_rest=ids.shape[-1] < config.vocab_size)
    return cross_entropy, jnp.sum(jnp.where(counted, divergence, 0.0))


def _divergence(
    logits: Float[Array, "batch length vocab"],
    ids: Int[Array, "batch length k"],
    log_probs: Float[Array, "batch length k"],
    *,
    has_rest: bool,
) -> Float[Array, "batch length"]:
    if not has_rest:
        # What 16 bits have rounded away.
        log_probs = jax.nn.log_softmax(log_probs, axis=-1)
    student = jnp.take_along_axis(logits, ids, axis=-1) - jax.nn.logsumexp(logits, axis=-1, keepdims=True)
    probs = jnp.exp(log_probs)
    told = jnp.sum(probs * (log_probs - student), axis=-1)
    if not has_rest:
        return told
    rest = jnp.maximum(1.0 - jnp.sum(probs, axis=-1), _LEAST_REST)
    left = jnp.maximum(1.0 - jnp.sum(jnp.exp(student), axis=-1), _LEAST_REST)
    return told + rest * (jnp.log(rest) - jnp.log(left))
