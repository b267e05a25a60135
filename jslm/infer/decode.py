"""Two compiled programs: a prefill of whole prompts, and a loop that writes many tokens in one dispatch."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jslm.config import ModelConfig
from jslm.infer.samplers import Plan, Sampling, sample_tokens
from jslm.model import Cache, Params, apply_cached, apply_decoder, decoding_kernels, init_cache, logits_from_hidden

# Tokens that one dispatch of the loop can write; it is given how many to write.
DISPATCH_TOKENS = 256
_SHORTEST_PREFILL = 16
_SLOTS_STEP = 64


class DecodeState(NamedTuple):
    """What lives on the device between dispatches. Each row is at a position of its own."""

    cache: Cache
    logits: Float[Array, "batch vocab"]
    position: Int[Array, " batch"]
    seen: Bool[Array, "batch vocab"] | None


class Written(NamedTuple):
    """Tokens, and their natural log-probabilities under the model's own distribution (temperature 1, no filter).

    What follows a row's end-of-text token, or its last allowed one, means nothing.
    """

    tokens: Int[Array, "batch dispatch"]
    logprobs: Float[Array, "batch dispatch"]


def prefill_length(tokens: int, context: int) -> int:
    """The length that prompts of up to `tokens` are padded to: few lengths, so that few programs are compiled."""
    return min(max(_SHORTEST_PREFILL, 1 << (tokens - 1).bit_length()), context)


def cache_slots(tokens: int, longest_prefill: int, context: int) -> int:
    """Cache slots for rows that grow to `tokens`."""
    return max(min(round_slots(tokens), context), longest_prefill)


def round_slots(tokens: int) -> int:
    """Up to a multiple of 64, so that few programs are compiled."""
    return -(-tokens // _SLOTS_STEP) * _SLOTS_STEP


@functools.partial(jax.jit, static_argnames=("slots", "config", "dtype"))
def prefill(
    params: Params,
    tokens: Int[Array, "batch length"],
    lengths: Int[Array, " batch"],
    seen: Bool[Array, "batch vocab"] | None,
    *,
    slots: int,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> DecodeState:
    """The state after prompts of `lengths` tokens, padded on the right with anything."""
    batch, length = tokens.shape
    positions = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
    kernels = decoding_kernels(config, dtype)
    cache = init_cache(config, batch, slots, dtype)
    hidden, cache = apply_cached(params, tokens, positions, cache, config, dtype, kernels=kernels)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)
    return DecodeState(cache, logits_from_hidden(params, last, config, kernels)[:, 0], lengths, seen)


@functools.partial(jax.jit, static_argnames=("plan", "config", "dtype"), donate_argnames=("state",))
def decode(
    params: Params,
    state: DecodeState,
    left: Int[Array, " batch"],
    count: Int[Array, ""],
    step: Int[Array, ""],
    keys: Key[Array, " batch"],
    end_of_text: Int[Array, ""],
    sampling: Sampling,
    *,
    plan: Plan,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[DecodeState, Written]:
    """`count` more tokens of each row (DISPATCH_TOKENS at most), fewer where all rows end before.

    Row r ends after its end-of-text token or its next `left[r]` tokens. `step` is how many tokens were written before:
    a token's randomness depends on its row's key and its own index, so it is the same however decoding is cut up. Rows
    that have not ended need a cache slot for each token.
    """
    batch = left.shape[0]
    rows = jnp.arange(batch)
    kernels = decoding_kernels(config, dtype)
    empty = Written(jnp.zeros((batch, DISPATCH_TOKENS), jnp.int32), jnp.zeros((batch, DISPATCH_TOKENS), jnp.float32))

    def unfinished(carry: tuple[Array, Array, DecodeState, Written]) -> Array:
        index, left, _, _ = carry
        return (index < count) & jnp.any(left > 0)

    def write_one(
        carry: tuple[Array, Array, DecodeState, Written],
    ) -> tuple[Array, Array, DecodeState, Written]:
        index, left, state, written = carry
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, step + index) if plan.draws else keys
        tokens = sample_tokens(state.logits, step_keys, sampling, state.seen, plan)
        chosen = jnp.take_along_axis(state.logits, tokens[:, None], axis=1)[:, 0]
        logprobs = chosen - jax.nn.logsumexp(state.logits, axis=-1)
        written = Written(
            jax.lax.dynamic_update_slice(written.tokens, tokens[:, None], (0, index)),
            jax.lax.dynamic_update_slice(written.logprobs, logprobs[:, None], (0, index)),
        )
        left = jnp.where(tokens == end_of_text, 0, jnp.maximum(left - 1, 0))
        positions = state.position[:, None]
        hidden, cache = apply_cached(params, tokens[:, None], positions, state.cache, config, dtype, kernels=kernels)
        logits = logits_from_hidden(params, hidden, config, kernels)[:, 0]
        # A row that has ended stays where it is: its position must not run out of the cache.
        position = state.position + (left > 0)
        seen = state.seen.at[rows, tokens].set(True) if state.seen is not None else None
        return index + 1, left, DecodeState(cache, logits, position, seen), written

    _, _, state, written = jax.lax.while_loop(unfinished, write_one, (jnp.int32(0), left, state, empty))
    return state, written


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def all_logits(
    params: Params, tokens: Int[Array, "batch length"], *, config: ModelConfig, dtype: jnp.dtype
) -> Float[Array, "batch length vocab"]:
    """float32 logits at every position, by the forward pass that training uses."""
    kernels = decoding_kernels(config, dtype)
    return logits_from_hidden(params, apply_decoder(params, tokens, config, dtype, kernels=kernels), config, kernels)
