"""Kernels of CPUs. What each override gained is in docs/LOG.md; together they halve a training step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array

from jslm.model.kernels import plain
from jslm.model.kernels.base import Branch, Kernels, Params
from jslm.model.kernels.choice import Implementation
from jslm.model.kernels.chunked_loss import Products, chunk_of, chunked_cross_entropy
from jslm.model.kernels.cpu_attention import blocked_attention
from jslm.model.kernels.cpu_products import (
    add_vector,
    contract,
    contract_rows,
    fusion_boundary,
    linear,
    linear_by_rows,
    normalize,
    recomputed,
)
from jslm.model.kernels.hashed_masks import kept_elements

# What the caches hold, and rows enough to read the head's table for.
_CHUNK_BYTES, _CHUNK_TOKENS = 16 * 2**20, 1024
_LARGEST_CHUNK_BYTES = 64 * 2**20
_FEW_ROWS = 64
_add_bias = functools.partial(plain.add_bias, add=add_vector)


def training(implementation: Implementation, dtype: DTypeLike = jnp.float32) -> Kernels:
    """The kernels with that attention ("blocked" or "xla"), for that compute type.

    Beside a 16-bit one the residual stream is float32, as autocast has it elsewhere: sums of many layers lose in 16
    bits what small models need (the quickstart ends 1.1% above its entropy, and 5.8% with a stream of 16 bits).
    """
    kernels = dataclasses.replace(
        plain.PLAIN,
        linear=linear,
        add_vector=add_vector,
        project=project,
        normalize=normalize,
        normalized_branch=normalized_branch,
        add_residual=add_residual,
        activate=activate,
        rotate=rotate,
        dropout=dropout,
        attention=blocked_attention if implementation == "blocked" else plain.attention,
        cross_entropy=functools.partial(chunked_cross_entropy, _PRODUCTS),
        loss_chunk=loss_chunk,
        pick_logit=pick_logit,
        update_if=update_if,
        cache_dtype=cache_dtype,
        write_cache=write_cache,
    )
    if jnp.dtype(dtype).itemsize > 2:
        return kernels
    return dataclasses.replace(
        kernels,
        residual_dtype=lambda _: jnp.float32,
        normalize=functools.partial(normalize, dtype=dtype),
        normalized_branch=functools.partial(normalized_branch, dtype=dtype),
    )


def decoding(implementation: Implementation, dtype: DTypeLike) -> Kernels:
    """The kernels of decoding in that compute type."""
    kernels = dataclasses.replace(
        training(implementation, dtype),
        head_logits=plain.decoding_head_logits,
        # The work grows with the rows, so that a full-width step for few would be wasted; elsewhere it hardly does.
        rows_together=16,
    )
    if jnp.dtype(dtype).itemsize > 2:
        return kernels
    return dataclasses.replace(
        kernels,
        linear=linear_by_rows,
        project=functools.partial(project, multiply=linear_by_rows),
        decoding_params=params_by_rows,
        head_logits=head_logits_by_rows,
    )


def project(x: Array, weights: list[Params], multiply: Callable[[Array, Array], Array] = linear) -> list[Array]:
    """`plain.project`, one product after another."""
    return [_add_bias(multiply(x, each["kernel"]), each.get("bias")) for each in weights]


def normalized_branch(
    x: Array, scale: Array, bias: Array | None, eps: float, center: bool, dtype: DTypeLike | None = None
) -> tuple[Array, Array]:
    """`plain.normalized_branch`, the branch in `dtype`, by default in x's."""
    return x, _add_bias(normalize(x, scale, eps, center, dtype), bias)


def add_residual(x: Array, branch: Array) -> Array:
    """`plain.add_residual`, computed once and kept."""
    return fusion_boundary(plain.add_residual(x, branch))


def activate(name: str, up: Branch, gate: Branch | None) -> Array:
    """`plain.activate`, whose gradient keeps its arguments and computes the rest again."""
    function = plain.activation_function(name)
    if gate is None:
        return recomputed(function)(_add_bias(*up))
    return recomputed(lambda gate, up: function(gate) * up)(_add_bias(*gate), _add_bias(*up))


