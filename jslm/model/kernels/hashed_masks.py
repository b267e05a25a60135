"""Which elements drop out, as a hash of (key, row, place): in attention cheap enough to be made again backward.

A whole matrix of masks is the hash of its rows' words with its columns' words: two multiplications an element, where a
generator of random numbers takes a hundred operations.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, UInt32

from jslm.model.keys import key_words


def kept_elements(key: jax.Array, shape: tuple[int, ...], dropout: float) -> Bool[Array, "*shape"]:
    """Which elements of an array `[rows, ..., width]` stay, each with probability 1 - dropout."""
    one, two, row = key_words(key)
    seed = mix(mix(one) ^ two)
    places = jnp.zeros(shape[:-1], jnp.uint32)
    for axis in range(len(shape) - 1):
        index = jax.lax.broadcasted_iota(jnp.uint32, places.shape, axis)
        places = places + (index if axis else index + row) * jnp.uint32(math.prod(shape[axis + 1 : -1]))
    columns = jax.lax.broadcasted_iota(jnp.uint32, (*(1,) * (len(shape) - 1), shape[-1]), len(shape) - 1)
    return kept(row_words(seed, places)[..., None], column_words(seed, columns), dropout)


def kept_weights(
    key: jax.Array, batch: int, heads: int, length: int, dropout: float
) -> Bool[Array, "batch heads length length"]:
    """Which weights of attention stay in kernels that hash, [.., queries, keys]: all at once."""
    seeds = weight_seeds(key, batch, heads)[..., None]
    places = jnp.arange(length, dtype=jnp.uint32)[None, None]
    return kept(row_words(seeds, places)[..., :, None], column_words(seeds, places)[..., None, :], dropout)


def weight_seeds(key: jax.Array, batch: int, heads: int) -> UInt32[Array, "batch heads"]:
    """A word for each row and head, from which its queries' and keys' words come."""
    one, two, row = key_words(key)
    rows = jnp.arange(batch, dtype=jnp.uint32)[:, None] + row
    number = rows * jnp.uint32(heads) + jnp.arange(heads, dtype=jnp.uint32)[None]
    return mix(mix(number + one) ^ two)


def row_words(seed: UInt32[Array, "*#any"], places: UInt32[Array, "*#any"]) -> UInt32[Array, "*#any"]:
    """The words of a mask's rows; shapes broadcast."""
    return mix(seed + places * jnp.uint32(0x9E3779B9))


def column_words(seed: UInt32[Array, "*#any"], places: UInt32[Array, "*#any"]) -> UInt32[Array, "*#any"]:
    """The words of a mask's columns; shapes broadcast."""
    return mix((seed ^ jnp.uint32(0x85EBCA6B)) + places * jnp.uint32(0xC2B2AE35))


def kept(rows: UInt32[Array, "*#any"], columns: UInt32[Array, "*#any"], dropout: float) -> Bool[Array, "*#any"]:
    """The mask of those rows' and columns' words; shapes broadcast."""
    x = (rows ^ columns) * jnp.uint32(0x9E3779B1)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x2C1B3C6D)
    return x >= jnp.uint32(round(dropout * 2**32))


def mix(x: UInt32[Array, "*#any"]) -> UInt32[Array, "*#any"]:
    """Ellis's lowbias32: each bit of the result depends on each of x's."""
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> jnp.uint32(15))) * jnp.uint32(0x846CA68B)
    return x ^ (x >> jnp.uint32(16))
