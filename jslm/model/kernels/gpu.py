"""Kernels of NVIDIA GPUs. Figures are of an H200 and the 124M GPT-2 shape, in docs/benchmarks.md and docs/LOG.md."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jslm.model.kernels import plain
from jslm.model.kernels.base import Branch, Kernels, Params
from jslm.model.kernels.choice import NARROW_HEAD, Implementation, chosen, flash_refusal
from jslm.model.kernels.chunked_loss import Products, chunk_of, chunked_cross_entropy
from jslm.model.kernels.gpu_attention import flash_attention
from jslm.model.kernels.gpu_loss import logit_sums
from jslm.model.kernels.gpu_norm import normalized_branch
from jslm.model.kernels.plain import IGNORED, cap_logits
from jslm.model.keys import key_words
from jslm.parallel import constrain, mesh_axis_size

# Of the device's memory, for the logits of a training step: on 80 GB, 48,000 tokens of GPT-2's vocabulary.
_LOGITS_SHARE = 16
_CHUNK_BYTES = 256 * 2**20
_PRODUCTS = Products()


def training(implementation: Implementation, memory: int) -> Kernels:
    """The kernels with that attention ("cudnn", "flash" or "xla"), for a device of `memory` bytes."""
    attention = {"cudnn": cudnn_attention, "flash": own_attention}.get(implementation, plain.attention)
    return dataclasses.replace(
        plain.PLAIN,
        project=project,
        normalized_branch=normalized_branch,
        activate=activate,
        dropout=dropout,
        attention=attention,
        cross_entropy=cross_entropy,
        loss_chunk=functools.partial(loss_chunk, memory // _LOGITS_SHARE),
        # As a loop, 12 layers take 8% more of a step: their stacked activations are copied in and out.
        unrolled_layers=48,
        # Else what is rounded to 16 bits here and read again there is kept in 32 as well: 7% of a step.
        compiler_options=(("xla_allow_excess_precision", False),),
    )


def decoding(implementation: Implementation) -> Kernels:
    """The kernels of decoding."""
    return dataclasses.replace(training(implementation, 0), head_logits=plain.decoding_head_logits)


def project(x: Array, weights: list[Params]) -> list[Array]:
    """`plain.project` as one product, unless the outputs are split over devices: 4% of a step."""
    if mesh_axis_size("tensor") > 1:
        return plain.project(x, weights)
    together = plain.linear(x, jnp.concatenate([each["kernel"].astype(x.dtype) for each in weights], axis=1))
    outputs, start = [], 0
    for each in weights:
        width = each["kernel"].shape[1]
        y = together[..., start : start + width]
        outputs.append(plain.add_bias(y, each.get("bias")))
        start += width
    return outputs


def activate(name: str, up: Branch, gate: Branch | None) -> Array:
    """`plain.activate`, of which the backward pass keeps the products alone and computes the rest again: XLA would keep
    intermediate results in float32, which costs 7% of a step."""
    return jax.checkpoint(functools.partial(plain.activate, name))(up, gate)


def dropout(x: Array, rate: float, key: jax.Array) -> Array:
    """`plain.dropout` by a byte an element of XLA's own generator, to the nearest 256th: a tenth of the time."""
    threshold = round(rate * 256)
    one, two, row = key_words(key)
    # The generator "rbg" has keys of four words.
    words = jnp.stack([one, two, one, two ^ (row * jnp.uint32(0x9E3779B1))])
    fast = jax.random.wrap_key_data(words, impl="rbg")
    kept = jax.random.bits(fast, x.shape, jnp.uint8) >= threshold
    return jnp.where(kept, x * (256 / (256 - threshold)), 0).astype(x.dtype)


def cudnn_attention(
    q: Array, k: Array, v: Array, segments: Array | None, dropout: float = 0.0, key: jax.Array | None = None
) -> Array:
    """`plain.attention` by cuDNN's flash attention; of packed documents, whose mask cuDNN reads from memory, by jslm's
    own where the shapes allow: 0.81 of the time of a `lillm_39m` step."""
    if segments is None:
        return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
    if q.dtype.itemsize == 2 and not flash_refusal(q.shape[1], q.shape[3]):
        chosen("flash", "packed documents, whose mask cuDNN would read from memory")
        return flash_attention(q, k, v, segments)
    if q.shape[1] % 2:
        chosen("xla", f"cuDNN flash attention takes packed documents in rows of an even length, not {q.shape[1]}")
        return plain.attention(q, k, v, segments, dropout, key)
    mask = (segments[:, :, None] == segments[:, None, :])[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=True, implementation="cudnn")


