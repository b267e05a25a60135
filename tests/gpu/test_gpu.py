"""What only a GPU can show: cuDNN's attention, a bfloat16 training step, decoding, memory. Skipped without one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import Config, config_from_dict
from jslm.learn import make_optimizer, make_train_step
from jslm.learn.state import init_state, state_shardings
from jslm.model import apply_cached, apply_decoder, choose_attention, compute_dtype, init_cache, init_params
from jslm.model.kernels import choose_kernels
from jslm.model.kernels.gpu_attention import flash_attention
from jslm.model.kernels.hashed_masks import kept_weights
from jslm.parallel import batch_sharding, make_mesh
from jslm.plan import compile_step, device_memory, largest_micro_batch, with_settings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU that JAX can use"),
]
HALF = [
    jnp.float16,
    pytest.param(
        jnp.bfloat16,
        marks=pytest.mark.skipif(
            jax.default_backend() == "gpu" and compute_dtype(Config().model) != jnp.bfloat16,
            reason="this GPU has no bfloat16",
        ),
    ),
]


def small(**train: Any) -> Config:
    model = {"n_layers": 2, "d_model": 256, "n_heads": 4, "n_kv_heads": 2, "context_length": 256, "vocab_size": 512}
    return config_from_dict({"model": model, "train": {"steps": 10, "batch_size": 8} | train}, "test")


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("kv_heads", "packed"), [(4, False), (2, False), (1, True)])
def test_cudnn_attention_equals_xla(dtype: Any, kv_heads: int, packed: bool) -> None:
    noise = np.random.default_rng(0)
    shapes = [(2, 256, heads, 64) for heads in (4, kv_heads, kv_heads, 4)]
    q, k, v, weights = (jnp.asarray(noise.standard_normal(shape, np.float32)) for shape in shapes)
    rows = np.searchsorted([40, 150], np.arange(256), side="right").astype(np.int32)
    segments = jnp.asarray(np.stack([rows, np.zeros_like(rows)])) if packed else None

    def both(implementation: Any, *arrays: jax.Array) -> Any:
        def objective(q: Any, k: Any, v: Any) -> Any:
            kernels = choose_kernels(small().model, q.dtype, implementation=implementation)
            out = kernels.attention(q, k, v, segments, 0.0, None).astype(jnp.float32)
            return jnp.sum(weights * out), out

        return jax.jit(jax.grad(objective, (0, 1, 2), has_aux=True))(*arrays)

    narrow = [x.astype(dtype) for x in (q, k, v)]
    found = both("cudnn", *narrow)
    # The same rounded inputs, all products in float32.
    with jax.default_matmul_precision("highest"):
        wanted = both("xla", *(x.astype(jnp.float32) for x in narrow))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=0.02 * float(jnp.abs(other).max()))


def test_flash_attention_is_chosen() -> None:
    assert choose_attention(small().model, compute_dtype(small().model)) == "cudnn"


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("kv_heads", "packed", "dropout"), [(4, False, 0.3), (2, True, 0.0), (1, True, 0.3)])
def test_own_attention_equals_plain_with_the_same_mask(dtype: Any, kv_heads: int, packed: bool, dropout: float) -> None:
    """The kernel as it is compiled; tests/model/test_kernels.py has it interpreted."""
    noise, key = np.random.default_rng(0), jax.random.key(7)
    shapes = [(2, 256, heads, 64) for heads in (4, kv_heads, kv_heads, 4)]
    q, k, v, weights = (jnp.asarray(noise.standard_normal(shape, np.float32)) for shape in shapes)
    row = np.searchsorted([40, 150], np.arange(256), side="right")
    segments = jnp.asarray(np.stack([row, np.zeros_like(row)]).astype(np.int32)) if packed else None
    kept = kept_weights(key, 2, 4, 256, dropout)

    def plain(q: Any, k: Any, v: Any) -> Any:
        keys, values = (jnp.repeat(x, 4 // kv_heads, axis=2) for x in (k, v))
        seen = jnp.tril(jnp.ones((256, 256), bool))[None]
        if segments is not None:
            seen = seen & (segments[:, :, None] == segments[:, None, :])
        scores = jnp.where(seen[:, None], jnp.einsum("bthd,bshd->bhts", q, keys) / 8, -1e30)
        shares = jnp.where(kept, jax.nn.softmax(scores, axis=-1) / (1 - dropout), 0.0)
        return jnp.einsum("bhts,bshd->bthd", shares, values)

    def both(attend: Any, *arrays: jax.Array) -> Any:
        def objective(q: Any, k: Any, v: Any) -> Any:
            out = attend(q, k, v).astype(jnp.float32)
            return jnp.sum(weights * out), out

        return jax.jit(jax.grad(objective, (0, 1, 2), has_aux=True))(*arrays)

    narrow = [x.astype(dtype) for x in (q, k, v)]
    found = both(lambda q, k, v: flash_attention(q, k, v, segments, dropout, key), *narrow)
    with jax.default_matmul_precision("highest"):
        wanted = both(plain, *(x.astype(jnp.float32) for x in narrow))
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=0.02 * float(jnp.abs(other).max()))


def test_steps_from_a_saved_state_are_the_same_bits() -> None:
    """With dropout, and with words that come often: what a killed run goes on with is what it would have been."""
    config = with_settings(small(), model={"dropout": 0.1, "attention_dropout": 0.1})
    mesh, dtype = make_mesh(config.mesh, jax.devices()[:1]), compute_dtype(config.model)
    optimizer = make_optimizer(config.optimizer, config.train.steps)
    rows = np.random.default_rng(1).integers(0, 40, (1, 8, 257)).astype(np.int32)
    batch = {
        key: jax.device_put(np.ascontiguousarray(x), batch_sharding(mesh, accumulation=True))
        for key, x in (("inputs", rows[..., :-1]), ("targets", rows[..., 1:]))
    }
    with jax.set_mesh(mesh):
        step = make_train_step(config, optimizer, config.train.steps, mesh, dtype)
        saved = jax.device_get(step(init_state(config, optimizer, mesh, dtype), batch)[0])
        places = state_shardings(config, optimizer, mesh, dtype)

        def go_on() -> Any:
            state = jax.device_put(saved, places)
            for _ in range(3):
                state, _ = step(state, batch)
            return jax.device_get(state)

        first, second = go_on(), go_on()
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(first), jax.tree.leaves(second), strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)


def test_training_in_half_precision_lowers_the_loss_as_float32_does() -> None:
    losses: dict[str, list[float]] = {}
    for name in ("auto", "float32"):
        config = with_settings(small(), model={"dtype": name}, optimizer={"learning_rate": 1e-3, "warmup_steps": 0})
        mesh, dtype = make_mesh(config.mesh), compute_dtype(config.model)
        optimizer = make_optimizer(config.optimizer, config.train.steps)
        rows = np.random.default_rng(1).integers(0, 500, (1, 8, 257)).astype(np.int32)
        batch = {
            key: jax.device_put(np.ascontiguousarray(x), batch_sharding(mesh, accumulation=True))
            for key, x in (("inputs", rows[..., :-1]), ("targets", rows[..., 1:]))
        }
        with jax.set_mesh(mesh):
            state = init_state(config, optimizer, mesh, dtype)
            step = make_train_step(config, optimizer, config.train.steps, mesh, dtype)
            losses[name] = []
            for _ in range(config.train.steps):
                state, metrics = step(state, batch)
                losses[name].append(float(metrics["loss"]))
    assert losses["auto"][-1] < losses["auto"][0] - 0.5
    np.testing.assert_allclose(losses["auto"], losses["float32"], rtol=0.02)


def test_decoding_continues_as_the_whole_forward_pass_does() -> None:
    config = small().model
    params = jax.jit(lambda: init_params(config, jax.random.key(0)))()
    tokens = jax.random.randint(jax.random.key(1), (3, 24), 0, 500)
    with jax.default_matmul_precision("highest"):
        whole = jax.jit(
            lambda t: apply_decoder(params, t, config, kernels=choose_kernels(config, implementation="xla"))
        )(tokens)
        cache, found = init_cache(config, 3, 32), []
        step = jax.jit(lambda t, p, c: apply_cached(params, t, p, c, config))
        for at in range(24):
            hidden, cache = step(tokens[:, at : at + 1], jnp.full((3, 1), at, jnp.int32), cache)
            found.append(hidden)
    np.testing.assert_allclose(jnp.concatenate(found, axis=1), whole, atol=1e-3)


def test_largest_micro_batch_fits_and_the_next_does_not() -> None:
    config = small(batch_size=64, micro_batch="auto")
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    dtype = compute_dtype(config.model)
    needed = compile_step(with_settings(config, train={"micro_batch": 16}), mesh, dtype).memory.total
    assert needed < device_memory(jax.devices()[0])
    chosen, program = largest_micro_batch(config, mesh, dtype, needed)
    assert chosen.train.micro_rows >= 16
    assert program.memory.total <= needed
    larger = with_settings(config, train={"micro_batch": 2 * chosen.train.micro_rows})
    assert compile_step(larger, mesh, dtype).memory.total > needed
