"""The decoder's arithmetic as anyone would write it in JAX, and as JAX differentiates it.

The reference that every other kernel is tested against, and what a platform computes where measuring says nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jslm.model.kernels.base import Branch, Kernels, Params
from jslm.parallel import constrain

IGNORED = -1


def linear(x: Float[Array, "*batch d_in"], kernel: Float[Array, "d_in d_out"]) -> Float[Array, "*batch d_out"]:
    """x @ kernel in x's type."""
    return jnp.dot(x, kernel.astype(x.dtype))


def add_vector(x: Float[Array, "*batch width"], vector: Float[Array, " width"]) -> Float[Array, "*batch width"]:
    """x + vector in x's type, by way of float32: so the vector's gradient is a sum in float32."""
    return (x.astype(jnp.float32) + _as_row(vector, x)).astype(x.dtype)


def add_bias(
    x: Float[Array, "*batch width"],
    bias: Float[Array, " width"] | None,
    add: Callable[[Array, Array], Array] = add_vector,
) -> Float[Array, "*batch width"]:
    """x with its bias added by `add`; x itself where there is none."""
    return x if bias is None else add(x, bias)


def project(x: Float[Array, "batch length d_model"], weights: list[Params]) -> list[Float[Array, "batch length _"]]:
    """x @ kernel (+ bias) for each of several {"kernel": [d_model, width], "bias": [width]}."""
    return [add_bias(linear(x, each["kernel"]), each.get("bias")) for each in weights]


def normalize(
    x: Float[Array, "*batch width"], scale: Float[Array, " width"], eps: float, center: bool
) -> Float[Array, "*batch width"]:
    """(x - mean) / sqrt(variance + eps) * scale over the last axis, in float32; without `center` the mean stays in.

    Ba et al. 2016, "Layer Normalization"; without `center` Zhang & Sennrich 2019, "Root Mean Square Layer
    Normalization".
    """
    y = x.astype(jnp.float32)
    if center:
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * inverse * _as_row(scale, x)).astype(x.dtype)


def normalized_branch(
    x: Float[Array, "*batch width"],
    scale: Float[Array, " width"],
    bias: Float[Array, " width"] | None,
    eps: float,
    center: bool,
) -> tuple[Float[Array, "*batch width"], Float[Array, "*batch width"]]:
    """The residual stream x, and what its branch reads: `normalize` of it (+ bias)."""
    return x, add_bias(normalize(x, scale, eps, center), bias)


def residual_dtype(dtype: DTypeLike) -> DTypeLike:
    """The type of the residual stream, for that compute type."""
    return dtype


def add_residual(
    x: Float[Array, "batch length d_model"], branch: Float[Array, "batch length d_model"]
) -> Float[Array, "batch length d_model"]:
    """x + branch."""
    return constrain(x + branch, "batch", "length", "activation_embed")


def activate(name: str, up: Branch, gate: Branch | None) -> Float[Array, "batch length d_ff"]:
    """The activation that `model.activation` names, of `up`, or of `gate` times `up`; in float32, given in up's type.

    `up` and `gate`: products `[batch, length, d_ff]`, and the biases `[d_ff]` that are still to be added to them.
    """
    wide, narrow = add_bias(*up).astype(jnp.float32), up[0].dtype
    if gate is None:
        return activation_function(name)(wide).astype(narrow)
    return (activation_function(name)(add_bias(*gate).astype(jnp.float32)) * wide).astype(narrow)


def activation_function(name: str) -> Callable[[Array], Array]:
    """The element-wise function of a `model.activation`."""
    functions: dict[str, Callable[[Array], Array]] = {
        "swiglu": nn.silu,
        "geglu": lambda x: nn.gelu(x, approximate=True),
        "gelu": lambda x: nn.gelu(x, approximate=True),
        "gelu_exact": lambda x: nn.gelu(x, approximate=False),
        "relu": nn.relu,
    }
    return functions.get(name, lambda x: jnp.square(nn.relu(x)))


def rotate(
    x: Float[Array, "batch length heads head_dim"],
    cos: Float[Array, "#batch length 1 half"],
    sin: Float[Array, "#batch length 1 half"],
) -> Float[Array, "batch length heads head_dim"]:
    """Each pair (x[i], x[i + head_dim/2]) rotated; in float32, given in x's type."""
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def dropout(x: Float[Array, "*any"], rate: float, key: jax.Array) -> Float[Array, "*any"]:
    """Each element zero with probability `rate`, else divided by 1 - rate (Srivastava et al. 2014)."""
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jax.lax.select(kept, x / (1 - rate), jnp.zeros_like(x))


def attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None = None,
    dropout: float = 0.0,
    key: jax.Array | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v over positions up to each query's own, of its segment. Softmax in float32.

    `dropout` is that of the weights, by `key`. Vaswani et al. 2017, section 3.2.1; grouped heads: Ainslie et al. 2023
    (each key/value head serves heads/kv_heads consecutive query heads).
    """
    length = q.shape[1]
    keys, values = (jnp.swapaxes(x, 1, 2) for x in (k, v))
    mask = jnp.tril(jnp.ones((length, length), dtype=bool))[None]
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])
    return grouped_attention(q, keys, values, mask, dropout=dropout, dropout_key=key)


def cached_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch kv_heads slots head_dim"],
    v: Float[Array, "batch kv_heads slots head_dim"],
    positions: Int[Array, "batch length"],
) -> Float[Array, "batch length heads head_dim"]:
    """Attention of queries at `positions` over a cache whose slot j holds position j; later slots are not seen. In the
    cache's type, which may be wider than the queries'."""
    return grouped_attention(q.astype(k.dtype), k, v, visible_slots(k, positions)).astype(q.dtype)


def visible_slots(k: Array, positions: Int[Array, "batch length"]) -> Bool[Array, "batch length slots"]:
    """Which slots of a cache are seen from each of `positions`."""
    slots = jnp.arange(k.shape[2], dtype=positions.dtype)
    return slots[None, None, :] <= positions[:, :, None]


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


def cache_dtype(dtype: DTypeLike) -> DTypeLike:
    """The type of the cache's keys and values, for that compute type."""
    return dtype


