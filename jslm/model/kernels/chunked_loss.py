"""Cross-entropy fused with the output head, a chunk of positions at a time, its gradient formed in the forward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

from jslm.model.kernels import plain
from jslm.model.kernels.plain import IGNORED, cap_logits
from jslm.parallel import constrain


def contract(a: Float[Array, "*batch k"], b: Float[Array, "k n"]) -> Float[Array, "*batch n"]:
    """a b, in a's type."""
    return jnp.dot(a, b)


def contract_rows(a: Float[Array, "rows m"], b: Float[Array, "rows n"]) -> Float[Array, "m n"]:
    """a^T b, accumulated and given in float32."""
    return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)


class Products(NamedTuple):
    """How a platform multiplies and what it keeps, inside the loss."""

    contract: Callable[[Array, Array], Array] = contract
    contract_rows: Callable[[Array, Array], Array] = contract_rows
    keep: Callable[[Array], Array] = lambda x: x
    pick_logit: Callable[[Array, Array], Array] = plain.pick_logit


def chunk_of(batch: int, length: int, limit: int) -> int:
    """Positions of each of `batch` sequences in one chunk of at most `limit` tokens: a divisor of `length`."""
    per_row = max(1, limit // batch)
    return max(divisor for divisor in range(1, length + 1) if length % divisor == 0 and divisor <= per_row)


def split_positions(x: Shaped[Array, "batch length *rest"], chunk: int) -> Shaped[Array, "chunks batch chunk *rest"]:
    """The positions in chunks, chunks first, as `jax.lax.scan` and `map` take them."""
    batch, length, *rest = x.shape
    return jnp.moveaxis(x.reshape(batch, length // chunk, chunk, *rest), 1, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4, 5, 6, 7))
def chunked_cross_entropy(
    products: Products,
    hidden: Float[Array, "batch length d_model"],
    head: Float[Array, "padded_vocab d_model"],
    targets: Int[Array, "batch length"],
    vocab_size: int,
    softcap: float,
    z_loss: float,
    chunk: int,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """`plain.cross_entropy`; only the first sum carries a gradient.

    Logits exist for `chunk` positions of each sequence at a time, in float32; the gradient is formed in the forward
    pass, while they are there, so nothing is computed twice (Hsu et al. 2024, "Liger Kernel", section 3.2).
    """
    losses, _ = _chunks(products, hidden, head, targets, vocab_size, softcap, z_loss, chunk, with_gradients=False)
    return losses


def _forward(
    products: Products,
    hidden: Array,
    head: Array,
    targets: Array,
    vocab_size: int,
    softcap: float,
    z_loss: float,
    chunk: int,
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    return _chunks(products, hidden, head, targets, vocab_size, softcap, z_loss, chunk, with_gradients=True)


def _backward(
    products: Products,
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


chunked_cross_entropy.defvjp(_forward, _backward)


def _chunks(
    products: Products,
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
        products=products,
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
    products: Products,
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
    target_logit = cap_logits(products.pick_logit(logits, targets), softcap)
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
    d_logits = products.keep(d_logits)
    d_hidden = products.contract(d_logits, weights)
    d_head = products.contract_rows(*(x.reshape(-1, x.shape[-1]) for x in (d_logits, hidden)))
    return (objective, loss), d_hidden, d_head
