"""Products, sums and norms on CPUs, with gradients spelled out, because the compiler's own choice is slow.

XLA's CPU compiler turns the weight gradient that JAX derives for `x @ kernel` into transposed copies of the
activations, fuses whole chains of element-wise work into each copy, and repeats the chain for every reader. Written
as a product of two matrices that contract their rows, with boundaries that fusion does not cross, a training step
takes half the time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

_FEW_TOKENS = 64


@jax.custom_vjp
def fusion_boundary(x: Array) -> Array:
    """`x`, computed once and kept. The same holds for its gradient."""
    return _barrier(x)


fusion_boundary.defvjp(lambda x: (fusion_boundary(x), None), lambda _, dy: (fusion_boundary(dy),))


def _barrier(x: Array) -> Array:
    if x.dtype.itemsize == 2:
        # As integers: XLA's CPU compiler widens a barrier of 16-bit floats, and with it the products behind.
        return _bits(jax.lax.optimization_barrier(_bits(x, jnp.uint16)), x.dtype)
    y: Array = jax.lax.optimization_barrier(x)
    return y


def _bits(x: Array, dtype: DTypeLike) -> Array:
    return jax.lax.bitcast_convert_type(x, dtype)


@jax.custom_vjp
def linear(x: Float[Array, "*batch d_in"], kernel: Float[Array, "d_in d_out"]) -> Float[Array, "*batch d_out"]:
    """x @ kernel in x's type; the kernel's gradient is accumulated in float32 and has the kernel's own type."""
    return contract(x, kernel.astype(x.dtype), 0)


def _linear_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return linear(x, kernel), (x, kernel)


def _linear_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dy = fusion_boundary(dy)
    dx = contract(dy, kernel.astype(dy.dtype), 1)
    d_kernel = contract_rows(x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]))
    return dx, d_kernel.astype(kernel.dtype)


linear.defvjp(_linear_forward, _linear_backward)


def contract(a: Float[Array, "*batch k"], b: Float[Array, "rows columns"], axis: int) -> Float[Array, "*batch n"]:
    """a's last axis with that `axis` of the matrix b, in a's type.

    16-bit products are rounded from float32 by a step of their own: XLA's for a 16-bit result are four times as slow
    with a transposed b (axis 1), and twice with more terms than results.
    """
    dims = (((a.ndim - 1,), (axis,)), ((), ()))
    if a.dtype.itemsize > 2 or (axis == 0 and b.shape[0] <= b.shape[1]):
        return jax.lax.dot_general(a, b, dims)
    return jax.lax.dot_general(a, b, dims, preferred_element_type=jnp.float32).astype(a.dtype)


def linear_by_rows(
    x: Float[Array, "*batch d_in"], rows: Float[Array, "d_out d_in"], dtype: DTypeLike | None = None
) -> Float[Array, "*batch d_out"]:
    """x rows^T, in x's type or `dtype`: decoding with 16-bit weights.

    A product takes the left operand as it lies and copies the right one into another order first, so that for a few
    tokens the weights belong on the left. The kernels are for two columns and more.
    """
    columns = x.reshape(-1, x.shape[-1])
    count = columns.shape[0]
    dims = (((1,), (1,)), ((), ()))
    if count > _FEW_TOKENS:
        y = jax.lax.dot_general(columns, rows, dims, preferred_element_type=dtype)
    else:
        columns = jnp.broadcast_to(columns, (2, columns.shape[1])) if count == 1 else columns
        y = jax.lax.dot_general(rows, columns, dims, preferred_element_type=jnp.float32)
        y = fusion_boundary(y)[:, :count].T.astype(dtype or x.dtype)
    return y.reshape(*x.shape[:-1], rows.shape[0])


def recomputed(function: Callable[..., Array]) -> Callable[..., Array]:
    """`function` of element-wise arithmetic in float32, rounded to its first argument's type. Its gradient keeps the
    arguments and computes the rest again: that costs less than writing and reading what lies between, and so does
    float32, as each step of 16-bit arithmetic is widened and rounded again."""

    def widened(*arguments: Array) -> Array:
        return function(*(x.astype(jnp.float32) for x in arguments)).astype(arguments[0].dtype)

    @jax.custom_vjp
    def apply(*arguments: Array) -> Array:
        return widened(*arguments)

    def backward(arguments: tuple[Array, ...], dy: Array) -> tuple[Array, ...]:
        gradients: tuple[Array, ...] = jax.vjp(widened, *arguments)[1](dy)
        return gradients

    apply.defvjp(lambda *arguments: (widened(*arguments), arguments), backward)
    return apply


