"""Two compiled programs over a group of slots: read a piece of one prompt, and write some tokens of every row.

Both have one shape whatever the traffic: a prompt is read alone, in pieces whose lengths follow from its own, and a
group always decodes at its full width. What a row computes is therefore the same, bit for bit, whoever shares the
group.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jslm.config import ModelConfig
from jslm.infer import Sampling, draw_tokens, filter_logits, likeliest_tokens, penalise_repetition
from jslm.model import Cache, Params, apply_cached, decoding_kernels, init_cache, logits_from_hidden

# Tokens that one dispatch of `decode` can write; it is given how many to write.
DISPATCH_TOKENS = 16
# Likeliest tokens that are reported beside each one, where any row asks for them.
TOP_TOKENS = 20
_SHORTEST_PIECE = 16


class Settings(NamedTuple):
    """How a row is written: a column a slot on the device, one entry of each when a row joins.

    `labels` are those of the model's conditions, -1 for none; a model without conditions has no kinds.
    """

    sampling: Sampling
    presence_penalty: Float[Array, "*slots"]
    frequency_penalty: Float[Array, "*slots"]
    key: Key[Array, "*slots"]
    wants_top: Bool[Array, "*slots"]
    labels: Int[Array, "*slots kinds"]


class SlotState(NamedTuple):
    """What lives on the device between dispatches, a row a slot. Slots without a row have `left` = 0.

    `left`: tokens that the row may still write; `written`: those it has. `seen`: what the repetition penalty is for
    (prompt and continuation); `counts`: how often the continuation has each token.
    """

    cache: Cache
    logits: Float[Array, "slots vocab"]
    position: Int[Array, " slots"]
    left: Int[Array, " slots"]
    written: Int[Array, " slots"]
    seen: Bool[Array, "slots vocab"]
    counts: Int[Array, "slots vocab"]
    settings: Settings


class Written(NamedTuple):
    """Tokens with natural log-probabilities under the model's own distribution (temperature 1, no filter or penalty).

    What follows a row's end-of-text token, or its last allowed one, means nothing; the same holds for `top` where no
    row wants it.
    """

    tokens: Int[Array, "slots dispatch"]
    logprobs: Float[Array, "slots dispatch"]
    top_tokens: Int[Array, "slots dispatch top"]
    top_logprobs: Float[Array, "slots dispatch top"]


class Scores(NamedTuple):
    """Of the token after each of a piece: `target`'s log-probability, and the likeliest tokens."""

    logprobs: Float[Array, " length"]
    top_tokens: Int[Array, "length top"]
    top_logprobs: Float[Array, "length top"]


def piece_lengths(tokens: int, chunk: int, context: int) -> list[tuple[int, int]]:
    """(tokens, padded length) of each piece in which a prompt is read: full chunks, then a power of two."""
    pieces = []
    for start in range(0, tokens, chunk):
        length = min(chunk, tokens - start)
        padded = min(max(_SHORTEST_PIECE, 1 << (length - 1).bit_length()), chunk, context - start)
        pieces.append((length, padded))
    return pieces


@functools.partial(jax.jit, static_argnames=("slots", "config", "dtype"))
def empty_state(*, slots: int, config: ModelConfig, dtype: jnp.dtype) -> SlotState:
    """A group of `slots` free slots, each with a cache of the whole context."""
    floats, ints = jnp.zeros(slots, jnp.float32), jnp.zeros(slots, jnp.int32)
    sampling = Sampling(floats, ints, floats + 1, floats, floats + 1)
    key = jax.random.split(jax.random.key(0), slots)
    labels = jnp.full((slots, len(config.conditions)), -1, jnp.int32)
    return SlotState(
        cache=init_cache(config, slots, config.context_length, dtype),
        logits=jnp.zeros((slots, config.vocab_size), jnp.float32),
        position=ints,
        left=ints,
        written=ints,
        seen=jnp.zeros((slots, config.vocab_size), bool),
        counts=jnp.zeros((slots, config.vocab_size), jnp.int32),
        settings=Settings(sampling, floats, floats, key, jnp.zeros(slots, bool), labels),
    )


