"""What each platform computes in its own way, against JAX as anyone would write it: values and gradients in float32."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import ModelConfig
from jslm.model import apply_decoder, init_params, loss_sums
from jslm.model.kernels import (
    Kernels,
    choice,
    choose_kernels,
    cpu,
    decoding_kernels,
    gpu,
    gpu_loss,
    gpu_norm,
    plain,
    tpu,
)
from jslm.model.kernels.cpu_attention import blocked_attention
from jslm.model.kernels.gpu_attention import flash_attention
from jslm.model.kernels.hashed_masks import kept_elements, kept_weights
from jslm.model.keys import make_key, rows_from

PLATFORMS = {"cpu": cpu.training("blocked"), "gpu": gpu.training("xla", 10**9), "tpu": tpu.training("xla")}
ROWS, WIDTH = (2, 32), 48


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The GPU's kernels, step by step on this CPU."""
    monkeypatch.setattr(gpu, "logit_sums", functools.partial(gpu.logit_sums, interpret=True))


@pytest.fixture(params=PLATFORMS)
def kernels(request: pytest.FixtureRequest) -> Kernels:
    return PLATFORMS[request.param]


def noise(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, np.float32))


def agree(ours: Any, reference: Any, *arrays: jax.Array) -> None:
    """Both functions of the arrays have the same values, and the same gradients of a mixture of them."""

    def both(function: Any) -> Any:
        def total(*arrays: jax.Array) -> Any:
            out = function(*arrays)
            leaves = jax.tree.leaves(out)
            return sum(jnp.sum(jnp.sin(leaf) * noise(9, *leaf.shape)) for leaf in leaves), out

        return jax.jit(jax.grad(total, tuple(range(len(arrays))), has_aux=True))(*arrays)

    for found, wanted in zip(jax.tree.leaves(both(ours)), jax.tree.leaves(both(reference)), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=3e-5)


def test_products(kernels: Kernels) -> None:
    agree(kernels.linear, plain.linear, noise(0, *ROWS, WIDTH), noise(1, WIDTH, 20))

    def projections(of: Kernels, biases: bool) -> Any:
        def project(x: Any, q: Any, k: Any, bias: Any) -> Any:
            first = {"kernel": q, "bias": bias} if biases else {"kernel": q}
            return of.project(x, [first, {"kernel": k}])

        return project

    arrays = (noise(0, *ROWS, WIDTH), noise(1, WIDTH, 20), noise(2, WIDTH, 12), noise(3, 20))
    for biases in (False, True):
        agree(projections(kernels, biases), projections(plain.PLAIN, biases), *arrays)


@pytest.mark.parametrize("name", ["swiglu", "geglu", "gelu", "gelu_exact", "relu", "relu2"])
@pytest.mark.parametrize("bias", [False, True])
def test_activations(kernels: Kernels, name: str, bias: bool) -> None:
    def activate(of: Kernels) -> Any:
        def apply(up: Any, gate: Any, vector: Any) -> Any:
            branch = (gate, None) if name in ("swiglu", "geglu") else None
            return of.activate(name, (up, vector if bias else None), branch)

        return apply

    agree(activate(kernels), activate(plain.PLAIN), noise(0, *ROWS, WIDTH), noise(1, *ROWS, WIDTH), noise(2, WIDTH))


def test_rotation(kernels: Kernels) -> None:
    angles = noise(1, 1, ROWS[1], 1, 8)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    x = noise(0, *ROWS, 3, 16)
    agree(lambda x: kernels.rotate(x, cos, sin), lambda x: plain.rotate(x, cos, sin), x)


@pytest.mark.parametrize(("width", "center", "bias"), [(48, True, True), (64, False, False), (96, True, False)])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_norms_of_a_branch(platform: str, width: int, center: bool, bias: bool) -> None:
    branch = cpu.normalized_branch
    if platform == "gpu":
        branch = functools.partial(gpu_norm.normalized_branch, interpret=True)
    arrays = [2 * noise(0, *ROWS, width) + 1, noise(1, width), *([noise(2, width)] if bias else [])]

    def apply(function: Any) -> Any:
        return lambda x, scale, bias=None: function(x, scale, bias, 1e-5, center)

    agree(apply(branch), apply(plain.normalized_branch), *arrays)


