"""Causal attention: one function, a choice of implementation."""

from __future__ import annotations

import functools
import logging
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jslm.config import ModelConfig
from jslm.model.blocked import blocked_attention
from jslm.model.splash import splash_attention, splash_refusal
from jslm.parallel import mesh_platform

Implementation = Literal["xla", "cudnn", "splash", "blocked"]
_log = logging.getLogger("jslm")


def choose_attention(
    config: ModelConfig, dtype: DTypeLike, backend: str | None = None, capability: float | None = None
) -> Implementation:
    """What `model.attention` means for training on this backend; `auto`'s reason is logged once.

    cuDNN's flash attention wants a GPU of compute capability 8.0, a 16-bit type, head_dim a multiple of 8 up to 128
    (256 from 9.0 on), and no attention dropout; splash attention a TPU, bfloat16 or float32, a context of a multiple of
    128, and no attention dropout. A run that names one of the two opens on other devices too. CPUs have
    `blocked_attention`, but XLA's where attention drops out.
    """
    backend = backend or mesh_platform()
    if config.attention == "xla" or (config.attention == "cudnn" and backend == "gpu"):
        return config.attention
    if backend == "tpu":
        refusal = splash_refusal(dtype, config.context_length, config.dropout)
        return _chosen("xla", refusal) if refusal else _chosen("splash", "it fits the shapes")
    if backend == "cpu":
        return _chosen("blocked", "the device is a CPU")
    if backend != "gpu" or config.attention == "splash":
        return _chosen("xla", f"the device is a {backend}")
    head_dim, capability = config.dim_per_head, capability or _compute_capability()
    widest = 256 if capability >= 9 else 128
    if capability < 8:
        return _chosen("xla", f"cuDNN flash attention needs compute capability 8.0, and this GPU has {capability}")
    if dtype not in (jnp.bfloat16, jnp.float16):
        return _chosen("xla", f"cuDNN flash attention needs a 16-bit type, not {jnp.dtype(dtype).name}")
    if head_dim % 8 or head_dim > widest:
        return _chosen(
            "xla", f"cuDNN flash attention needs a head width of a multiple of 8 up to {widest} here, not {head_dim}"
        )
    if config.dropout:
        return _chosen("xla", "cuDNN flash attention is used without dropout only")
    return _chosen("cudnn", "flash attention fits the shapes")


def _compute_capability() -> float:
    return float(getattr(jax.devices()[0], "compute_capability", 9.0))


@functools.cache
def _chosen(name: Implementation, reason: str) -> Implementation:
    _log.info("attention: %s (%s)", name, reason)
    return name


def causal_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None = None,
    *,
    implementation: Implementation = "xla",
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v over positions up to each query's own, of its segment. Softmax in float32.

    Vaswani et al. 2017, section 3.2.1; grouped heads: Ainslie et al. 2023 (each key/value head serves
    heads/kv_heads consecutive query heads).
    """
    if implementation == "splash":
        # Evaluation and stages of context (train.curriculum) bring lengths of their own.
        refusal = splash_refusal(q.dtype, q.shape[1], dropout if dropout_key is not None else 0.0)
        if not refusal:
            return splash_attention(q, k, v, segments)
        _chosen("xla", refusal)
    if implementation == "blocked":
        if not (dropout and dropout_key is not None):
            return blocked_attention(q, k, v, segments)
        _chosen("xla", "blocked attention has no dropout")
    same = None if segments is None else segments[:, :, None] == segments[:, None, :]
    if implementation == "cudnn" and same is not None and q.shape[1] % 2:
        _chosen("xla", f"cuDNN flash attention takes packed documents in rows of an even length, not {q.shape[1]}")
    elif implementation == "cudnn":
        mask = None if same is None else same[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn")
    length = q.shape[1]
    keys, values = (jnp.swapaxes(x, 1, 2) for x in (k, v))
    mask = jnp.tril(jnp.ones((length, length), dtype=bool))[None]
    mask = mask if same is None else mask & same
    return grouped_attention(q, keys, values, mask, dropout=dropout, dropout_key=dropout_key)


def cached_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch kv_heads slots head_dim"],
    v: Float[Array, "batch kv_heads slots head_dim"],
    positions: Int[Array, "batch length"],
) -> Float[Array, "batch length heads head_dim"]:
    """Attention of queries at `positions` over a cache whose slot j holds position j; later slots are not seen. In the
    cache's type, which may be wider than the queries'."""
    slots = jnp.arange(k.shape[2], dtype=positions.dtype)
    mask = slots[None, None, :] <= positions[:, :, None]
    rows = q.astype(k.dtype)
    if q.shape[1] * q.shape[2] == k.shape[1] and k.dtype.itemsize == 2 and mesh_platform() == "cpu":
        # A CPU's 16-bit products are for two rows and more; for one they would widen the cache first.
        return grouped_attention(jnp.repeat(rows, 2, axis=2), k, v, mask)[:, :, ::2].astype(q.dtype)
    return grouped_attention(rows, k, v, mask).astype(q.dtype)


def grouped_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch kv_heads slots head_dim"],
    v: Float[Array, "batch kv_heads slots head_dim"],
    mask: Bool[Array, "#batch length slots"],
    *,
    dropout: float = 0.0,
    dropout_key: jax.Array | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """Attention with an explicit mask (True: may be seen); key/value heads lead, which XLA multiplies in place."""
    batch, length, heads, head_dim = q.shape
    kv_heads = k.shape[1]
    group = heads // kv_heads
    grouped = q.reshape(batch, length, kv_heads, group, head_dim).transpose(0, 2, 3, 1, 4)
    rows = grouped.reshape(batch, kv_heads, group * length, head_dim)
    scores = jax.lax.dot_general(rows, k, (((3,), (3,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)
    scores = scores.reshape(batch, kv_heads, group, length, -1)
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, jnp.finfo(jnp.float32).min)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    if dropout_key is not None and dropout:
        kept = jax.random.bernoulli(dropout_key, 1 - dropout, weights.shape)
        weights = jnp.where(kept, weights / (1 - dropout), 0).astype(v.dtype)
    weights = weights.reshape(batch, kv_heads, group * length, -1)
    out = jax.lax.dot_general(weights, v, (((3,), (2,)), ((0, 1), (0, 1))), preferred_element_type=jnp.float32)
    out = out.astype(v.dtype).reshape(batch, kv_heads, group, length, head_dim).transpose(0, 3, 1, 2, 4)
    return out.reshape(batch, length, heads, head_dim)
