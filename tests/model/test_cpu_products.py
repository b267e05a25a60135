"""Gradients written by hand against those that JAX derives from the definitions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.model.kernels.cpu_products import fusion_boundary, linear, normalize

EPS = 1e-3


def naive_normalize(x: Any, scale: Any, center: bool) -> Any:
    if center:
        x = x - x.mean(-1, keepdims=True)
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + EPS) * jnp.broadcast_to(scale, x.shape)


def random(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 6)], ids=str)
def test_linear_and_its_gradients(shape: tuple[int, ...]) -> None:
    x, kernel, weights = random(0, *shape), random(1, 6, 5), random(2, *shape[:-1], 5)

    def ours(x: Any, kernel: Any) -> Any:
        return jnp.sum(weights * jnp.sin(linear(x, kernel)))

    def plain(x: Any, kernel: Any) -> Any:
        return jnp.sum(weights * jnp.sin(jnp.einsum("...i,io->...o", x, kernel)))

    np.testing.assert_allclose(linear(x, kernel), np.asarray(x) @ np.asarray(kernel), rtol=1e-5, atol=1e-6)
    for found, wanted in zip(jax.grad(ours, (0, 1))(x, kernel), jax.grad(plain, (0, 1))(x, kernel), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_linear_accumulates_the_kernel_gradient_in_float32() -> None:
    """4,096 ones and a small rest: bfloat16 sums would lose the rest."""
    x = jnp.ones((4096, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1), jnp.float32)
    rows = jnp.where(jnp.arange(4096) % 2 == 0, 1.0, 1 / 256)[:, None].astype(jnp.bfloat16)
    (d_x, d_kernel) = jax.vjp(linear, x, kernel)[1](rows)
    assert (d_x.dtype, d_kernel.dtype) == (jnp.bfloat16, jnp.float32)
    np.testing.assert_array_equal(d_kernel, [[2048 + 2048 / 256]])


@pytest.mark.parametrize("center", [True, False], ids=["layernorm", "rmsnorm"])
@pytest.mark.parametrize("shape", [(6,), (4, 6), (2, 3, 2, 6)], ids=str)
def test_normalize_and_its_gradients(shape: tuple[int, ...], center: bool) -> None:
    x, scale, weights = 2.0 + 3 * random(0, *shape), 1 + 0.3 * random(1, 6), random(2, *shape)

    def ours(x: Any, scale: Any) -> Any:
        return jnp.sum(weights * jnp.sin(normalize(x, scale, EPS, center)))

    def plain(x: Any, scale: Any) -> Any:
        return jnp.sum(weights * jnp.sin(naive_normalize(x, _row(scale, x), center)))

    np.testing.assert_allclose(
        normalize(x, scale, EPS, center), naive_normalize(x, _row(scale, x), center), rtol=1e-5, atol=1e-5
    )
    for found, wanted in zip(jax.grad(ours, (0, 1))(x, scale), jax.grad(plain, (0, 1))(x, scale), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-5)


def test_normalize_of_a_constant_row_is_finite() -> None:
    x, scale = jnp.zeros((2, 6)), jnp.ones(6)
    gradient = jax.grad(lambda x: jnp.sum(normalize(x, scale, EPS, False) * 2.0))(x)
    np.testing.assert_allclose(gradient, 2 / np.sqrt(EPS), rtol=1e-5)


def test_normalize_keeps_narrow_types_but_computes_in_float32() -> None:
    """300 + {0, 1, 2, ...} / 8 has no bfloat16 variance."""
    x, scale = (300 + 4 * random(0, 3, 64)).astype(jnp.bfloat16), jnp.ones(64)
    found = normalize(x, scale, EPS, True)
    wanted = naive_normalize(x.astype(jnp.float32), _row(scale, x), True)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=0.02)
    gradient = jax.grad(lambda x: jnp.sum(jnp.square(normalize(x, scale, EPS, True).astype(jnp.float32))))(x)
    assert gradient.dtype == jnp.bfloat16


def test_fusion_boundary_changes_nothing() -> None:
    x = random(0, 3, 4)
    found, gradient = jax.value_and_grad(lambda x: jnp.sum(jnp.sin(fusion_boundary(x))))(x)
    np.testing.assert_allclose(found, np.sin(x).sum(), rtol=1e-6)
    np.testing.assert_allclose(gradient, np.cos(x), rtol=1e-6)


def _row(scale: Any, x: Any) -> Any:
    return scale.reshape((1,) * (x.ndim - 1) + (-1,))
