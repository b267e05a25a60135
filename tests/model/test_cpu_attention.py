"""Attention on CPUs against the plain one: values and gradients, whatever the length, the groups and the documents."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.model.kernels.cpu_attention import blocked_attention
from jslm.model.kernels.plain import attention as causal_attention


def arrays(length: int, heads: int, kv_heads: int, batch: int = 2, head_dim: int = 8) -> tuple[Any, ...]:
    keys = jax.random.split(jax.random.key(length), 4)
    shapes = [(batch, length, count, head_dim) for count in (heads, kv_heads, kv_heads, heads)]
    return tuple(jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True))


def values_and_gradients(attention: Callable[..., Any], q: Any, k: Any, v: Any, weights: Any, segments: Any) -> Any:
    def total(q: Any, k: Any, v: Any) -> Any:
        out = attention(q, k, v, segments)
        return jnp.sum(out.astype(jnp.float32) * weights), out

    gradients, out = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(q, k, v)
    return out, *gradients


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads"),
    [(1, 2, 2), (7, 4, 2), (64, 4, 1), (100, 6, 3), (257, 2, 1), (512, 8, 8)],
)
@pytest.mark.parametrize("documents", [False, True])
def test_it_is_the_plain_one(length: int, heads: int, kv_heads: int, documents: bool) -> None:
    q, k, v, weights = arrays(length, heads, kv_heads)
    segments = jnp.asarray(np.sort(np.random.default_rng(0).integers(0, 4, (2, length)))) if documents else None
    found = values_and_gradients(blocked_attention, q, k, v, weights, segments)
    wanted = values_and_gradients(causal_attention, q, k, v, weights, segments)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_as_near_to_float32_as_the_plain_one(dtype: Any) -> None:
    q, k, v, weights = arrays(192, 4, 2, head_dim=16)
    exact = values_and_gradients(causal_attention, q, k, v, weights, None)
    narrow = [x.astype(dtype) for x in (q, k, v)]
    found = values_and_gradients(blocked_attention, narrow[0], narrow[1], narrow[2], weights, None)
    plain = values_and_gradients(causal_attention, narrow[0], narrow[1], narrow[2], weights, None)
    for a, b, c in zip(found, plain, exact, strict=True):
        assert a.dtype == dtype
        errors = [float(jnp.linalg.norm(x.astype(jnp.float32) - c) / jnp.linalg.norm(c)) for x in (a, b)]
        assert errors[0] < 1.5 * errors[1]


def test_large_scores_neither_overflow_nor_vanish() -> None:
    """Up to some thousands, whose exponentials no float32 holds."""
    q, k, v, weights = arrays(130, 2, 2)
    found = values_and_gradients(blocked_attention, 30 * q, 30 * k, v, weights, None)
    wanted = values_and_gradients(causal_attention, 30 * q, 30 * k, v, weights, None)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_memory_does_not_grow_with_the_scores() -> None:
    """256 sequences of 256 tokens with 4 heads: 268 MB of scores."""
    q, k, v, weights = arrays(256, 4, 4, batch=256)
    run = jax.jit(lambda q, k, v, weights: values_and_gradients(blocked_attention, q, k, v, weights, None))
    memory = run.lower(q, k, v, weights).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 10 * q.nbytes


@pytest.mark.skipif(jax.__version_info__ < (0, 11), reason="older compilers take no notice of the boundary")
def test_documents_are_not_looked_up_within_the_loop_over_scores() -> None:
    """Where the compiler cuts the segments out of all of them beside each `exp`, that takes 6.6 times as long."""
    x = jax.ShapeDtypeStruct((6, 640, 3, 64), jnp.bfloat16)
    segments = jax.ShapeDtypeStruct((6, 640), jnp.int32)

    def both(q: Any, k: Any, v: Any, segments: Any) -> Any:
        out, back = jax.vjp(lambda q, k, v: blocked_attention(q, k, v, segments), q, k, v)
        return back(out)

    compiled = str(jax.jit(both).lower(x, x, x, segments).compile().as_text())
    computations = re.split(r"\n(?=%?[\w.-]+ \(|ENTRY)", compiled)
    with_exp = [each for each in computations if "exponential(" in each]
    assert len(with_exp) >= 8
    assert not [each for each in with_exp if re.search(r"= s32\[.*dynamic-slice\(", each)]
