"""Attention on CPUs: exact, some heads and a block of queries at a time, so that scores stay in the cache.

As XLA computes attention, each of a dozen passes over the scores goes through memory, and their masked half is computed
like the rest. Here a loop takes a few heads at a time and blocks of queries with the keys up to their own; the backward
pass computes the scores again (Dao et al. 2022, "FlashAttention", algorithms 1 and 4). All products are of operands in
the order that the CPU's matrix kernels take, which for the gradients means scores with keys first.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from jslm.model.kernels.cpu_products import fusion_boundary, transpose_matrices
from jslm.model.kernels.hashed_masks import column_words, kept, row_words, weight_seeds
from jslm.model.kernels.sharding import attend_on_each_device

# Blocks are unrolled: more of them skip more of what the causal mask hides, and take longer to compile.
_MOST_BLOCKS = 4
_SHORTEST_BLOCK = 64
# Scores that are worked on together: 1 MB in float32, half of a core's second-level cache.
_SCORES = 2**18
_HIDDEN = float(jnp.finfo(jnp.float32).min)
_Words = tuple[UInt32[Array, "pairs group length"], UInt32[Array, "pairs group length"]]


def blocked_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """`jslm.model.kernels.plain.attention`, as CPUs compute it fast; the weights drop that `kept_weights` drops.

    On a mesh of several devices each has its rows and heads.
    """
    if not dropout or key is None:
        return attend_on_each_device(functools.partial(_attend, 0.0), q, k, v, segments)
    seeds = weight_seeds(key, q.shape[0], q.shape[2])
    return attend_on_each_device(functools.partial(_attend, dropout), q, k, v, segments, seeds)


def _attend(dropout: float, q: Array, k: Array, v: Array, segments: Array | None, seeds: Array | None = None) -> Array:
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    scaled = (q * head_dim**-0.5).astype(q.dtype)
    queries = scaled.reshape(batch, length, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    queries = fusion_boundary(queries.reshape(batch * kv_heads, group, length, head_dim))
    keys, values = (
        fusion_boundary(x.transpose(0, 2, 1, 3).reshape(batch * kv_heads, length, head_dim)) for x in (k, v)
    )
    if segments is not None:
        segments = jnp.repeat(segments, kv_heads, axis=0)
    words = None
    if seeds is not None:
        places = jnp.arange(length, dtype=jnp.uint32)[None, None]
        seeds = seeds.reshape(batch * kv_heads, group, 1)
        words = row_words(seeds, places), column_words(seeds, places)
    out = _attention(dropout, queries, keys, values, segments, words)
    out = out.reshape(batch, kv_heads, group, length, head_dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, head_dim)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attention(
    dropout: float,
    q: Float[Array, "pairs group length head_dim"],
    k: Float[Array, "pairs length head_dim"],
    v: Float[Array, "pairs length head_dim"],
    segments: Int[Array, "pairs length"] | None,
    words: _Words | None,
) -> Float[Array, "pairs group length head_dim"]:
    """A pair is a sequence and a key/value head; `q` has been scaled. `words`: of the queries and the keys of the mask
    of dropout."""
    return _attention_forward(dropout, q, k, v, segments, words)[0]


def _attention_forward(
    dropout: float, q: Array, k: Array, v: Array, segments: Array | None, words: _Words | None
) -> tuple[Array, tuple[Any, ...]]:
    out, log_z = _over_pairs(functools.partial(_some_forward, dropout), (q, k, v, segments, words))
    return out, (q, k, v, segments, words, out, log_z)


def _attention_backward(
    dropout: float, residuals: tuple[Any, ...], d_out: Array
) -> tuple[Array, Array, Array, None, None]:
    d_q, d_k, d_v = _over_pairs(functools.partial(_some_backward, dropout), (*residuals, fusion_boundary(d_out)))
    return d_q, d_k, d_v, None, None


_attention.defvjp(_attention_forward, _attention_backward)


def _over_pairs(function: Callable[..., tuple[Array, ...]], arrays: tuple[Any, ...]) -> tuple[Array, ...]:
    """`function(*arrays)`, as many pairs at a time as the cache holds the scores of."""
    q = arrays[0]
    pairs, group, length, _ = q.shape
    fits = max(1, _SCORES // (group * length * _block_length(length)))
    some = max(divisor for divisor in range(1, pairs + 1) if pairs % divisor == 0 and divisor <= fits)
    if some == pairs:
        return function(*arrays)
    pieces = jax.tree.map(lambda x: x.reshape(pairs // some, some, *x.shape[1:]), arrays)
    found = jax.lax.map(lambda piece: function(*jax.tree.map(_cut_out, piece)), pieces)
    return tuple(x.reshape(pairs, *x.shape[2:]) for x in found)


def _cut_out(x: Array) -> Array:
    """Integers stand by themselves before they are compared: the compiler would take them from the whole array within
    the loop over scores, an element at a time, and `exp` with them (6.6 times as long)."""
    return fusion_boundary(x) if jnp.issubdtype(x.dtype, jnp.integer) else x


def _some_forward(
    dropout: float, q: Array, k: Array, v: Array, segments: Array | None, words: _Words | None
) -> tuple[Array, Array]:
    pairs, group, length, head_dim = q.shape
    outs, log_zs = [], []
    for start, end in _blocks(length):
        rows = q[:, :, start:end].reshape(pairs, -1, head_dim)
        scores = _product(rows, k[:, :end], 2, 2).reshape(pairs, group, end - start, end)
        scores = jnp.where(_seen(start, end, segments)[:, None], scores, _HIDDEN)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        if words is not None:
            queries, keys = words
            weights = jnp.where(kept(queries[:, :, start:end, None], keys[:, :, None, :end], dropout), weights, 0.0)
        weights = weights.astype(q.dtype).reshape(pairs, -1, end)
        out = _product(weights, v[:, :end], 2, 1).reshape(pairs, group, end - start, head_dim)
        outs.append((out / (total * (1 - dropout))).astype(q.dtype))
        log_zs.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(outs, axis=2), jnp.concatenate(log_zs, axis=2)


def _some_backward(
    dropout: float,
    q: Array,
    k: Array,
    v: Array,
    segments: Array | None,
    words: _Words | None,
    out: Array,
    log_z: Array,
    d_out: Array,
) -> tuple[Array, Array, Array]:
    pairs, group, length, head_dim = q.shape
    delta = jnp.sum(d_out.astype(jnp.float32) * out.astype(jnp.float32), axis=-1)
    transposed_keys = transpose_matrices(k)
    d_qs, d_ks, d_vs = [], [], []
    for start, end in _blocks(length):
        rows, d_rows = (x[:, :, start:end].reshape(pairs, -1, head_dim) for x in (q, d_out))
        # Keys first.
        shape = (pairs, end, group, end - start)
        scores = _product(k[:, :end], rows, 2, 2).reshape(shape)
        seen = jnp.swapaxes(_seen(start, end, segments), 1, 2)[:, :, None]
        # Hidden ones are nothing by their exponent: what reads the weights needs no mask.
        weights = jnp.exp(jnp.where(seen, scores - log_z[:, None, :, start:end], _HIDDEN))
        d_weights = _product(v[:, :end], d_rows, 2, 2).reshape(shape)
        dropped = weights
        if words is not None:
            queries, keys = words[0][:, None, :, start:end], jnp.swapaxes(words[1], 1, 2)[:, :end, :, None]
            stays = kept(queries, keys, dropout)
            share = 1 / (1 - dropout)
            dropped, d_weights = (jnp.where(stays, x * share, 0.0) for x in (weights, d_weights))
        d_scores = weights * (d_weights - delta[:, None, :, start:end])
        dropped, d_scores = (fusion_boundary(x.astype(q.dtype).reshape(pairs, end, -1)) for x in (dropped, d_scores))
        d_qs.append(_product(transposed_keys[:, :, :end], d_scores, 2, 1).reshape(pairs, head_dim, group, end - start))
        d_ks.append(_product(d_scores, rows, 2, 1))
        d_vs.append(_product(dropped, d_rows, 2, 1))
    d_q = jnp.concatenate(d_qs, axis=3).transpose(0, 2, 3, 1)
    return d_q.astype(q.dtype), _add_up(d_ks).astype(k.dtype), _add_up(d_vs).astype(v.dtype)


def _add_up(parts: list[Array]) -> Array:
    """The sum of parts that begin at the same row, and end later and later."""
    total = parts[-1]
    for part in parts[:-1]:
        total = total.at[:, : part.shape[1]].add(part)
    return total


def _block_length(length: int) -> int:
    return min(length, max(_SHORTEST_BLOCK, -(-length // _MOST_BLOCKS)))


def _blocks(length: int) -> list[tuple[int, int]]:
    size = _block_length(length)
    return [(start, min(start + size, length)) for start in range(0, length, size)]


def _seen(start: int, end: int, segments: Array | None) -> Array:
    """`[1 or pairs, queries, keys]`: whether queries start .. end see keys 0 .. end."""
    causal = (jnp.arange(start, end)[:, None] >= jnp.arange(end)[None, :])[None]
    if segments is None:
        return causal
    return causal & (segments[:, start:end, None] == segments[:, None, :end])


def _product(a: Array, b: Array, a_axis: int, b_axis: int) -> Array:
    """Products of matrices, a pair each, accumulated and given in float32."""
    dims = (((a_axis,), (b_axis,)), ((0,), (0,)))
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32)