def test_a_cpu_keeps_the_residual_stream_in_float32_beside_products_of_bfloat16() -> None:
    config = ModelConfig(n_layers=8, d_model=64, n_heads=2, context_length=32, vocab_size=64)
    params = init_params(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 32), 0, 64)
    exact = apply_decoder(params, tokens, config)

    def error(kernels: Kernels) -> float:
        found = apply_decoder(params, tokens, config, jnp.bfloat16, kernels=kernels)
        assert found.dtype == jnp.bfloat16
        return float(jnp.linalg.norm(found.astype(jnp.float32) - exact) / jnp.linalg.norm(exact))

    assert error(cpu.training("blocked", jnp.bfloat16)) < 0.7 * error(cpu.training("blocked"))


@pytest.mark.parametrize("padded", [384, 5120])
@pytest.mark.parametrize("softcap", [0.0, 7.0])
def test_sums_over_logits_in_one_pass(padded: int, softcap: float) -> None:
    """Blocks of 4,096 logits, the last one in part beyond the vocabulary."""
    vocab = padded - 100
    logits = 5 * noise(0, 2, 3, padded)
    targets = jnp.asarray([[0, vocab - 1, -1], [5, 6, 7]], jnp.int32)
    found = gpu.logit_sums(logits, targets, vocab, softcap)
    wanted = gpu_loss.plain_logit_sums(logits, targets, vocab, softcap)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    spoilt = gpu.logit_sums(logits.at[0, 0, 3].set(jnp.nan), targets, vocab, softcap)
    assert np.isnan(spoilt[1][0, 0])
    assert np.isfinite(spoilt[1][1]).all()