@functools.partial(jax.jit, static_argnames=("scored", "config", "dtype"), donate_argnames=("state",))
def read_piece(
    params: Params,
    state: SlotState,
    slot: Int[Array, ""],
    tokens: Int[Array, "1 length"],
    targets: Int[Array, " length"],
    start: Int[Array, ""],
    count: Int[Array, ""],
    left: Int[Array, ""],
    seen: Bool[Array, " vocab"],
    settings: Settings,
    *,
    scored: bool,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[SlotState, Scores | None]:
    """`count` prompt tokens (padded on the right) into a slot, at positions `start` on; `Scores` of them if `scored`.

    `left` is 0 but for a prompt's last piece, after which the row writes. Until then the group's decoding leaves a
    token of nothing at the row's position, which the next piece overwrites.
    """
    length = tokens.shape[1]
    row_cache = jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, slot, 1), state.cache)
    positions = start + jnp.arange(length, dtype=jnp.int32)[None]
    kernels = decoding_kernels(config, dtype)
    hidden, row_cache = apply_cached(
        params, tokens, positions, row_cache, config, dtype, conditions=settings.labels[None], kernels=kernels
    )
    cache = jax.tree.map(
        lambda leaf, row: jax.lax.dynamic_update_slice_in_dim(leaf, row, slot, 0), state.cache, row_cache
    )
    last = jax.lax.dynamic_slice_in_dim(hidden, count - 1, 1, axis=1)
    scores = None
    if scored:
        logprobs = jax.nn.log_softmax(logits_from_hidden(params, hidden, config, kernels)[0])
        top_logprobs, top_tokens = _top(logprobs)
        scores = Scores(jnp.take_along_axis(logprobs, targets[:, None], axis=1)[:, 0], top_tokens, top_logprobs)
    state = SlotState(
        cache=cache,
        logits=state.logits.at[slot].set(logits_from_hidden(params, last, config, kernels)[0, 0]),
        position=state.position.at[slot].set(start + count),
        left=state.left.at[slot].set(left),
        written=state.written.at[slot].set(0),
        seen=state.seen.at[slot].set(seen),
        counts=state.counts.at[slot].set(0),
        settings=jax.tree.map(lambda column, value: column.at[slot].set(value), state.settings, settings),
    )
    return state, scores


@functools.partial(jax.jit, static_argnames=("config", "dtype"), donate_argnames=("state",))
def decode(
    params: Params,
    state: SlotState,
    alive: Bool[Array, " slots"],
    count: Int[Array, ""],
    end_of_text: Int[Array, ""],
    *,
    config: ModelConfig,
    dtype: jnp.dtype,
) -> tuple[SlotState, Written]:
    """`count` more tokens of each row (DISPATCH_TOKENS at most), fewer where all rows end before.

    Rows that are not `alive` end at once. A token's randomness depends on its row's key and its own index in the row.
    """
    slots = alive.shape[0]
    rows = jnp.arange(slots)
    kernels = decoding_kernels(config, dtype)
    top = min(TOP_TOKENS, config.vocab_size)
    empty = Written(
        jnp.zeros((slots, DISPATCH_TOKENS), jnp.int32),
        jnp.zeros((slots, DISPATCH_TOKENS), jnp.float32),
        jnp.zeros((slots, DISPATCH_TOKENS, top), jnp.int32),
        jnp.zeros((slots, DISPATCH_TOKENS, top), jnp.float32),
    )

    def unfinished(carry: tuple[Array, SlotState, Written]) -> Array:
        index, state, _ = carry
        return (index < count) & jnp.any(state.left > 0)

    def write_one(carry: tuple[Array, SlotState, Written]) -> tuple[Array, SlotState, Written]:
        index, state, out = carry
        active = state.left > 0
        tokens = _choose(state, active)
        normaliser = jax.nn.logsumexp(state.logits, axis=-1, keepdims=True)
        logprobs = jnp.take_along_axis(state.logits, tokens[:, None], axis=1) - normaliser
        out = Written(
            jax.lax.dynamic_update_slice(out.tokens, tokens[:, None], (0, index)),
            jax.lax.dynamic_update_slice(out.logprobs, logprobs, (0, index)),
            *_write_top(state, normaliser, active, out, index),
        )
        left = jnp.where(tokens == end_of_text, 0, jnp.maximum(state.left - 1, 0))
        positions, labels = state.position[:, None], state.settings.labels
        hidden, cache = apply_cached(
            params, tokens[:, None], positions, state.cache, config, dtype, conditions=labels, kernels=kernels
        )
        state = SlotState(
            cache=cache,
            logits=logits_from_hidden(params, hidden, config, kernels)[:, 0],
            # A row that has ended stays where it is: its position must not run out of the cache.
            position=state.position + (left > 0),
            left=left,
            written=state.written + active,
            seen=state.seen.at[rows, tokens].max(active),
            counts=state.counts.at[rows, tokens].add(active.astype(jnp.int32)),
            settings=state.settings,
        )
        return index + 1, state, out

    state = state._replace(left=jnp.where(alive, state.left, 0))
    _, state, written = jax.lax.while_loop(unfinished, write_one, (jnp.int32(0), state, empty))
    return state, written


