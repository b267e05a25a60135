"""Decoding with a cache against the full forward pass, for every architecture option."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import ModelConfig
from jslm.model import (
    Params,
    apply_cached,
    apply_decoder,
    decoding_kernels,
    init_cache,
    init_params,
    logits_from_hidden,
    unstack_layers,
)
from tests.random_models import spread_params

VOCAB, CONTEXT = 53, 16
# Rows of different lengths, padded on the right with ids that must not matter.
PROMPTS = np.array([[5, 9, 2, 7, 1, 11], [3, 8, 50, 49, 48, 47]], np.int32)
LENGTHS = np.array([6, 2], np.int32)
NEW_TOKENS = 8

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "layernorm": {"norm": "layernorm"},
    "layernorm without bias": {"norm": "layernorm", "norm_bias": False},
    "learned positions": {"position": "learned"},
    "no positions": {"position": "none"},
    "rope theta": {"rope_theta": 500.0},
    "rope linear": {"rope_scaling": {"kind": "linear", "factor": 2.0}},
    "rope ntk": {"rope_scaling": {"kind": "ntk", "factor": 2.0}},
    "rope yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "original_context_length": 8}},
    "rope llama3": {"rope_scaling": {"kind": "llama3", "factor": 2.0, "original_context_length": 8}},
    "geglu": {"activation": "geglu"},
    "gelu": {"activation": "gelu"},
    "gelu exact": {"activation": "gelu_exact"},
    "relu": {"activation": "relu"},
    "relu squared": {"activation": "relu2"},
    "grouped queries": {"n_kv_heads": 2},
    "one key head": {"n_kv_heads": 1},
    "head width": {"head_dim": 6},
    "biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "untied": {"tie_embeddings": False},
    "qk norm": {"qk_norm": True},
    "softcap": {"logit_softcap": 5.0},
    "no padding": {"vocab_size": 128},
    "dropout": {"dropout": 0.3},
    "several layers": {"n_layers": 3},
    "gpt2": {
        "n_layers": 2,
        "norm": "layernorm",
        "position": "learned",
        "activation": "gelu",
        "qkv_bias": True,
        "out_bias": True,
        "mlp_bias": True,
    },
}


def make(options: dict[str, Any]) -> tuple[ModelConfig, Params]:
    """A config, and parameters none of which is at its trivial start (zero biases, unit scales)."""
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 4, "d_ff": 24, "context_length": CONTEXT, "vocab_size": VOCAB}
    config = ModelConfig.model_validate(shape | options)
    return config, jax.tree.map(jnp.asarray, spread_params(config, seed=1, deviation=0.3))


@functools.partial(jax.jit, static_argnames="config")
def full_logits(params: Params, tokens: jax.Array, config: ModelConfig) -> jax.Array:
    return logits_from_hidden(params, apply_decoder(params, tokens, config), config)


@functools.partial(jax.jit, static_argnames="config")
def decode_greedily(params: Params, prompts: jax.Array, lengths: jax.Array, config: ModelConfig) -> tuple[Any, Any]:
    """(tokens, the logits each was chosen from) `[batch, NEW_TOKENS, ...]`, one token at a time from the cache."""
    batch, length = prompts.shape
    positions = jnp.broadcast_to(jnp.arange(length)[None], (batch, length))
    hidden, cache = apply_cached(params, prompts, positions, init_cache(config, batch, CONTEXT), config)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)

    def step(carry: Any, _: None) -> Any:
        logits, position, cache = carry
        token = jnp.argmax(logits, axis=-1)
        hidden, cache = apply_cached(params, token[:, None], position[:, None], cache, config)
        return (logits_from_hidden(params, hidden, config)[:, 0], position + 1, cache), (token, logits)

    start = (logits_from_hidden(params, last, config)[:, 0], lengths, cache)
    _, (tokens, logits) = jax.lax.scan(step, start, None, length=NEW_TOKENS)
    return jnp.swapaxes(tokens, 0, 1), jnp.swapaxes(logits, 0, 1)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def cached(
    params: Params, tokens: jax.Array, positions: jax.Array, cache: Any, config: ModelConfig, dtype: Any = jnp.float32
) -> tuple[jax.Array, Any]:
    return apply_cached(params, tokens, positions, cache, config, dtype)


@pytest.mark.parametrize("name", OPTIONS)
def test_cached_decode_equals_full_forward(name: str) -> None:
    config, params = make(OPTIONS[name])
    tokens, logits = (np.asarray(x) for x in decode_greedily(params, PROMPTS, LENGTHS, config))
    assert logits.shape == (2, NEW_TOKENS, config.vocab_size)
    sequences = np.zeros((2, CONTEXT), np.int32)
    for row, length in enumerate(LENGTHS):
        sequences[row, : length + NEW_TOKENS] = np.concatenate([PROMPTS[row, :length], tokens[row]])
    full = np.asarray(full_logits(params, sequences, config))
    for row, length in enumerate(LENGTHS):
        expected = full[row, length - 1 : length - 1 + NEW_TOKENS]
        np.testing.assert_allclose(logits[row], expected, atol=1e-4, rtol=1e-4)
        # By causality these are the tokens of a loop that runs the whole forward pass for each.
        np.testing.assert_array_equal(tokens[row], expected.argmax(-1))
    assert full.std() > 0.1, "logits that hardly vary would agree by chance"


def test_positions_matter_to_the_cache() -> None:
    """The comparison above sees a cache written at the wrong place."""
    config, params = make({})
    positions = np.arange(6, dtype=np.int32)[None]
    tokens = PROMPTS[:1]
    right, _ = cached(params, tokens, positions, init_cache(config, 1, CONTEXT), config)
    _, cache = cached(params, tokens[:, :5], positions[:, :5], init_cache(config, 1, CONTEXT), config)
    there, _ = cached(params, tokens[:, 5:], positions[:, 5:], cache, config)
    np.testing.assert_allclose(there[0, 0], right[0, 5], atol=1e-4)
    for wrong in (4, 6):
        elsewhere, _ = cached(params, tokens[:, 5:], np.array([[wrong]], np.int32), cache, config)
        assert np.abs(np.asarray(elsewhere[0, 0] - right[0, 5])).max() > 1e-2


@pytest.mark.parametrize("slots", [8, 16])
def test_unstacked_layers_and_any_number_of_slots_decode_alike(slots: int) -> None:
    config, params = make({"n_layers": 2})
    positions = np.arange(6, dtype=np.int32)[None]
    stacked, _ = cached(params, PROMPTS[:1], positions, init_cache(config, 1, 16), config)
    unstacked, cache = cached(unstack_layers(params), PROMPTS[:1], positions, init_cache(config, 1, slots), config)
    np.testing.assert_allclose(unstacked, stacked, atol=1e-5)
    assert [layer["k"].shape for layer in cache] == [(1, 4, slots, 4)] * 2


@pytest.mark.parametrize("batch", [1, 2])
def test_bfloat16_cache_stays_near(batch: int) -> None:
    """CPUs keep it in float32, for any number of rows."""
    config, params = make({})
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (batch, 6))
    cache = init_cache(config, batch, CONTEXT, jnp.dtype(jnp.bfloat16))
    hidden, cache = cached(params, PROMPTS[:batch], positions, cache, config, jnp.dtype(jnp.bfloat16))
    expected = jax.jit(
        lambda params: apply_decoder(params, jnp.asarray(PROMPTS[:batch]), config, jnp.dtype(jnp.bfloat16))
    )(params)
    assert hidden.dtype == jnp.bfloat16
    assert cache[0]["v"].dtype == (jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    np.testing.assert_allclose(hidden.astype(np.float32), expected.astype(np.float32), atol=0.15)


@pytest.mark.parametrize("keys", [{}, {"n_kv_heads": 2, "qkv_bias": True, "tie_embeddings": False}])
@pytest.mark.parametrize("batch", [1, 3])
def test_decoding_by_rows_is_decoding(keys: dict[str, Any], batch: int) -> None:
    """In bfloat16 with the weights on the left, as CPUs decode, one token at a time and a prompt at once."""
    config = ModelConfig.model_validate({"n_layers": 2, "d_model": 32, "n_heads": 4, "vocab_size": 50} | keys)
    params = unstack_layers(init_params(config, jax.random.key(0)))
    narrow = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    tokens = jax.random.randint(jax.random.key(1), (batch, 80), 0, 50)
    positions = jnp.broadcast_to(jnp.arange(80, dtype=jnp.int32), (batch, 80))

    def logits(platform: str, dtype: Any, params: Any, length: int) -> Any:
        kernels = decoding_kernels(config, dtype, platform=platform)
        weights = kernels.decoding_params(params, config.vocab_size)
        cache, found = init_cache(config, batch, 80, dtype), []
        step = jax.jit(functools.partial(apply_cached, weights, config=config, dtype=dtype, kernels=kernels))
        for at in range(0, 80, length):
            hidden, cache = step(
                tokens=tokens[:, at : at + length], positions=positions[:, at : at + length], cache=cache
            )
            found.append(logits_from_hidden(weights, hidden, config, kernels))
        return jnp.concatenate(found, axis=1)

    exact = logits("gpu", jnp.float32, params, 80)
    for length in (1, 80):
        found = logits("cpu", jnp.bfloat16, narrow, length)
        assert found.dtype == jnp.float32
        assert float(jnp.linalg.norm(found - exact) / jnp.linalg.norm(exact)) < 0.02
