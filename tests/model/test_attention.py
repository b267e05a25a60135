"""Attention against loops over rows, heads and positions in NumPy."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import ModelConfig
from jslm.model.kernels import choose_attention
from jslm.model.kernels.plain import attention as causal_attention
from jslm.model.kernels.plain import cached_attention, grouped_attention

BATCH, LENGTH, HEADS, DIM = 2, 7, 4, 6


def make(kv_heads: int, length: int = LENGTH) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    noise = np.random.default_rng(kv_heads)
    shapes = [(BATCH, length, HEADS, DIM), (BATCH, length, kv_heads, DIM), (BATCH, length, kv_heads, DIM)]
    q, k, v = (noise.standard_normal(shape).astype(np.float32) for shape in shapes)
    return q, k, v


def naive(q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: Any) -> np.ndarray:
    """float64; `seen(row, query)` is the list of positions that a query may look at."""
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    out = np.zeros(q.shape)
    share = q.shape[2] // k.shape[2]
    for row in range(q.shape[0]):
        for query in range(q.shape[1]):
            for head in range(q.shape[2]):
                places = seen(row, query)
                scores = [q[row, query, head] @ k[row, place, head // share] / math.sqrt(DIM) for place in places]
                weights = np.exp(np.array(scores) - max(scores))
                weights /= weights.sum()
                out[row, query, head] = sum(
                    weight * v[row, place, head // share] for weight, place in zip(weights, places, strict=True)
                )
    return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_causal_attention_equals_the_loop(kv_heads: int) -> None:
    q, k, v = make(kv_heads)
    found = causal_attention(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v))
    np.testing.assert_allclose(found, naive(q, k, v, lambda row, query: range(query + 1)), atol=1e-5)


@pytest.mark.parametrize("kv_heads", [4, 2])
def test_gradients_equal_those_of_repeated_heads(kv_heads: int) -> None:
    q, k, v = map(jnp.asarray, make(kv_heads))
    weights = jnp.asarray(np.random.default_rng(9).standard_normal(q.shape, np.float32))

    def ours(q: Any, k: Any, v: Any) -> Any:
        return jnp.sum(weights * causal_attention(q, k, v))

    def repeated(q: Any, k: Any, v: Any) -> Any:
        k, v = (jnp.repeat(x, HEADS // kv_heads, axis=2) for x in (k, v))
        scores = jnp.einsum("bthd,bshd->bhts", q, k) / math.sqrt(DIM)
        scores = scores - 1e9 * (1 - jnp.tril(jnp.ones((1, 1, LENGTH, LENGTH))))
        return jnp.sum(weights * jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores, axis=-1), v))

    found, wanted = (jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in (ours, repeated))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_later_positions_have_no_influence() -> None:
    q, k, v = map(jnp.asarray, make(2))
    before = causal_attention(q, k, v)
    after = causal_attention(q, k.at[:, 5:].set(99.0), v.at[:, 5:].set(-99.0))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(np.asarray(before - after))[:, 5:].max() > 1


def test_cached_attention_sees_slots_up_to_each_position() -> None:
    q, k, v = make(2, length=9)
    q, positions = q[:, :3], np.array([[4, 5, 6], [1, 2, 3]], np.int32)
    found = cached_attention(
        jnp.asarray(q), jnp.asarray(k).swapaxes(1, 2), jnp.asarray(v).swapaxes(1, 2), jnp.asarray(positions)
    )
    wanted = naive(q, k, v, lambda row, query: range(positions[row, query] + 1))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_dropout_drops_weights_and_keeps_the_mean() -> None:
    q, k, v = map(jnp.asarray, make(2))
    keys, values = k.swapaxes(1, 2), v.swapaxes(1, 2)
    mask = jnp.tril(jnp.ones((1, LENGTH, LENGTH), bool))

    def dropped(key: jax.Array) -> jax.Array:
        return grouped_attention(q, keys, values, mask, dropout=0.4, dropout_key=key)

    whole = grouped_attention(q, keys, values, mask)
    samples = jax.jit(jax.vmap(dropped))(jax.random.split(jax.random.key(0), 4000))
    np.testing.assert_allclose(samples.mean(0), whole, atol=0.12)
    # The first query sees one position alone: kept, at 1 / 0.6 of its value, or nothing.
    first = np.asarray(samples)[:, 0, 0, 0] / np.asarray(v)[0, 0, 0]
    np.testing.assert_allclose(np.unique(first.round(4)), [0, 1.6667], atol=1e-3)
    np.testing.assert_allclose((first[:, 0] > 0).mean(), 0.6, atol=0.04)


def test_narrow_types_use_a_float32_softmax() -> None:
    """With equal scores over 4,096 positions, a bfloat16 sum of the exponentials would stop growing at 256."""
    length = 4096
    q = jnp.zeros((1, 1, 1, 2), jnp.bfloat16)
    k = jnp.zeros((1, 1, length, 2), jnp.bfloat16)
    v = jnp.ones((1, 1, length, 2), jnp.bfloat16)
    out = cached_attention(q, k, v, jnp.full((1, 1), length - 1, jnp.int32))
    np.testing.assert_allclose(out.astype(jnp.float32), 1.0, rtol=0.01)


@pytest.mark.parametrize(
    ("keys", "dtype", "backend", "chosen"),
    [
        ({}, jnp.bfloat16, "gpu", "cudnn"),
        ({}, jnp.float16, "gpu", "cudnn"),
        ({}, jnp.float32, "gpu", "xla"),
        ({}, jnp.bfloat16, "cpu", "blocked"),
        ({"dropout": 0.1}, jnp.float32, "cpu", "blocked"),
        ({}, jnp.bfloat16, "tpu", "splash"),
        ({}, jnp.float32, "tpu", "splash"),
        ({}, jnp.float16, "tpu", "xla"),
        ({"dropout": 0.1}, jnp.bfloat16, "tpu", "xla"),
        ({"context_length": 192}, jnp.bfloat16, "tpu", "xla"),
        ({"attention": "xla"}, jnp.bfloat16, "tpu", "xla"),
        ({"attention": "splash"}, jnp.bfloat16, "tpu", "splash"),
        ({"attention": "splash", "context_length": 64}, jnp.bfloat16, "tpu", "xla"),
        ({"attention": "splash"}, jnp.bfloat16, "gpu", "xla"),
        ({"attention": "splash"}, jnp.float32, "cpu", "blocked"),
        ({"dropout": 0.1}, jnp.bfloat16, "gpu", "flash"),
        ({"dropout": 0.1, "attention_dropout": 0.0}, jnp.bfloat16, "gpu", "cudnn"),
        ({"attention_dropout": 0.1}, jnp.bfloat16, "gpu", "flash"),
        ({"attention_dropout": 0.1, "attention": "cudnn"}, jnp.bfloat16, "gpu", "flash"),
        ({"attention_dropout": 0.1, "context_length": 96}, jnp.bfloat16, "gpu", "xla"),
        ({"attention_dropout": 0.1, "head_dim": 96}, jnp.bfloat16, "gpu", "xla"),
        ({"head_dim": 12}, jnp.bfloat16, "gpu", "xla"),
        ({"head_dim": 264}, jnp.bfloat16, "gpu", "xla"),
        ({"head_dim": 32}, jnp.bfloat16, "gpu", "flash"),
        ({"head_dim": 32, "context_length": 192}, jnp.bfloat16, "gpu", "cudnn"),
        ({"head_dim": 32, "attention": "cudnn"}, jnp.bfloat16, "gpu", "cudnn"),
        ({"head_dim": 256}, jnp.bfloat16, "gpu", "cudnn"),
        ({"attention": "xla"}, jnp.bfloat16, "gpu", "xla"),
        ({"attention": "cudnn"}, jnp.float32, "cpu", "blocked"),
        ({"attention": "cudnn"}, jnp.bfloat16, "tpu", "splash"),
        ({"attention": "cudnn"}, jnp.float32, "gpu", "cudnn"),
    ],
)
def test_choice_of_implementation(keys: dict[str, Any], dtype: Any, backend: str, chosen: str) -> None:
    config = ModelConfig.model_validate({"head_dim": 64} | keys)
    assert choose_attention(config, jnp.dtype(dtype), backend, 9.0) == chosen


@pytest.mark.parametrize(
    ("capability", "head_dim", "chosen"),
    [(7.5, 64, "xla"), (8.0, 128, "cudnn"), (8.9, 136, "xla"), (9.0, 136, "cudnn"), (10.0, 256, "cudnn")],
)
def test_older_gpus_get_what_they_can_run(capability: float, head_dim: int, chosen: str) -> None:
    config = ModelConfig.model_validate({"head_dim": head_dim})
    assert choose_attention(config, jnp.dtype(jnp.bfloat16), "gpu", capability) == chosen