@pytest.mark.parametrize(("kv_heads", "packed"), [(4, False), (2, True), (1, True)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_attention_whose_weights_drop_out(platform: str, kv_heads: int, packed: bool, dropout: float) -> None:
    """Against the plain one with the same weights dropped: the same ones on CPUs and GPUs."""
    batch, length, heads, width = 2, 256, 4, 32
    q, k, v = (noise(index, batch, length, count, width) for index, count in enumerate((heads, kv_heads, kv_heads)))
    row = np.searchsorted([40, 150], np.arange(length), side="right")
    segments = jnp.asarray(np.stack([row, np.zeros(length)]).astype(np.int32)) if packed else None
    key = jax.random.key(7)
    kept = kept_weights(key, batch, heads, length, dropout)

    def reference(q: Any, k: Any, v: Any) -> Any:
        keys, values = (jnp.repeat(x, heads // kv_heads, axis=2) for x in (k, v))
        scores = jnp.einsum("bthd,bshd->bhts", q, keys) * width**-0.5
        seen = jnp.tril(jnp.ones((length, length), bool))[None]
        if segments is not None:
            seen = seen & (segments[:, :, None] == segments[:, None, :])
        weights = jax.nn.softmax(jnp.where(seen[:, None], scores, -1e30), axis=-1)
        return jnp.einsum("bhts,bshd->bthd", jnp.where(kept, weights / (1 - dropout), 0.0), values)

    def ours(q: Any, k: Any, v: Any) -> Any:
        if platform == "cpu":
            return blocked_attention(q, k, v, segments, dropout, key)
        return flash_attention(q, k, v, segments, dropout, key, interpret=True)

    agree(ours, reference, q, k, v)


@pytest.mark.parametrize(
    "masks",
    [
        lambda key: kept_weights(key, 2, 2, 512, 0.25),
        lambda key: kept_elements(key, (4, 512, 512), 0.25),
        lambda key: kept_elements(key, (2048, 512), 0.25),
    ],
)
def test_the_hash_drops_as_many_as_it_should_and_without_a_pattern(masks: Callable[[jax.Array], jax.Array]) -> None:
    kept = np.asarray(masks(jax.random.key(0)), np.float64)
    # 2,097,152 draws: four standard deviations are 0.0012.
    assert abs(kept.mean() - 0.75) < 0.0012
    noise_of_rows = np.corrcoef(kept.reshape(-1, 512)) - np.eye(4 * 512)
    noise_of_keys = np.corrcoef(kept.reshape(-1, 512).T) - np.eye(512)
    # Correlations of independent draws: 1 / sqrt(draws), six of it among millions.
    assert np.abs(noise_of_rows).max() < 6 / np.sqrt(512)
    assert np.abs(noise_of_keys).max() < 6 / np.sqrt(2048)
    other = masks(jax.random.key(1))
    assert abs(np.mean(np.asarray(other) * kept) - 0.75**2) < 0.003


def test_rows_drop_what_they_would_have_among_others() -> None:
    """A device that has rows 3 to 7 of a batch draws what it would have of all of them."""
    key = make_key(5)
    later = rows_from(key, 3)
    whole, part = kept_elements(key, (8, 6, 16), 0.5), kept_elements(later, (5, 6, 16), 0.5)
    np.testing.assert_array_equal(whole[3:], part)
    np.testing.assert_array_equal(kept_weights(key, 8, 2, 6, 0.5)[3:], kept_weights(later, 5, 2, 6, 0.5))


def test_dropout_keeps_the_mean(kernels: Kernels) -> None:
    x = jnp.ones((500, 400))
    found = np.asarray(kernels.dropout(x, 0.1, jax.random.key(0)))
    assert abs((found == 0).mean() - 0.1) < 0.004
    assert abs(found.mean() - 1) < 0.003
    assert len(np.unique(found)) == 2


def test_choosing_an_update(kernels: Kernels) -> None:
    for good in (True, False):
        (found,) = jax.tree.leaves(
            jax.jit(lambda good, x: kernels.update_if(good, lambda x: (x + 1,), x))(good, jnp.ones(3))
        )
        np.testing.assert_array_equal(found, 1.0 + good)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_models_loss_and_gradients(platform: str) -> None:
    config = ModelConfig(
        n_layers=2, d_model=64, n_heads=4, n_kv_heads=2, context_length=64, vocab_size=100, qk_norm=True
    )
    params = init_params(config, jax.random.key(0))
    tokens = jax.random.randint(jax.random.key(1), (2, 64), 0, 100)
    if platform == "gpu":
        kernels = dataclasses.replace(PLATFORMS["gpu"], normalized_branch=plain.normalized_branch)
    else:
        kernels = PLATFORMS[platform]

    def total(of: Kernels) -> Any:
        return jax.jit(
            jax.value_and_grad(lambda p: loss_sums(p, tokens, jnp.roll(tokens, -1, 1), config, kernels=of)[0])
        )

    (found, ours), (wanted, theirs) = total(kernels)(params), total(plain.PLAIN)(params)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-4)


def test_equal_choices_are_one_object_so_that_programs_are_shared() -> None:
    config = ModelConfig()
    assert choose_kernels(config) is choose_kernels(config)
    assert decoding_kernels(config) is decoding_kernels(config)
    assert choose_kernels(config, platform="gpu") is not choose_kernels(config, platform="cpu")
    hidden = apply_decoder(
        init_params(config.model_copy(update={"vocab_size": 10}), jax.random.key(0)),
        jnp.zeros((1, 4), jnp.int32),
        config,
    )
    assert hidden.shape == (1, 4, config.d_model)


def test_gpus_before_triton_have_none_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """A T4's compute capability is 7.5: the compiler refuses a program with one."""
    logits, targets = jnp.zeros((2, 32, 128), jnp.float16), jnp.zeros((2, 32), jnp.int32)
    x, scale = jnp.ones((2, 32, 64), jnp.float16), jnp.ones(64)

    def program() -> str:
        def step(x: jax.Array) -> Any:
            norm = jax.grad(lambda x: sum(map(jnp.sum, gpu_norm.normalized_branch(x, scale, None, 1e-5, True))))(x)
            return norm, gpu_loss.logit_sums(logits, targets, 100, 0.0)

        return str(jax.make_jaxpr(step)(x))

    assert program().count("pallas_call") == 2
    monkeypatch.setattr(choice, "compute_capability", lambda kind: 7.5)
    assert "pallas_call" not in program()