def contract_rows(a: Float[Array, "rows m"], b: Float[Array, "rows n"]) -> Float[Array, "m n"]:
    """a^T b, accumulated and given in float32. The fast 16-bit products take no transposed operand: the narrower one is
    transposed for them."""
    if a.dtype.itemsize > 2:
        return jax.lax.dot_general(a, b, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32)
    if a.shape[1] > b.shape[1]:
        return fusion_boundary(contract_rows(b, a)).T
    return jnp.dot(transpose_matrices(a[None])[0], b, preferred_element_type=jnp.float32)


def transpose_matrices(x: Float[Array, "batch rows columns"]) -> Float[Array, "batch columns rows"]:
    """Each matrix transposed. 16-bit ones are multiplied with the identity, exactly: faster than a copy, and
    unlike one it stays apart from the product that it is for."""
    if x.dtype.itemsize > 2:
        return jnp.swapaxes(x, 1, 2)
    batch, _, columns = x.shape
    identity = jnp.broadcast_to(jnp.eye(columns, dtype=x.dtype), (batch, columns, columns))
    dims = (((2,), (2,)), ((0,), (0,)))
    # In float32, as in `contract`.
    return jax.lax.dot_general(identity, x, dims, preferred_element_type=jnp.float32).astype(x.dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def normalize(
    x: Float[Array, "*batch width"],
    scale: Float[Array, " width"],
    eps: float,
    center: bool,
    dtype: DTypeLike | None = None,
) -> Float[Array, "*batch width"]:
    """(x - mean) / sqrt(variance + eps) * scale over the last axis, in float32; without `center` the mean stays in.
    Given in `dtype`, by default in x's type.

    Ba et al. 2016, "Layer Normalization"; without `center` Zhang & Sennrich 2019, "Root Mean Square Layer
    Normalization".
    """
    return _normalize_forward(x, scale, eps, center, dtype)[0]


def _normalize_forward(
    x: Array, scale: Array, eps: float, center: bool, dtype: DTypeLike | None
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    y = x.astype(jnp.float32)
    mean = row_sums(y) / y.shape[-1] if center else jnp.zeros((*y.shape[:-1], 1), jnp.float32)
    y = y - mean if center else y
    inverse = jax.lax.rsqrt(row_sums(jnp.square(y)) / y.shape[-1] + eps)
    out = (y * inverse * _as_row(scale, x)).astype(dtype or x.dtype)
    return out, (x, scale, mean, inverse)


def _normalize_backward(
    eps: float, center: bool, dtype: DTypeLike | None, residuals: tuple[Array, Array, Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, scale, mean, inverse = residuals
    dy = fusion_boundary(dy).astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse if center else x.astype(jnp.float32) * inverse
    d_normal = dy * _as_row(scale, dy)
    d_x = d_normal - normal * (row_sums(d_normal * normal) / x.shape[-1])
    if center:
        d_x = d_x - row_sums(d_normal) / x.shape[-1]
    return (d_x * inverse).astype(x.dtype), sum_rows(dy * normal)


normalize.defvjp(_normalize_forward, _normalize_backward)


@jax.custom_vjp
def add_vector(x: Float[Array, "*batch width"], vector: Float[Array, " width"]) -> Float[Array, "*batch width"]:
    """x + vector in x's type; the vector's gradient is accumulated in float32 and has the vector's own type."""
    return x + _as_row(vector.astype(x.dtype), x)


def _add_vector_backward(vector: Array, dy: Array) -> tuple[Array, Array]:
    dy = fusion_boundary(dy)
    return dy, sum_rows(dy).astype(vector.dtype)


add_vector.defvjp(lambda x, vector: (add_vector(x, vector), vector), _add_vector_backward)


def row_sums(x: Float[Array, "*batch width"]) -> Float[Array, "*batch 1"]:
    """The sum over the last axis, in x's type.

    A product with ones: XLA computes its own again where a fusion uses it, once for each part of a row.
    """
    if x.size // x.shape[-1] < _FEW_TOKENS:
        return jnp.sum(x, axis=-1, keepdims=True)
    return jnp.dot(x.reshape(-1, x.shape[-1]), jnp.ones((x.shape[-1], 1), x.dtype)).reshape(*x.shape[:-1], 1)


def sum_rows(x: Float[Array, "*batch width"]) -> Float[Array, " width"]:
    """The sum over all axes but the last, in float32: a product, where XLA's CPU compiler makes of the sum windows of
    32 rows and a slow loop over them."""
    rows = x.reshape(-1, x.shape[-1])
    return jnp.dot(jnp.ones(rows.shape[0], x.dtype), rows, preferred_element_type=jnp.float32)


def _as_row(scale: Array, like: Array) -> Array:
    return scale.reshape((1,) * (like.ndim - 1) + scale.shape)
