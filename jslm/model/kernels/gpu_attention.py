"""Causal attention with dropout on GPUs: a Pallas kernel that keeps scores and masks out of memory.

cuDNN's fused attention takes no dropout by JAX's public function. Here a weight is dropped by a hash of (key, row,
head, query, key position), which the backward pass computes again. Dao 2023, "FlashAttention-2", algorithms 1 and 2.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array, Float, Int

from jslm.model.kernels.choice import FLASH_PREFIX
from jslm.model.kernels.hashed_masks import column_words, kept, row_words, weight_seeds
from jslm.model.kernels.sharding import attend_on_each_device

_LOG2_E = 1.4426950408889634
_HIDDEN = -1e30
# Rows of queries and of keys that are on the chip together, warps and pipeline stages: (own block, other block, warps,
# stages) forward, for the gradients of keys and values, and for that of queries. Tried on an H200: docs/LOG.md.
_FORWARD = (64, 64, 4, 3)
_BACKWARD_KEYS = (64, 64, 4, 3)
_BACKWARD_QUERIES = (64, 32, 4, 3)


def flash_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "batch length heads head_dim"]:
    """`plain.attention` with the weights dropped that `kept_weights` drops, for shapes that `flash_refusal` lets pass.

    `interpret` runs the kernel's steps on any device, slowly.
    """
    rows = (q.shape[0], q.shape[2])
    seeds = jnp.zeros(rows, jnp.uint32) if key is None else weight_seeds(key, *rows)
    return attend_on_each_device(functools.partial(_attend, dropout, interpret), q, k, v, segments, seeds)


def _dropped(weights: Array, query_words: Array, key_words: Array, dropout: float) -> Array:
    return jnp.where(kept(query_words, key_words, dropout), weights, 0.0) if dropout else weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend(
    dropout: float, interpret: bool, q: Array, k: Array, v: Array, segments: Array | None, seeds: Array
) -> Array:
    return _forward(dropout, interpret, q, k, v, segments, seeds)[0]


def _forward(
    dropout: float, interpret: bool, q: Array, k: Array, v: Array, segments: Array | None, seeds: Array
) -> tuple[Array, tuple[Array | None, ...]]:
    batch, length, heads, _ = q.shape
    outputs = [jax.ShapeDtypeStruct(q.shape, q.dtype), jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)]
    own, other, warps, stages = _FORWARD
    kernel = functools.partial(_forward_kernel, dropout=dropout, block=own, other=other)
    call = _call(
        kernel, q, k, segments, own, ["own", "keys", "keys"], outputs, ["own", "sums"], warps, stages, interpret
    )
    out, log_z = call(q, k, v, segments, seeds)
    return out, (q, k, v, segments, seeds, out, log_z)


def _backward(
    dropout: float, interpret: bool, residuals: tuple[Any, ...], d_out: Array
) -> tuple[Array, Array, Array, None, None]:
    q, k, v, segments, seeds, out, log_z = residuals
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1).transpose(0, 2, 1)
    arrays = (q, k, v, segments, seeds, d_out, log_z, delta)
    own, other, warps, stages = _BACKWARD_QUERIES
    kernel = functools.partial(_queries_kernel, dropout=dropout, block=own, other=other)
    whole = jax.ShapeDtypeStruct(q.shape, q.dtype)
    inputs = ["own", "keys", "keys", "own", "sums", "sums"]
    d_q = _call(kernel, q, k, segments, own, inputs, [whole], ["own"], warps, stages, interpret)(*arrays)[0]
    own, other, warps, stages = _BACKWARD_KEYS
    kernel = functools.partial(_keys_kernel, dropout=dropout, block=own, other=other)
    inputs = ["queries", "own_keys", "own_keys", "queries", "all_sums", "all_sums"]
    call = _call(kernel, q, k, segments, own, inputs, [whole, whole], ["own", "own"], warps, stages, interpret)
    d_k, d_v = call(*arrays)
    group = q.shape[2] // k.shape[2]
    if group > 1:
        parts = (x.reshape(*k.shape[:3], group, k.shape[3]).astype(jnp.float32) for x in (d_k, d_v))
        d_k, d_v = (jnp.sum(part, axis=3).astype(k.dtype) for part in parts)
    return d_q, d_k, d_v, None, None


_attend.defvjp(_forward, _backward)


def _call(
    kernel: Any,
    q: Array,
    k: Array,
    segments: Array | None,
    block: int,
    inputs: list[str],
    outputs: list[jax.ShapeDtypeStruct],
    output_kinds: list[str],
    warps: int,
    stages: int,
    interpret: bool,
) -> Any:
    """The kernel (a `functools.partial`) over (blocks, rows, heads).

    Arrays: q, k, v, segments, seeds and the rest of `inputs`, by kind.
    """
    batch, length, heads, head_dim = q.shape
    group = heads // k.shape[2]
    spec = pl.BlockSpec
    kinds = {
        "own": spec((None, block, None, head_dim), lambda i, b, h: (b, i, h, 0)),
        "own_keys": spec((None, block, None, head_dim), lambda i, b, h: (b, i, h // group, 0)),
        "keys": spec((None, length, None, head_dim), lambda i, b, h: (b, 0, h // group, 0)),
        "queries": spec((None, length, None, head_dim), lambda i, b, h: (b, 0, h, 0)),
        "sums": spec((None, None, block), lambda i, b, h: (b, h, i)),
        "all_sums": spec((None, None, length), lambda i, b, h: (b, h, 0)),
    }
    rows = None if segments is None else spec((None, length), lambda i, b, h: (b, 0))
    seed = spec((None, None), lambda i, b, h: (b, h))
    named = [kinds[kind] for kind in inputs]
    return pl.pallas_call(
        kernel,
        name=f"{FLASH_PREFIX}{kernel.func.__name__.strip('_')}",
        grid=(length // block, batch, heads),
        in_specs=[*named[:3], rows, seed, *named[3:]],
        out_specs=[kinds[kind] for kind in output_kinds],
        out_shape=outputs,
        compiler_params=None if interpret else triton.CompilerParams(num_warps=warps, num_stages=stages),
        interpret=interpret,
    )


def _forward_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segments_ref: Any,
    seed_ref: Any,
    out_ref: Any,
    log_z_ref: Any,
    *,
    dropout: float,
    block: int,
    other: int,
) -> None:
    start = pl.program_id(0) * block
    places = start + jnp.arange(block)
    q, seed = q_ref[...], seed_ref[...]
    words = row_words(seed, places.astype(jnp.uint32))
    scale = q.shape[-1] ** -0.5 * _LOG2_E

    def body(index: Array, carry: tuple[Array, Array, Array], diagonal: bool) -> tuple[Array, Array, Array]:
        out, top, total = carry
        keys = index * other + jnp.arange(other)
        at = pl.ds(index * other, other)
        scores = jnp.dot(q, k_ref[at, :].T, preferred_element_type=jnp.float32) * scale
        scores = _hide(scores, places[:, None], keys[None, :], segments_ref, pl.ds(start, block), at, diagonal)
        new_top = jnp.maximum(top, jnp.max(scores, axis=-1))
        weights = jnp.exp2(scores - new_top[:, None])
        shrink = jnp.exp2(top - new_top)
        total = total * shrink + jnp.sum(weights, axis=-1)
        key_words = column_words(seed, keys.astype(jnp.uint32))
        weights = _dropped(weights, words[:, None], key_words[None, :], dropout).astype(q.dtype)
        out = out * shrink[:, None] + jnp.dot(weights, v_ref[at, :], preferred_element_type=jnp.float32)
        return out, new_top, total

    carry = (
        jnp.zeros((block, q.shape[-1]), jnp.float32),
        jnp.full(block, _HIDDEN, jnp.float32),
        jnp.zeros(block, jnp.float32),
    )
    below = start // other
    carry = jax.lax.fori_loop(0, below, functools.partial(body, diagonal=False), carry)
    out, top, total = jax.lax.fori_loop(below, below + block // other, functools.partial(body, diagonal=True), carry)
    out_ref[...] = (out * (1 / ((1 - dropout) * total))[:, None]).astype(out_ref.dtype)
    log_z_ref[...] = top + jnp.log2(total)


def _queries_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segments_ref: Any,
    seed_ref: Any,
    d_out_ref: Any,
    log_z_ref: Any,
    delta_ref: Any,
    d_q_ref: Any,
    *,
    dropout: float,
    block: int,
    other: int,
) -> None:
    start = pl.program_id(0) * block
    places = start + jnp.arange(block)
    q, d_out, log_z, delta, seed = q_ref[...], d_out_ref[...], log_z_ref[...], delta_ref[...], seed_ref[...]
    words = row_words(seed, places.astype(jnp.uint32))
    scale = q.shape[-1] ** -0.5

    def body(index: Array, d_q: Array, diagonal: bool) -> Array:
        keys = index * other + jnp.arange(other)
        at = pl.ds(index * other, other)
        k = k_ref[at, :]
        scores = jnp.dot(q, k.T, preferred_element_type=jnp.float32) * (scale * _LOG2_E)
        scores = _hide(scores, places[:, None], keys[None, :], segments_ref, pl.ds(start, block), at, diagonal)
        weights = jnp.exp2(scores - log_z[:, None])
        d_weights = jnp.dot(d_out, v_ref[at, :].T, preferred_element_type=jnp.float32)
        key_words = column_words(seed, keys.astype(jnp.uint32))
        d_weights = _dropped(d_weights * (1 / (1 - dropout)), words[:, None], key_words[None, :], dropout)
        d_scores = (weights * (d_weights - delta[:, None])).astype(k.dtype)
        return d_q + jnp.dot(d_scores, k, preferred_element_type=jnp.float32)

    below = start // other
    d_q = jnp.zeros((block, q.shape[-1]), jnp.float32)
    d_q = jax.lax.fori_loop(0, below, functools.partial(body, diagonal=False), d_q)
    d_q = jax.lax.fori_loop(below, below + block // other, functools.partial(body, diagonal=True), d_q)
    d_q_ref[...] = (d_q * scale).astype(d_q_ref.dtype)


def _keys_kernel(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segments_ref: Any,
    seed_ref: Any,
    d_out_ref: Any,
    log_z_ref: Any,
    delta_ref: Any,
    d_k_ref: Any,
    d_v_ref: Any,
    *,
    dropout: float,
    block: int,
    other: int,
) -> None:
    start = pl.program_id(0) * block
    keys = start + jnp.arange(block)
    k, v, seed = k_ref[...], v_ref[...], seed_ref[...]
    words = column_words(seed, keys.astype(jnp.uint32))
    scale = k.shape[-1] ** -0.5

    # Keys first: rows of the products are keys, columns queries.
    def body(index: Array, carry: tuple[Array, Array], diagonal: bool) -> tuple[Array, Array]:
        d_k, d_v = carry
        places = index * other + jnp.arange(other)
        at = pl.ds(index * other, other)
        q, d_out = q_ref[at, :], d_out_ref[at, :]
        scores = jnp.dot(k, q.T, preferred_element_type=jnp.float32) * (scale * _LOG2_E)
        scores = _hide(scores, places[None, :], keys[:, None], segments_ref, at, pl.ds(start, block), diagonal, True)
        weights = jnp.exp2(scores - log_z_ref[at][None, :])
        query_words = row_words(seed, places.astype(jnp.uint32))
        share = 1 / (1 - dropout)
        dropped = _dropped(weights * share, query_words[None, :], words[:, None], dropout).astype(q.dtype)
        d_v = d_v + jnp.dot(dropped, d_out, preferred_element_type=jnp.float32)
        d_weights = jnp.dot(v, d_out.T, preferred_element_type=jnp.float32)
        d_weights = _dropped(d_weights * share, query_words[None, :], words[:, None], dropout)
        d_scores = (weights * (d_weights - delta_ref[at][None, :])).astype(q.dtype)
        return d_k + jnp.dot(d_scores, q, preferred_element_type=jnp.float32), d_v

    carry = (jnp.zeros(k.shape, jnp.float32), jnp.zeros(k.shape, jnp.float32))
    first = start // other
    above = first + block // other
    carry = jax.lax.fori_loop(first, above, functools.partial(body, diagonal=True), carry)
    last = q_ref.shape[0] // other
    d_k, d_v = jax.lax.fori_loop(above, last, functools.partial(body, diagonal=False), carry)
    d_k_ref[...] = (d_k * scale).astype(d_k_ref.dtype)
    d_v_ref[...] = d_v.astype(d_v_ref.dtype)


def _hide(
    scores: Array,
    places: Array,
    keys: Array,
    segments_ref: Any,
    query_rows: Any,
    key_rows: Any,
    diagonal: bool,
    keys_first: bool = False,
) -> Array:
    """The scores, those at -1e30 that no query may see: later keys (only on the diagonal), and other documents'."""
    if diagonal:
        scores = jnp.where(places >= keys, scores, _HIDDEN)
    if segments_ref is not None:
        of_queries, of_keys = segments_ref[query_rows], segments_ref[key_rows]
        same = of_keys[:, None] == of_queries[None, :] if keys_first else of_queries[:, None] == of_keys[None, :]
        scores = jnp.where(same, scores, _HIDDEN)
    return scores