def own_attention(
    q: Array, k: Array, v: Array, segments: Array | None, dropout: float = 0.0, key: jax.Array | None = None
) -> Array:
    """`plain.attention` by jslm's own kernel; without dropout by cuDNN's, but for narrow heads."""
    drops = dropout > 0 and key is not None
    # Stages of context (train.curriculum) bring lengths of their own.
    refusal = flash_refusal(q.shape[1], q.shape[3])
    if not drops and (refusal or q.shape[3] > NARROW_HEAD):
        return cudnn_attention(q, k, v, segments)
    if refusal:
        chosen("xla", refusal)
        return plain.attention(q, k, v, segments, dropout, key)
    return flash_attention(q, k, v, segments, dropout, key) if drops else flash_attention(q, k, v, segments)


def loss_chunk(limit_bytes: int, batch: int, length: int, padded_vocab: int, asked: int = 0) -> int:
    """Positions of each sequence in one chunk: all of them where their 16-bit logits stay under `limit_bytes`, else the
    largest divisor of `length` for which they do (or `asked` tokens over the batch)."""
    return chunk_of(batch, length, asked or max(limit_bytes, _CHUNK_BYTES) // (2 * padded_vocab))


def cross_entropy(
    hidden: Array, head: Array, targets: Array, vocab_size: int, softcap: float, z_loss: float, chunk: int
) -> tuple[Array, Array]:
    """`plain.cross_entropy`. In one chunk, logits are written once, in hidden's type, and their gradient takes their
    place; without a gradient, and in more chunks, they are in float32."""
    if chunk < hidden.shape[1]:
        return chunked_cross_entropy(_PRODUCTS, hidden, head, targets, vocab_size, softcap, z_loss, chunk)
    return _whole(hidden, head, targets, vocab_size, softcap, z_loss)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _whole(
    hidden: Array, head: Array, targets: Array, vocab_size: int, softcap: float, z_loss: float
) -> tuple[Array, Array]:
    batch, length, _ = hidden.shape
    chunk = chunk_of(batch, length, _CHUNK_BYTES // (4 * head.shape[0]))
    return chunked_cross_entropy(_PRODUCTS, hidden, head, targets, vocab_size, softcap, z_loss, chunk)


def _whole_forward(
    hidden: Array, head: Array, targets: Array, vocab_size: int, softcap: float, z_loss: float
) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
    weights = head.astype(hidden.dtype)
    logits = constrain(jnp.einsum("btd,vd->btv", hidden, weights), "batch", "length", "vocab")
    top, total, target = logit_sums(logits, targets, vocab_size, softcap)
    log_total = jnp.log(total)
    log_z = log_total + top
    counted = targets != IGNORED
    loss = jnp.sum(jnp.where(counted, log_total + (top - target), 0.0))
    objective = loss + z_loss * jnp.sum(jnp.where(counted, jnp.square(log_z), 0.0)) if z_loss else loss
    return (objective, loss), (hidden, weights, targets, logits, log_z, jnp.zeros((), head.dtype))


def _whole_backward(
    vocab_size: int,
    softcap: float,
    z_loss: float,
    residuals: tuple[Array, ...],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array, None]:
    hidden, weights, targets, logits, log_z, like = residuals
    capped = cap_logits(logits.astype(jnp.float32), softcap)
    share = jnp.exp(plain.mask_padding(capped, vocab_size) - log_z[..., None])
    ids = jax.lax.broadcasted_iota(jnp.int32, (1, 1, weights.shape[0]), 2)
    if z_loss:
        share = share * (1 + 2 * z_loss * log_z[..., None])
    d_logits = share - (ids == targets[..., None])
    if softcap:
        # Not of the masked ones, whose square is infinite.
        d_logits = d_logits * (1 - jnp.square(capped / softcap))
    scale = jnp.where(targets != IGNORED, cotangents[0], 0.0)[..., None]
    d_logits = jnp.where(scale != 0, d_logits * scale, 0.0).astype(hidden.dtype)
    d_hidden = jnp.einsum("btv,vd->btd", d_logits, weights)
    d_head = jnp.einsum("btv,btd->vd", d_logits, hidden, preferred_element_type=jnp.float32)
    return d_hidden, d_head.astype(like.dtype), None


_whole.defvjp(_whole_forward, _whole_backward)
