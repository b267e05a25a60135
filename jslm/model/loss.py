"""Cross-entropy fused with the output head, a chunk of positions at a time."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jslm.model.ops import contract, contract_rows, fusion_boundary
from jslm.parallel import constrain, mesh_platform

IGNORED = -1
_CHUNK_BYTES = 64 * 2**20
# What caches of CPUs hold, and rows enough to read the table for.
_CPU_CHUNK_BYTES, _CPU_CHUNK_TOKENS = 16 * 2**20, 1024


def chunk_length(batch: int, length: int, padded_vocab: int, asked: int = 0) -> int:
    """Positions of each sequence in one chunk: the largest divisor of `length` whose float32 logits stay under 64 MB
    (or `asked` tokens over the batch); on CPUs under 16 MB, but no fewer than 1,024 tokens for that."""
    limit = asked or _CHUNK_BYTES // (4 * padded_vocab)
    if not asked and mesh_platform() == "cpu":
        limit = min(limit, max(_CPU_CHUNK_TOKENS, _CPU_CHUNK_BYTES // (4 * padded_vocab)))
    per_row = max(1, limit // batch)
    return max(divisor for divisor in range(1, length + 1) if length % divisor == 0 and divisor <= per_row)


def split_positions(x: Shaped[Array, "batch length *rest"], chunk: int) -> Shaped[Array, "chunks batch chunk *rest"]:
    """The positions in chunks, chunks first, as `jax.lax.scan` and `map` take them."""
    batch, length, *rest = x.shape
    return jnp.moveaxis(x.reshape(batch, length // chunk, chunk, *rest), 1, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def fused_cross_entropy(
    hidden: Float[Array, "batch length d_model"],
    head: Float[Array, "padded_vocab d_model"],
    targets: Int[Array, "batch length"],
    vocab_size: int,
    softcap: float,
    z_loss: float,
    chunk: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums over the positions whose target is not -1: (cross-entropy + z_loss * log(Z)^2, cross-entropy), in nats.

    Only the first sum carries a gradient. Logits exist for `chunk` positions of each sequence at a time, in float32;
    the gradient is formed in the forward pass, while they are there, so nothing is computed twice (Hsu et al. 2024,
    "Liger Kernel", section 3.2). z-loss: Chowdhery et al. 2022, "PaLM", section 5.
    """
    losses, _ = _chunks(hidden, head, targets, vocab_size, softcap, z_loss, chunk, with_gradients=False)
    return losses


