"""The decoder as a whole: options that must not change results, initialisation, types, and its size."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import ModelConfig
from jslm.model import (
    Params,
    apply_decoder,
    compute_dtype,
    count_parameters,
    decoding_kernels,
    flops_per_token,
    head_table,
    init_params,
    logits_from_hidden,
    loss_sums,
    param_axes,
    param_shapes,
    unstack_layers,
)
from jslm.model.kernels.types import _cpu_flags

VOCAB = 53
SHAPE = {
    "init_std": 0.02,
    "n_layers": 3,
    "d_model": 16,
    "n_heads": 4,
    "d_ff": 24,
    "context_length": 8,
    "vocab_size": VOCAB,
}
GPT2 = {
    "n_layers": 12,
    "d_model": 768,
    "n_heads": 12,
    "context_length": 1024,
    "vocab_size": 50257,
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}
LLAMA = {
    "n_layers": 5,
    "d_model": 64,
    "n_heads": 8,
    "n_kv_heads": 4,
    "d_ff": 172,
    "context_length": 512,
    "vocab_size": 512,
    "tie_embeddings": False,
}


def make(**keys: Any) -> ModelConfig:
    return ModelConfig.model_validate(SHAPE | keys)


def batch() -> tuple[jax.Array, jax.Array]:
    noise = np.random.default_rng(0)
    inputs, targets = noise.integers(0, VOCAB, (2, 2, 8)).astype(np.int32)
    targets[0, 3] = -1
    return jnp.asarray(inputs), jnp.asarray(targets)


@functools.partial(jax.jit, static_argnames="config")
def loss_and_gradients(params: Params, config: ModelConfig, key: jax.Array | None = None) -> tuple[Any, Params]:
    def total(params: Params) -> jax.Array:
        return loss_sums(params, *batch(), config, dropout_key=key)[0]

    return jax.value_and_grad(total)(params)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def hidden_states(params: Params, config: ModelConfig, dtype: Any = jnp.float32, key: Any = None) -> jax.Array:
    return apply_decoder(params, batch()[0], config, dtype, dropout_key=key)


def assert_trees_close(found: Any, wanted: Any, **tolerance: Any) -> None:
    assert str(jax.tree.structure(found)) == str(jax.tree.structure(wanted))
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, err_msg=jax.tree_util.keystr(path), **tolerance)


@pytest.mark.parametrize(
    "keys", [{"remat": "dots"}, {"remat": "full"}, {"unroll": 1}, {"unroll": 2}, {"unroll": 9}], ids=str
)
def test_memory_and_unrolling_change_nothing(keys: dict[str, Any]) -> None:
    """With dropout, whose masks must be the same when they are drawn again."""
    key = jax.random.key(5)
    params = init_params(make(), jax.random.key(0))
    loss, gradients = loss_and_gradients(params, make(dropout=0.3), key)
    found, ours = loss_and_gradients(params, make(dropout=0.3, **keys), key)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    assert_trees_close(ours, gradients, rtol=1e-4, atol=1e-6)


def test_layers_as_a_tuple_give_the_same() -> None:
    config = make()
    params = init_params(config, jax.random.key(0))
    loss, gradients = loss_and_gradients(params, config)
    apart = unstack_layers(params)
    assert len(apart["layers"]) == 3
    assert unstack_layers(apart) is apart
    found, ours = loss_and_gradients(apart, config)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    assert_trees_close(ours, unstack_layers(gradients), rtol=1e-4, atol=1e-6)


def test_no_parameter_is_left_out_of_the_loss() -> None:
    config = make(
        norm="layernorm", position="learned", qkv_bias=True, out_bias=True, mlp_bias=True, qk_norm=True,
        tie_embeddings=False, n_kv_heads=2,
    )  # fmt: skip
    params = init_params(config, jax.random.key(0))
    # Every bias but the keys' (which cancels in the softmax, save for the norm over it) and every row that is used.
    _, gradients = loss_and_gradients(params, config)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.abs(np.asarray(leaf)).max() > 1e-6, jax.tree_util.keystr(path)


def test_causality() -> None:
    config = make()
    params = init_params(config, jax.random.key(0))
    tokens = batch()[0]
    apply = jax.jit(lambda tokens: apply_decoder(params, tokens, config))
    before, after = apply(tokens), apply(tokens.at[:, 5].set((tokens[:, 5] + 1) % VOCAB))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert np.abs(np.asarray(before - after))[:, 5:].max(-1).min() > 1e-4


def test_initial_spread() -> None:
    """Radford et al. 2019: residual projections start at init_std / sqrt(2 layers)."""
    config = ModelConfig(n_layers=8, d_model=128, n_heads=4, vocab_size=512, init_std=0.05, tie_embeddings=False)
    params = init_params(config, jax.random.key(1))
    layers = params["layers"]
    full = [layers["attention"][name]["kernel"] for name in "qkv"] + [layers["mlp"]["up"]["kernel"]]
    full += [layers["mlp"]["gate"]["kernel"], params["embed"]["tokens"], params["head"]["tokens"]]
    for leaf in full:
        np.testing.assert_allclose(np.std(leaf), 0.05, rtol=0.02)
    for leaf in (layers["attention"]["out"]["kernel"], layers["mlp"]["down"]["kernel"]):
        np.testing.assert_allclose(np.std(leaf), 0.05 / 4, rtol=0.02)
        assert np.abs(np.asarray(leaf[0] - leaf[1])).max() > 0.01, "layers must differ"
    np.testing.assert_array_equal(layers["mlp_norm"]["scale"], 1.0)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    again = init_params(config, jax.random.key(1))
    np.testing.assert_array_equal(again["embed"]["tokens"], params["embed"]["tokens"])
    other = init_params(config, jax.random.key(2))
    assert np.abs(np.asarray(other["embed"]["tokens"] - params["embed"]["tokens"])).max() > 0.05


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"tie_embeddings": False, "position": "learned", "norm": "layernorm", "mlp_bias": True, "qkv_bias": True},
        {"activation": "relu2", "qk_norm": True, "out_bias": True, "n_kv_heads": 1},
    ],
    ids=["default", "gpt2", "modern"],
)
def test_axes_have_the_parameters_structure(keys: dict[str, Any]) -> None:
    config = make(**keys)
    axes, shapes = param_axes(config), param_shapes(config)
    params = init_params(config, jax.random.key(0))
    assert str(jax.tree.structure(shapes)) == str(jax.tree.structure(params))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    named = jax.tree.structure(axes, is_leaf=lambda leaf: isinstance(leaf, tuple))
    assert str(named) == str(jax.tree.structure(params))
    for leaf, names in zip(
        jax.tree.leaves(params), jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, tuple)), strict=True
    ):
        assert leaf.ndim == len(names)
    assert axes["layers"]["mlp"]["down"]["kernel"] == ("layers", "mlp", "embed")
    assert axes["layers"]["attention"]["k"]["kernel"] == ("layers", "embed", "kv_heads")
    assert axes["embed"]["tokens"] == ("vocab", "embed")


def test_dropout_is_a_function_of_its_key() -> None:
    config, still = make(dropout=0.2), make()
    params = init_params(config, jax.random.key(0))
    once = hidden_states(params, config, key=jax.random.key(1))
    np.testing.assert_array_equal(once, hidden_states(params, config, key=jax.random.key(1)))
    assert np.abs(np.asarray(once - hidden_states(params, config, key=jax.random.key(2)))).max() > 0.1
    # Without a key, as in validation and sampling, it is off; a rate of 0 needs no key.
    np.testing.assert_array_equal(hidden_states(params, config), hidden_states(params, still))
    np.testing.assert_array_equal(hidden_states(params, still, key=jax.random.key(1)), hidden_states(params, still))


def test_dropout_keeps_the_mean() -> None:
    """Without layers in between, embeddings alone: each is dropped or divided by what is kept."""
    config = make(dropout=0.25, n_layers=1)
    params = init_params(config, jax.random.key(0))
    # Sublayers that write nothing leave the embeddings on the residual stream.
    for part, name in (("attention", "out"), ("mlp", "down")):
        params["layers"][part][name]["kernel"] *= 0
    # Rows of +-1 stay +-1 under the norm but for the share that was dropped.
    params["embed"]["tokens"] = jnp.sign(params["embed"]["tokens"])
    keys = jax.random.split(jax.random.key(3), 100)
    samples = jax.jit(jax.vmap(lambda key: apply_decoder(params, batch()[0], config, dropout_key=key)))(keys)
    dropped = np.asarray(samples == 0).mean()
    assert dropped == pytest.approx(0.25, abs=0.01)
    kept = np.asarray(samples != 0).sum(-1, keepdims=True)
    np.testing.assert_allclose(np.abs(samples).max(-1, keepdims=True), np.sqrt(16 / kept), rtol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.bfloat16, 0.03), (jnp.float16, 0.004)])
def test_narrow_types_stay_near_float32(dtype: Any, tolerance: float) -> None:
    config = make(n_kv_heads=2, qk_norm=True, logit_softcap=10.0)
    params = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda leaf: leaf * (5 if leaf.ndim > 2 else 1), params)
    wanted, found = hidden_states(params, config), hidden_states(params, config, dtype)
    assert found.dtype == dtype
    assert jnp.linalg.norm(found.astype(jnp.float32) - wanted) < tolerance * jnp.linalg.norm(wanted)
    logits = logits_from_hidden(params, found, config)
    assert logits.dtype == jnp.float32

    def total(params: Params, dtype: Any) -> jax.Array:
        return loss_sums(params, *batch(), config, dtype)[0]

    gradient = jax.jit(jax.grad(total), static_argnums=1)
    ours, theirs = gradient(params, dtype), gradient(params, jnp.float32)
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True):
        assert one.dtype == jnp.float32
        assert jnp.linalg.norm(one - other) < 4 * tolerance * jnp.linalg.norm(other), jax.tree_util.keystr(path)


@pytest.mark.parametrize("cap", [0.0, 2.0])
def test_logits_cover_the_true_vocabulary(cap: float) -> None:
    config = make(logit_softcap=cap, tie_embeddings=False)
    params = init_params(config, jax.random.key(0))
    hidden = hidden_states(params, config)
    logits = logits_from_hidden(params, hidden, config)
    assert logits.shape == (2, 8, VOCAB)
    plain = np.asarray(hidden) @ np.asarray(head_table(params))[:VOCAB].T
    np.testing.assert_allclose(logits, 2.0 * np.tanh(plain / 2.0) if cap else plain, atol=1e-5)
    laid_out = {**params, "head": {"kernel": head_table(params)[:VOCAB].T}}
    np.testing.assert_allclose(
        logits_from_hidden(laid_out, hidden, config, decoding_kernels(config)), logits, atol=1e-6
    )


def test_loss_is_that_of_the_logits() -> None:
    config = make()
    params = init_params(config, jax.random.key(0))
    _, targets = batch()
    logits = logits_from_hidden(params, hidden_states(params, config), config)
    picked = np.take_along_axis(np.asarray(jax.nn.log_softmax(logits)), np.maximum(targets, 0)[..., None], -1)[..., 0]
    wanted = -picked[np.asarray(targets) >= 0].sum()
    np.testing.assert_allclose(loss_and_gradients(params, config)[0], wanted, rtol=1e-5)


def test_gpt2_has_the_published_number_of_parameters() -> None:
    counts = count_parameters(ModelConfig.model_validate(GPT2))
    width = 768
    block = 4 * (width * width + width) + (width * 4 * width + 4 * width) + (4 * width * width + width) + 4 * width
    assert counts == {
        "token_embedding": 50257 * width,
        "position_embedding": 1024 * width,
        "condition_embeddings": 0,
        "layers": 12 * block,
        "final_norm": 2 * width,
        "head": 0,
        "total": 124_439_808,
    }


def test_llama_shape_has_the_parameters_counted_by_hand() -> None:
    counts = count_parameters(ModelConfig.model_validate(LLAMA))
    block = 64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 172 + 2 * 64
    assert counts == {
        "token_embedding": 512 * 64,
        "position_embedding": 0,
        "condition_embeddings": 0,
        "layers": 5 * block,
        "final_norm": 64,
        "head": 512 * 64,
        "total": 2 * 512 * 64 + 5 * block + 64,
    }


def test_flops_of_a_token() -> None:
    """6 a weight of each product, the head once, and half of full attention."""
    config = ModelConfig.model_validate(LLAMA)
    weights = 5 * (64 * 64 * 2 + 64 * 32 * 2 + 3 * 64 * 172) + 512 * 64
    found = flops_per_token(config)
    assert found == pytest.approx(6 * weights + 6 * 5 * 64 * 512, rel=0.01)
    assert flops_per_token(config, 1024) - found == 6 * 5 * 64 * 512


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_compute_type(name: str) -> None:
    assert compute_dtype(make(dtype=name)) == jnp.dtype(name)


@pytest.mark.parametrize(
    ("flags", "training", "drafting"),
    [
        ("avx2 avx512f", "float32", "float32"),
        ("avx512_bf16", "bfloat16", "float32"),
        ("avx512_bf16 amx_bf16 amx_tile", "bfloat16", "bfloat16"),
    ],
)
def test_cpus_train_in_bfloat16_where_that_was_measured_to_be_better(
    flags: str, training: str, drafting: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu sse2 {flags}\nbugs\t\t:\n", "ascii")
    monkeypatch.setenv("JSLM_CPUINFO", str(tmp_path / "cpuinfo"))
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
    _cpu_flags.cache_clear()
    try:
        assert compute_dtype(make()).name == training
        assert compute_dtype(make(), "writing").name == "float32"
        assert compute_dtype(make(), "drafting").name == drafting
        assert compute_dtype(make(dtype="float16")).name == "float16"
        monkeypatch.setattr(jax, "__version_info__", (0, 10, 2))
        assert compute_dtype(make()).name == "float32"
        monkeypatch.setattr(jax, "__version_info__", (0, 11, 2))
        monkeypatch.setenv("JSLM_CPUINFO", str(tmp_path / "none"))
        _cpu_flags.cache_clear()
        assert compute_dtype(make()).name == "float32", "nothing is known of the CPU"
    finally:
        _cpu_flags.cache_clear()
