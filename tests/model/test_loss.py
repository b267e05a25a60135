"""The fused cross-entropy against log_softmax over whole logits."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import ModelConfig
from jslm.model import init_params, loss_sums
from jslm.model.kernels import cpu, gpu, plain, tpu

BATCH, LENGTH, WIDTH, VOCAB, PADDED = 2, 12, 8, 37, 128
HUGE = 50.0


def make(seed: int = 0) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(hidden, head, targets); every third target is ignored, and the padding rows are large on purpose."""
    noise = np.random.default_rng(seed)
    hidden = noise.standard_normal((BATCH, LENGTH, WIDTH), np.float32)
    head = noise.standard_normal((PADDED, WIDTH), np.float32)
    head[VOCAB:] *= HUGE
    targets = noise.integers(0, VOCAB, (BATCH, LENGTH)).astype(np.int32)
    targets[:, ::3] = -1
    return jnp.asarray(hidden), jnp.asarray(head), jnp.asarray(targets)


def fused_cross_entropy(*arguments: Any, platform: str = "cpu") -> tuple[Any, Any]:
    kernels = {"cpu": cpu.training("blocked"), "gpu": gpu.training("cudnn", 10**9), "tpu": tpu.training("splash")}
    return kernels.get(platform, plain.PLAIN).cross_entropy(*arguments)


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's kernel, step by step on this CPU."""
    monkeypatch.setattr(gpu, "logit_sums", functools.partial(gpu.logit_sums, interpret=True))


def naive(hidden: Any, head: Any, targets: Any, softcap: float, z_loss: float) -> tuple[Any, Any]:
    logits = jnp.einsum("btd,vd->btv", hidden, head[:VOCAB])
    if softcap:
        logits = softcap * jnp.tanh(logits / softcap)
    log_z = jax.scipy.special.logsumexp(logits, axis=-1)
    picked = jnp.take_along_axis(logits, jnp.maximum(targets, 0)[..., None], axis=-1)[..., 0]
    counted = (targets >= 0).astype(jnp.float32)
    loss = jnp.sum(counted * (log_z - picked))
    return loss + z_loss * jnp.sum(counted * log_z**2), loss


@pytest.mark.parametrize("softcap", [0.0, 3.0])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("chunk", [LENGTH, 4, 1])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu", "plain"])
def test_values_and_gradients_equal_log_softmax(platform: str, chunk: int, z_loss: float, softcap: float) -> None:
    hidden, head, targets = make()

    def fused(hidden: Any, head: Any) -> tuple[Any, Any]:
        return fused_cross_entropy(hidden, head, targets, VOCAB, softcap, z_loss, chunk, platform=platform)

    def plainly(hidden: Any, head: Any) -> tuple[Any, Any]:
        return naive(hidden, head, targets, softcap, z_loss)

    (found, found_loss), found_gradients = jax.jit(jax.value_and_grad(fused, (0, 1), has_aux=True))(hidden, head)
    (wanted, loss), gradients = jax.jit(jax.value_and_grad(plainly, (0, 1), has_aux=True))(hidden, head)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(found_loss, loss, rtol=1e-5)
    for ours, theirs in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    # Without differentiation another path computes the sums.
    np.testing.assert_allclose(jax.jit(fused)(hidden, head), (wanted, loss), rtol=1e-5)


def test_padding_gets_neither_probability_nor_gradient() -> None:
    hidden, head, targets = make()

    def total(head: Any) -> Any:
        return fused_cross_entropy(hidden, head, targets, VOCAB, 0.0, 0.1, 4)[0]

    value, gradient = jax.value_and_grad(total)(head)
    np.testing.assert_array_equal(gradient[VOCAB:], 0.0)
    assert np.abs(np.asarray(gradient[:VOCAB])).min(axis=1).max() > 0
    np.testing.assert_array_equal(value, total(head.at[VOCAB:].set(0.0)))


def test_ignored_positions_count_for_nothing() -> None:
    hidden, head, targets = make()

    def total(hidden: Any, targets: Any) -> Any:
        return fused_cross_entropy(hidden, head, targets, VOCAB, 0.0, 0.1, 4)[0]

    gradient = np.asarray(jax.grad(total)(hidden, targets))
    np.testing.assert_array_equal(gradient[:, ::3], 0.0)
    assert (np.abs(gradient).sum(-1)[np.asarray(targets) >= 0] > 0).all()
    none = jnp.full_like(targets, -1)
    assert total(hidden, none) == 0
    np.testing.assert_array_equal(jax.grad(total)(hidden, none), 0.0)