def write_cache(
    cache: Float[Array, "batch kv_heads slots head_dim"],
    new: Float[Array, "batch length kv_heads head_dim"],
    start: Int[Array, " batch"],
) -> Float[Array, "batch kv_heads slots head_dim"]:
    """The cache with `new` in slots start, start + 1, ... of each row."""
    new = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    return jax.vmap(lambda row, update, at: jax.lax.dynamic_update_slice(row, update, (0, at, 0)))(cache, new, start)


def decoding_params(params: Params, vocab_size: int) -> Params:
    """Unstacked parameters as decoding multiplies by them, the output head cut to the true vocabulary.

    The head is `head/kernel` `[d_model, vocab]`: inside the decoding loop XLA would slice and transpose the padded
    table again for each token.
    """
    return {**params, "head": {"kernel": jnp.asarray(head_table(params)[:vocab_size].T)}}


def head_logits(
    params: Params, hidden: Float[Array, "batch length d_model"], vocab_size: int
) -> Float[Array, "batch length vocab"]:
    """float32 logits over the true vocabulary, by a parameter tree as it is trained."""
    return _logits(hidden, head_table(params)[:vocab_size].T)


def decoding_head_logits(
    params: Params, hidden: Float[Array, "batch length d_model"], vocab_size: int
) -> Float[Array, "batch length vocab"]:
    """float32 logits, by the head of `decoding_params`."""
    return _logits(hidden, params["head"]["kernel"])


def _logits(hidden: Array, kernel: Array) -> Array:
    return jnp.einsum("btd,dv->btv", hidden, kernel.astype(hidden.dtype), preferred_element_type=jnp.float32)


def head_table(params: Params) -> Float[Array, "padded_vocab d_model"]:
    """The output projection, a row a token: its own table, or the token embedding where tied."""
    table: Array = params["head"]["tokens"] if "head" in params else params["embed"]["tokens"]
    return table


def cross_entropy(
    hidden: Float[Array, "batch length d_model"],
    head: Float[Array, "padded_vocab d_model"],
    targets: Int[Array, "batch length"],
    vocab_size: int,
    softcap: float,
    z_loss: float,
    chunk: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums over the positions whose target is not -1: (cross-entropy + z_loss * log(Z)^2, cross-entropy), in nats.

    Logits in float32, of all positions at once; platforms keep them out of memory, `chunk` positions of each sequence
    at a time. z-loss: Chowdhery et al. 2022, "PaLM", section 5.
    """
    logits = jnp.einsum("btd,vd->btv", hidden, head.astype(hidden.dtype), preferred_element_type=jnp.float32)
    logits = cap_logits(logits, softcap)[..., :vocab_size]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    counted = targets != IGNORED
    losses = jnp.where(counted, log_z - pick_logit(logits, targets), 0.0)
    return jnp.sum(losses + z_loss * jnp.where(counted, jnp.square(log_z), 0.0)), jnp.sum(losses)


def loss_chunk(batch: int, length: int, padded_vocab: int, asked: int = 0) -> int:
    """Positions of each sequence in one chunk of the loss: here all of them."""
    return length


def cap_logits(logits: Float[Array, "*any"], softcap: float) -> Float[Array, "*any"]:
    """`softcap * tanh(logits / softcap)`; unchanged where `softcap` is 0."""
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def mask_padding(logits: Float[Array, "*any padded_vocab"], vocab_size: int) -> Float[Array, "*any padded_vocab"]:
    """The logits, those past `vocab_size` at -inf."""
    if logits.shape[-1] == vocab_size:
        return logits
    ids = jax.lax.broadcasted_iota(jnp.int32, (1,) * (logits.ndim - 1) + logits.shape[-1:], logits.ndim - 1)
    return jnp.where(ids < vocab_size, logits, -jnp.inf)


def pick_logit(
    logits: Float[Array, "batch length vocab"], targets: Int[Array, "batch length"]
) -> Float[Array, "batch length"]:
    """Each position's logit of its target; anything where the target is -1. A sum, as the vocabulary may be split."""
    ids = jax.lax.broadcasted_iota(jnp.int32, (1, 1, logits.shape[-1]), 2)
    return jnp.sum(jnp.where(ids == targets[..., None], logits, 0.0), axis=-1)


def update_if(good: Bool[Array, ""], function: Callable[..., Any], *before: Any) -> Any:
    """`function(*before)` where `good`, else `before`: chosen element by element, which nobody has to wait for."""
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), function(*before), before)


def _as_row(scale: Array, like: Array) -> Array:
    return scale.reshape((1,) * (like.ndim - 1) + scale.shape)


PLAIN = Kernels(
    linear=linear,
    add_vector=add_vector,
    project=project,
    normalize=normalize,
    normalized_branch=normalized_branch,
    residual_dtype=residual_dtype,
    add_residual=add_residual,
    activate=activate,
    rotate=rotate,
    dropout=dropout,
    attention=attention,
    # A loop compiles one layer whatever their number, and keeps one set of temporaries.
    unrolled_layers=8,
    cache_dtype=cache_dtype,
    cached_attention=cached_attention,
    write_cache=write_cache,
    decoding_params=decoding_params,
    head_logits=head_logits,
    rows_together=64,
    cross_entropy=cross_entropy,
    loss_chunk=loss_chunk,
    pick_logit=pick_logit,
    update_if=update_if,
)
