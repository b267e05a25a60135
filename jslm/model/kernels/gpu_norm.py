"""The gradient of a norm and of the residual stream around it in one pass on GPUs: a Pallas kernel.

XLA makes four passes of it: the norm's own gradient in float32, its sum with the stream's, and one for each vector.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jaxtyping import Array

from jslm.model.kernels import plain
from jslm.model.kernels.choice import takes_own_kernels

# Rows that a program works on together, rows of a program, and warps.
_TOGETHER, _ROWS, _WARPS = 4, 32, 4


def normalized_branch(
    x: Array, scale: Array, bias: Array | None, eps: float, center: bool, *, interpret: bool = False
) -> tuple[Array, Array]:
    """`plain.normalized_branch`. By XLA where `takes_own_kernels` says no, and for rows not divisible by 32.

    `interpret` runs the kernel anywhere, slowly.
    """
    if not takes_own_kernels() or (x.size // x.shape[-1]) % _ROWS:
        return plain.normalized_branch(x, scale, bias, eps, center)
    return _branch(x, scale, bias, eps, center, interpret)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _branch(
    x: Array, scale: Array, bias: Array | None, eps: float, center: bool, interpret: bool
) -> tuple[Array, Array]:
    return plain.normalized_branch(x, scale, bias, eps, center)


def _forward(
    x: Array, scale: Array, bias: Array | None, eps: float, center: bool, interpret: bool
) -> tuple[tuple[Array, Array], tuple[Array, Array, Array | None]]:
    return _branch(x, scale, bias, eps, center, interpret), (x, scale, bias)


def _backward(
    eps: float,
    center: bool,
    interpret: bool,
    residuals: tuple[Array, Array, Array | None],
    cotangents: tuple[Array, Array],
) -> tuple[Array, Array, Array | None]:
    x, scale, bias = residuals
    width = x.shape[-1]
    padded = 1 << (width - 1).bit_length()
    flat = [each.reshape(-1, width) for each in (x, *cotangents)]
    programs = flat[0].shape[0] // _ROWS
    rows = pl.BlockSpec((_ROWS, padded), lambda index: (index, 0))
    vector, sums = pl.BlockSpec((padded,), lambda index: (0,)), pl.BlockSpec((None, padded), lambda index: (index, 0))
    partial = jax.ShapeDtypeStruct((programs, width), jnp.float32)
    d_x, d_scale, d_bias = pl.pallas_call(
        functools.partial(_kernel, width=width, eps=eps, center=center),
        grid=(programs,),
        in_specs=[rows] * 3 + [vector],
        out_specs=[rows, sums, sums],
        out_shape=[jax.ShapeDtypeStruct(flat[0].shape, x.dtype), partial, partial],
        compiler_params=None if interpret else triton.CompilerParams(num_warps=_WARPS, num_stages=2),
        interpret=interpret,
    )(*flat, scale)
    sum_of = functools.partial(jnp.sum, axis=0)
    return d_x.reshape(x.shape), sum_of(d_scale), None if bias is None else sum_of(d_bias)


_branch.defvjp(_forward, _backward)


def _kernel(
    x_ref: Any,
    d_stream_ref: Any,
    dy_ref: Any,
    scale_ref: Any,
    d_x_ref: Any,
    d_scale_ref: Any,
    d_bias_ref: Any,
    *,
    width: int,
    eps: float,
    center: bool,
) -> None:
    inside = jnp.arange(x_ref.shape[1]) < width
    scale = triton.load(scale_ref, mask=inside, other=0.0)[None]
    inside = inside[None]

    def load(ref: Any, at: Any) -> Array:
        return triton.load(ref.at[at, :], mask=inside, other=0.0).astype(jnp.float32)

    def body(index: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        d_scale, d_bias = carry
        at = pl.ds(index * _TOGETHER, _TOGETHER)
        x, d_stream, dy = load(x_ref, at), load(d_stream_ref, at), load(dy_ref, at)
        if center:
            x = jnp.where(inside, x - jnp.sum(x, axis=1, keepdims=True) / width, 0.0)
        inverse = jax.lax.rsqrt(jnp.sum(x * x, axis=1, keepdims=True) / width + eps)
        normal = x * inverse
        d_normal = dy * scale
        d_x = d_normal - normal * (jnp.sum(d_normal * normal, axis=1, keepdims=True) / width)
        if center:
            d_x = d_x - jnp.sum(d_normal, axis=1, keepdims=True) / width
        d_x = (d_x * inverse + d_stream).astype(d_x_ref.dtype)
        triton.store(d_x_ref.at[at, :], d_x, mask=jnp.broadcast_to(inside, d_x.shape))
        return d_scale + jnp.sum(dy * normal, axis=0), d_bias + jnp.sum(dy, axis=0)

    zeros = jnp.zeros(x_ref.shape[1], jnp.float32)
    d_scale, d_bias = jax.lax.fori_loop(0, _ROWS // _TOGETHER, body, (zeros, zeros))
    triton.store(d_scale_ref, d_scale, mask=inside[0])
    triton.store(d_bias_ref, d_bias, mask=inside[0])