def _forward(
    hidden: Array, head: Array, targets: Array, vocab_size: int, softcap: float, z_loss: float, chunk: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return _chunks(hidden, head, targets, vocab_size, softcap, z_loss, chunk, with_gradients=True)


def _backward(
    vocab_size: int,
    softcap: float,
    z_loss: float,
    chunk: int,
    residuals: tuple[Array, Array],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array, None]:
    d_hidden, d_head = residuals
    scale = cotangents[0]
    # The scale (1 / tokens, or a loss scale for float16) is applied in float32, before any narrowing.
    return (d_hidden * scale).astype(d_hidden.dtype), d_head * scale, None


fused_cross_entropy.defvjp(_forward, _backward)


def _chunks(
    hidden: Array,
    head: Array,
    targets: Array,
    vocab_size: int,
    softcap: float,
    z_loss: float,
    chunk: int,
    *,
    with_gradients: bool,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    length = hidden.shape[1]
    weights = head.astype(hidden.dtype)
    one = functools.partial(
        _one_chunk,
        weights=weights,
        vocab_size=vocab_size,
        softcap=softcap,
        z_loss=z_loss,
        with_gradients=with_gradients,
    )
    if chunk == length:
        losses, d_hidden, d_head = one(hidden, targets)
        return losses, (d_hidden, d_head)

    def step(carry: tuple[Array, Array, Array], piece: tuple[Array, Array]) -> tuple[tuple[Array, Array, Array], Array]:
        (objective, loss), d_hidden, d_head = one(*piece)
        return (carry[0] + objective, carry[1] + loss, carry[2] + d_head), d_hidden

    zero = jnp.zeros((), jnp.float32)
    d_head = jnp.zeros(head.shape if with_gradients else (), jnp.float32)
    pieces = split_positions(hidden, chunk), split_positions(targets, chunk)
    (objective, loss, d_head), d_pieces = jax.lax.scan(step, (zero, zero, d_head), pieces)
    d_hidden = jnp.moveaxis(d_pieces, 0, 1).reshape(hidden.shape) if with_gradients else d_pieces
    return (objective, loss), (d_hidden, d_head)


def _one_chunk(
    hidden: Array,
    targets: Array,
    *,
    weights: Array,
    vocab_size: int,
    softcap: float,
    z_loss: float,
    with_gradients: bool,
) -> tuple[tuple[Array, Array], Array, Array]:
    dims = (((2,), (1,)), ((), ()))
    logits = jax.lax.dot_general(hidden, weights, dims, preferred_element_type=jnp.float32)
    logits = constrain(logits, "batch", "length", "vocab")
    padded = weights.shape[0]
    ids = jax.lax.broadcasted_iota(jnp.int32, (1, 1, padded), 2)
    capped = cap_logits(logits, softcap)
    masked = capped if padded == vocab_size else jnp.where(ids < vocab_size, capped, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(masked, axis=-1, keepdims=True))
    log_total = jnp.log(jnp.sum(jnp.exp(masked - top), axis=-1))
    log_z = log_total + top[..., 0]
    target_logit = cap_logits(_pick(logits, targets), softcap)
    counted = targets != IGNORED
    # Not log_z - target_logit, which loses the small losses of tokens that are nearly certain.
    loss = jnp.sum(jnp.where(counted, log_total + (top[..., 0] - target_logit), 0.0))
    objective = loss + z_loss * jnp.sum(jnp.where(counted, jnp.square(log_z), 0.0)) if z_loss else loss
    if not with_gradients:
        nothing = jnp.zeros((), jnp.float32)
        return (objective, loss), nothing, nothing
    # Exponentials once more: cheaper than to write those of the sum and read them again.
    share = jnp.exp(masked - log_z[..., None])
    d_logits = share - (ids == targets[..., None])
    if z_loss:
        d_logits = d_logits + 2 * z_loss * log_z[..., None] * share
    if softcap:
        d_logits = d_logits * (1 - jnp.square(capped / softcap))
    d_logits = jnp.where(counted[..., None], d_logits, 0.0).astype(hidden.dtype)
    d_logits = fusion_boundary(d_logits)
    d_hidden = contract(d_logits, weights, 0)
    d_head = contract_rows(*(x.reshape(-1, x.shape[-1]) for x in (d_logits, hidden)))
    return (objective, loss), d_hidden, d_head


def cap_logits(logits: Float[Array, "*any"], softcap: float) -> Float[Array, "*any"]:
    """`softcap * tanh(logits / softcap)`; unchanged where `softcap` is 0."""
    return softcap * jnp.tanh(logits / softcap) if softcap else logits


def target_log_probs(
    logits: Float[Array, "batch length vocab"], targets: Int[Array, "batch length"]
) -> Float[Array, "batch length"]:
    """log softmax(logits) at each position's target; anything where the target is -1.

    The largest logit goes first: a difference to logsumexp loses the small losses of tokens that are nearly certain.
    """
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1))
    return (_pick(logits, targets) - top) - jnp.log(jnp.sum(jnp.exp(logits - top[..., None]), axis=-1))


def _pick(logits: Array, targets: Array) -> Array:
    """Each position's logit of its target; anything where the target is -1. A sum where the vocabulary may be split."""

    def directly(logits: Array, targets: Array) -> Array:
        return jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]

    def as_sum(logits: Array, targets: Array) -> Array:
        ids = jax.lax.broadcasted_iota(jnp.int32, (1, 1, logits.shape[-1]), 2)
        return jnp.sum(jnp.where(ids == targets[..., None], logits, 0.0), axis=-1)

    y: Array = jax.lax.platform_dependent(logits, targets, cpu=directly, default=as_sum)
    return y
