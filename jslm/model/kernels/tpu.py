"""Kernels of TPUs, and of devices that nobody has measured: splash attention, and a loss in chunks."""

from __future__ import annotations

import dataclasses
import functools

import jax
from jaxtyping import Array

from jslm.model.kernels import plain
from jslm.model.kernels.base import Kernels
from jslm.model.kernels.choice import Implementation, chosen
from jslm.model.kernels.chunked_loss import Products, chunk_of, chunked_cross_entropy
from jslm.model.kernels.splash import splash_attention, splash_refusal

_CHUNK_BYTES = 64 * 2**20


def training(implementation: Implementation) -> Kernels:
    """The kernels with that attention."""
    return dataclasses.replace(
        plain.PLAIN,
        attention=attention if implementation == "splash" else plain.attention,
        cross_entropy=functools.partial(chunked_cross_entropy, Products()),
        loss_chunk=loss_chunk,
    )


def decoding(implementation: Implementation) -> Kernels:
    """The kernels of decoding."""
    return dataclasses.replace(training(implementation), head_logits=plain.decoding_head_logits)


def loss_chunk(batch: int, length: int, padded_vocab: int, asked: int = 0) -> int:
    """Positions of each sequence in one chunk: the largest divisor of `length` whose float32 logits stay under 64 MB
    (or `asked` tokens over the batch)."""
    return chunk_of(batch, length, asked or _CHUNK_BYTES // (4 * padded_vocab))


def attention(
    q: Array, k: Array, v: Array, segments: Array | None = None, dropout: float = 0.0, key: jax.Array | None = None
) -> Array:
    """`plain.attention` by splash attention where the length allows it."""
    # Evaluation and stages of context (train.curriculum) bring lengths of their own.
    refusal = splash_refusal(q.dtype, q.shape[1], dropout if key is not None else 0.0)
    if refusal:
        chosen("xla", refusal)
        return plain.attention(q, k, v, segments, dropout, key)
    return splash_attention(q, k, v, segments)
