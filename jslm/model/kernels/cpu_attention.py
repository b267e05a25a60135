"""Attention on CPUs: exact, some heads and a block of queries at a time, so that scores stay in the cache.

As XLA computes attention, each of a dozen passes over the scores goes through memory, and their masked half is computed
like the rest. Here a loop takes a few heads at a time and blocks of queries with the keys up to their own; the backward
pass computes the scores again (Dao et al. 2022, "FlashAttention", algorithms 1 and 4). All products are of operands in
the order that the CPU's matrix kernels take, which for the gradients means scores with keys first.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jslm.model.kernels.cpu_products import fusion_boundary, transpose_matrices
from jslm.model.kernels.sharding import attend_on_each_device

# Blocks are unrolled: more of them skip more of what the causal mask hides, and take longer to compile.
_MOST_BLOCKS = 4
_SHORTEST_BLOCK = 64
# Scores that are worked on together: 1 MB in float32, half of a core's second-level cache.
_SCORES = 2**18
_HIDDEN = float(jnp.finfo(jnp.float32).min)


def blocked_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """`jslm.model.kernels.plain.attention` without dropout, as CPUs compute it fast.

    On a mesh of several devices each has its rows and heads.
    """
    return attend_on_each_device(_attend, q, k, v, segments)


def _attend(q: Array, k: Array, v: Array, segments: Array | None) -> Array:
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
    out = _attention(queries, keys, values, segments)
    out = out.reshape(batch, kv_heads, group, length, head_dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, head_dim)


@jax.custom_vjp
def _attention(
    q: Float[Array, "pairs group length head_dim"],
    k: Float[Array, "pairs length head_dim"],
    v: Float[Array, "pairs length head_dim"],
    segments: Int[Array, "pairs length"] | None,
) -> Float[Array, "pairs group length head_dim"]:
    """A pair is a sequence and a key/value head; `q` has been scaled."""
    return _attention_forward(q, k, v, segments)[0]


def _attention_forward(q: Array, k: Array, v: Array, segments: Array | None) -> tuple[Array, tuple[Array | None, ...]]:
    out, log_z = _over_pairs(_some_forward, (q, k, v, segments))
    return out, (q, k, v, segments, out, log_z)


def _attention_backward(residuals: tuple[Array | None, ...], d_out: Array) -> tuple[Array, Array, Array, None]:
    d_q, d_k, d_v = _over_pairs(_some_backward, (*residuals, fusion_boundary(d_out)))
    return d_q, d_k, d_v, None


_attention.defvjp(_attention_forward, _attention_backward)


def _over_pairs(function: Callable[..., tuple[Array, ...]], arrays: tuple[Array | None, ...]) -> tuple[Array, ...]:
    """`function(*arrays)`, as many pairs at a time as the cache holds the scores of."""
    q = arrays[0]
    assert q is not None
    pairs, group, length, _ = q.shape
    fits = max(1, _SCORES // (group * length * _block_length(length)))
    some = max(divisor for divisor in range(1, pairs + 1) if pairs % divisor == 0 and divisor <= fits)
    if some == pairs:
        return function(*arrays)
    pieces = jax.tree.map(lambda x: x.reshape(pairs // some, some, *x.shape[1:]), arrays)
    found = jax.lax.map(lambda piece: function(*piece), pieces)
    return tuple(x.reshape(pairs, *x.shape[2:]) for x in found)


def _some_forward(q: Array, k: Array, v: Array, segments: Array | None) -> tuple[Array, Array]:
    pairs, group, length, head_dim = q.shape
    outs, log_zs = [], []
    for start, end in _blocks(length):
        rows = q[:, :, start:end].reshape(pairs, -1, head_dim)
        scores = _product(rows, k[:, :end], 2, 2).reshape(pairs, group, end - start, end)
        scores = jnp.where(_seen(start, end, segments)[:, None], scores, _HIDDEN)
        top = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - top)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        weights = weights.astype(q.dtype).reshape(pairs, -1, end)
        out = _product(weights, v[:, :end], 2, 1).reshape(pairs, group, end - start, head_dim)
        outs.append((out / total).astype(q.dtype))
        log_zs.append((top + jnp.log(total))[..., 0])
    return jnp.concatenate(outs, axis=2), jnp.concatenate(log_zs, axis=2)


def _some_backward(
    q: Array, k: Array, v: Array, segments: Array | None, out: Array, log_z: Array, d_out: Array
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
        weights = jnp.where(seen, jnp.exp(scores - log_z[:, None, :, start:end]), 0.0)
        d_weights = _product(v[:, :end], d_rows, 2, 2).reshape(shape)
        d_scores = weights * (d_weights - delta[:, None, :, start:end])
        weights, d_scores = (fusion_boundary(x.astype(q.dtype).reshape(pairs, end, -1)) for x in (weights, d_scores))
        d_qs.append(_product(transposed_keys[:, :, :end], d_scores, 2, 1).reshape(pairs, head_dim, group, end - start))
        d_ks.append(_product(d_scores, rows, 2, 1))
        d_vs.append(_product(weights, d_rows, 2, 1))
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