def _choose(state: SlotState, active: Bool[Array, " slots"]) -> Int[Array, " slots"]:
    """The next token of each row. What no active row asks for is skipped at run time and would change nothing."""
    sampling, settings = state.settings.sampling, state.settings
    draws = active & (sampling.temperature > 0)
    sorts = draws & ((sampling.top_k > 0) | (sampling.top_p < 1))
    penalises = active & (
        (sampling.repetition_penalty != 1) | (settings.presence_penalty != 0) | (settings.frequency_penalty != 0)
    )
    logits = jax.lax.cond(jnp.any(penalises), lambda: _penalise(state), lambda: state.logits)
    likeliest = likeliest_tokens(logits)

    def draw() -> Array:
        filtered = jax.lax.cond(
            jnp.any(sorts),
            lambda: filter_logits(logits, sampling, sort=True),
            lambda: filter_logits(logits, sampling, sort=False),
        )
        keys = jax.vmap(jax.random.fold_in)(settings.key, state.written)
        drawn = draw_tokens(filtered, keys)
        return jnp.where(sampling.temperature > 0, drawn, likeliest)

    return jax.lax.cond(jnp.any(draws), draw, lambda: likeliest)


def _penalise(state: SlotState) -> Float[Array, "slots vocab"]:
    """Repetition, then presence and frequency penalties, as OpenAI's API defines those two: over the continuation."""
    settings = state.settings
    logits = penalise_repetition(state.logits, state.seen, settings.sampling.repetition_penalty)
    presence = jnp.where(state.counts > 0, settings.presence_penalty[:, None], 0.0)
    return logits - presence - state.counts.astype(jnp.float32) * settings.frequency_penalty[:, None]


def _write_top(
    state: SlotState, normaliser: Array, active: Array, out: Written, index: Array
) -> tuple[Int[Array, "slots dispatch top"], Float[Array, "slots dispatch top"]]:
    def write() -> tuple[Array, Array]:
        logprobs, tokens = _top(state.logits - normaliser)
        return (
            jax.lax.dynamic_update_slice(out.top_tokens, tokens[:, None], (0, index, 0)),
            jax.lax.dynamic_update_slice(out.top_logprobs, logprobs[:, None], (0, index, 0)),
        )

    wanted = jnp.any(active & state.settings.wants_top)
    tokens, logprobs = jax.lax.cond(wanted, write, lambda: (out.top_tokens, out.top_logprobs))
    return tokens, logprobs


def _top(logprobs: Float[Array, "rows vocab"]) -> tuple[Float[Array, "rows top"], Int[Array, "rows top"]]:
    """The likeliest tokens, likeliest first."""
    values, tokens = jax.lax.top_k(logprobs, min(TOP_TOKENS, logprobs.shape[-1]))
    return values, tokens.astype(jnp.int32)
