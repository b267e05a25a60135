"""Operations whose gradients are spelled out, because the compiler's own choice is slow.

XLA's CPU compiler turns the weight gradient that JAX derives for `x @ kernel` into transposed copies of the
activations, fuses whole chains of element-wise work into each copy, and repeats the chain for every reader. Written
as a product of two matrices that contract their rows, with boundaries that fusion does not cross, a training step
takes half the time.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def fusion_boundary(x: Array) -> Array:
    """`x`, computed once and kept, on CPUs; elsewhere the compiler decides. The same holds for its gradient."""
    return jax.lax.platform_dependent(x, cpu=_barrier, default=lambda x: x)


def _barrier(x: Array) -> Array:
    y: Array = jax.lax.optimization_barrier(x)
    return y


@jax.custom_vjp
def linear(x: Float[Array, "*batch d_in"], kernel: Float[Array, "d_in d_out"]) -> Float[Array, "*batch d_out"]:
    """x @ kernel in x's type; the kernel's gradient is accumulated in float32 and has the kernel's own type."""
    return jnp.dot(x, kernel.astype(x.dtype))


def _linear_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return linear(x, kernel), (x, kernel)


def _linear_backward(residuals: tuple[Array, Array], dy: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    dy = fusion_boundary(dy)
    dx = jnp.dot(dy, kernel.astype(dy.dtype).T)
    rows, columns = x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1])
    dims = (((0,), (0,)), ((), ()))
    d_kernel = jax.lax.dot_general(rows, columns, dims, preferred_element_type=jnp.float32)
    return dx, d_kernel.astype(kernel.dtype)


linear.defvjp(_linear_forward, _linear_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def normalize(
    x: Float[Array, "*batch width"], scale: Float[Array, " width"], eps: float, center: bool
) -> Float[Array, "*batch width"]:
    """(x - mean) / sqrt(variance + eps) * scale over the last axis, in float32; without `center` the mean stays in.

    Ba et al. 2016, "Layer Normalization"; without `center` Zhang & Sennrich 2019, "Root Mean Square Layer
    Normalization".
    """
    return _normalize_forward(x, scale, eps, center)[0]


def _normalize_forward(
    x: Array, scale: Array, eps: float, center: bool
) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    y = x.astype(jnp.float32)
    mean = jnp.mean(y, axis=-1, keepdims=True) if center else jnp.zeros((*y.shape[:-1], 1), jnp.float32)
    y = y - mean if center else y
    inverse = jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    out = (y * inverse * _as_row(scale, x)).astype(x.dtype)
    return out, (x, scale, mean, inverse)


def _normalize_backward(
    eps: float, center: bool, residuals: tuple[Array, Array, Array, Array], dy: Array
) -> tuple[Array, Array]:
    x, scale, mean, inverse = residuals
    dy = fusion_boundary(dy).astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse if center else x.astype(jnp.float32) * inverse
    d_normal = dy * _as_row(scale, dy)
    d_x = d_normal - normal * jnp.mean(d_normal * normal, axis=-1, keepdims=True)
    if center:
        d_x = d_x - jnp.mean(d_normal, axis=-1, keepdims=True)
    return (d_x * inverse).astype(x.dtype), jnp.sum(dy * normal, axis=tuple(range(dy.ndim - 1)))


normalize.defvjp(_normalize_forward, _normalize_backward)


def _as_row(scale: Array, like: Array) -> Array:
    return scale.reshape((1,) * (like.ndim - 1) + scale.shape)