@jax.custom_vjp
def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """`plain.rotate`: the pairs' partners by a product with -1, 0 and 1, so that no row is cut into short halves."""
    if x.size // x.shape[-1] < _FEW_ROWS:
        return plain.rotate(x, cos, sin)
    half = x.shape[-1] // 2
    turn = np.kron([[0, 1], [-1, 0]], np.eye(half))
    partners = contract(x, jnp.asarray(turn, x.dtype), 0).astype(jnp.float32)
    cos, sin = (jnp.concatenate([table, table], axis=-1) for table in (cos, sin))
    return (x.astype(jnp.float32) * cos + partners * sin).astype(x.dtype)


# The gradient of a rotation is the rotation back.
rotate.defvjp(
    lambda x, cos, sin: (rotate(x, cos, sin), (cos, sin)),
    lambda tables, dy: (rotate(dy, tables[0], -tables[1]), None, None),
)


def dropout(x: Array, rate: float, key: jax.Array) -> Array:
    """`plain.dropout` by a hash of the place instead of a generator, which takes most of the time of such a step."""
    return jnp.where(kept_elements(key, x.shape, rate), x * (1 / (1 - rate)), 0).astype(x.dtype)


def cache_dtype(dtype: DTypeLike) -> DTypeLike:
    """float32 whatever the compute type: a 16-bit cache of a single row is copied for each token (419 instead of 672
    tokens/s), and what a row writes must not depend on how many others there are."""
    return jnp.float32


def write_cache(cache: Array, new: Array, start: Array) -> Array:
    """`plain.write_cache`; without the boundary XLA would copy the whole cache of a single row for each token."""
    if cache.shape[0] > 1:
        return plain.write_cache(cache, new, start)
    new = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    return fusion_boundary(jax.lax.dynamic_update_slice(cache, new, (0, 0, start[0], 0)))


def params_by_rows(params: Params, vocab_size: int) -> Params:
    """`plain.decoding_params` with every kernel, and the head, transposed: `[d_out, d_in]`; see `linear_by_rows`."""

    def turn(tree: Params) -> Params:
        return {
            name: turn(branch) if isinstance(branch, dict) else branch.T if name == "kernel" else branch
            for name, branch in tree.items()
        }

    head = {"kernel": plain.head_table(params)[:vocab_size]}
    return {**params, "layers": tuple(turn(layer) for layer in params["layers"]), "head": head}


def head_logits_by_rows(params: Params, hidden: Array, vocab_size: int) -> Array:
    """`plain.decoding_head_logits`, kept as rows: what reads logits would else read them by columns, as the product has
    them."""
    return fusion_boundary(linear_by_rows(hidden, params["head"]["kernel"], jnp.float32))


def loss_chunk(batch: int, length: int, padded_vocab: int, asked: int = 0) -> int:
    """Positions of each sequence in one chunk: the largest divisor of `length` whose float32 logits stay under 16 MB,
    but no fewer than 1,024 tokens for that, and under 64 MB (or `asked` tokens over the batch)."""
    limit = asked or _LARGEST_CHUNK_BYTES // (4 * padded_vocab)
    if not asked:
        limit = min(limit, max(_CHUNK_TOKENS, _CHUNK_BYTES // (4 * padded_vocab)))
    return chunk_of(batch, length, limit)


def pick_logit(logits: Array, targets: Array) -> Array:
    """`plain.pick_logit` by reading the one logit."""
    return jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]


def update_if(good: Array, function: Callable[..., Any], *before: Any) -> Any:
    """`plain.update_if` by a branch, which updates in place."""
    return jax.lax.cond(good, function, lambda *unchanged: unchanged, *before)


_PRODUCTS = Products(
    contract=functools.partial(contract, axis=0),
    contract_rows=contract_rows,
    keep=fusion_boundary,
    pick_logit=pick_logit,
)