def test_scale_of_the_objective_reaches_the_gradients() -> None:
    """The cotangent: 1 / tokens, or a loss scale. The second sum carries none."""
    hidden, head, targets = make()

    def scaled(hidden: Any, first: float, second: float) -> Any:
        objective, loss = fused_cross_entropy(hidden, head, targets, VOCAB, 0.0, 0.0, 4)
        return first * objective + second * loss

    one = jax.grad(scaled)(hidden, 1.0, 0.0)
    np.testing.assert_allclose(jax.grad(scaled)(hidden, 7.0, 3.0), 7.0 * one, rtol=1e-6)


def test_far_logits_stay_finite() -> None:
    hidden, head, targets = make()

    def total(hidden: Any) -> Any:
        return fused_cross_entropy(hidden, head, targets, VOCAB, 0.0, 0.0, LENGTH)[0]

    value, gradient = jax.value_and_grad(total)(1e4 * hidden)
    wanted = naive(1e4 * hidden, head, targets, 0.0, 0.0)[0]
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    assert np.isfinite(np.asarray(gradient)).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 0.03), (jnp.float16, 0.004)])
def test_narrow_types_stay_near(dtype: Any, tolerance: float) -> None:
    hidden, head, targets = make()

    def total(hidden: Any, head: Any) -> Any:
        return fused_cross_entropy(hidden, head, targets, VOCAB, 0.0, 0.0, 4)[0]

    wanted, gradients = jax.value_and_grad(total, (0, 1))(hidden, head)
    found, narrow = jax.value_and_grad(total, (0, 1))(hidden.astype(dtype), head)
    assert found.dtype == jnp.float32
    assert (narrow[0].dtype, narrow[1].dtype) == (dtype, jnp.float32)
    np.testing.assert_allclose(found, wanted, rtol=tolerance)
    for ours, theirs in zip(narrow, gradients, strict=True):
        distance = jnp.linalg.norm(ours.astype(jnp.float32) - theirs) / jnp.linalg.norm(theirs)
        assert distance < tolerance


@pytest.mark.parametrize(
    ("batch", "length", "padded", "asked", "chunk"),
    [
        (32, 256, 128, 0, 256),
        # 64 MiB / (4 * 50,304) = 333 tokens: 10 a row of 32, and 8 is the divisor of 256 below.
        (32, 256, 50304, 0, 8),
        (1, 1024, 50304, 0, 256),
        (4, 12, 128, 16, 4),
        (4, 12, 128, 1, 1),
        (4096, 7, 200_000, 0, 1),
    ],
)
@pytest.mark.parametrize("kernels", [cpu, tpu])
def test_chunk_length(kernels: Any, batch: int, length: int, padded: int, asked: int, chunk: int) -> None:
    assert kernels.loss_chunk(batch, length, padded, asked) == chunk


@pytest.mark.parametrize(
    ("batch", "length", "padded", "asked", "on_cpu", "elsewhere"),
    [
        # 16 MiB / (4 * 4,096) = 1,024 tokens; at 8,192 that is 512, but 1,024 is the least.
        (16, 256, 4096, 0, 64, 256),
        (4, 512, 8192, 0, 256, 512),
        (4, 512, 8192, 2048, 512, 512),
    ],
)
def test_chunks_on_cpus_fit_their_caches(
    batch: int, length: int, padded: int, asked: int, on_cpu: int, elsewhere: int
) -> None:
    assert cpu.loss_chunk(batch, length, padded, asked) == on_cpu
    assert tpu.loss_chunk(batch, length, padded, asked) == elsewhere


@pytest.mark.parametrize(
    ("gigabytes", "batch", "asked", "chunk"),
    [
        # A sixteenth of the memory holds the 16-bit logits of 49,697 tokens of GPT-2's vocabulary on 80 GB.
        (80, 16, 0, 1024),
        (80, 32, 0, 1024),
        (80, 64, 0, 512),
        (16, 16, 0, 512),
        (0, 16, 0, 128),
        (80, 16, 4096, 256),
    ],
)
def test_chunks_on_gpus_are_sized_by_their_memory(gigabytes: int, batch: int, asked: int, chunk: int) -> None:
    loss_chunk = gpu.training("cudnn", gigabytes * 10**9).loss_chunk
    assert loss_chunk(batch, 1024, 50304, asked) == chunk


def test_loss_sums_chunks_alike_and_starts_at_a_guess() -> None:
    config = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_ff=32, context_length=12, vocab_size=VOCAB, init_std=0.02)
    params = init_params(config, jax.random.key(0))
    inputs = jnp.asarray(np.random.default_rng(1).integers(0, VOCAB, (BATCH, LENGTH)), jnp.int32)
    _, _, targets = make()
    whole, loss = loss_sums(params, inputs, targets, config)
    pieces, _ = loss_sums(params, inputs, targets, config, loss_chunk=BATCH * 3)
    np.testing.assert_allclose(pieces, whole, rtol=1e-6)
    np.testing.assert_allclose(loss / np.sum(np.asarray(targets) >= 0), np.log(VOCAB), atol=0.1)
