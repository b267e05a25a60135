"""Splash attention, interpreted on a CPU, against XLA's attention."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.model.kernels import choice, tpu
from jslm.model.kernels.plain import attention as causal_attention
from jslm.model.kernels.splash import splash_attention, splash_block_length

ROOT = Path(__file__).resolve().parents[2]
BATCH, HEADS, DIM = 2, 4, 16


def make(kv_heads: int, length: int, head_dim: int = DIM) -> tuple[jax.Array, ...]:
    noise = np.random.default_rng(kv_heads)
    shapes = [(BATCH, length, heads, head_dim) for heads in (HEADS, kv_heads, kv_heads, HEADS)]
    return tuple(jnp.asarray(noise.standard_normal(shape, np.float32)) for shape in shapes)


def documents(length: int) -> jax.Array:
    """Row 0 has three documents, cut inside blocks and across them; row 1 has one."""
    row = np.searchsorted([40, length // 2 + 20], np.arange(length), side="right")
    return jnp.asarray(np.stack([row, np.zeros(length)]).astype(np.int32))


# Two blocks of keys are skipped for 1,280 positions (blocks of 256), and one head of keys serves several of queries.
@pytest.mark.parametrize(
    ("kv_heads", "length", "packed"), [(4, 128, False), (2, 256, True), (1, 384, False), (2, 1280, True)]
)
def test_values_and_gradients_are_those_of_xla(kv_heads: int, length: int, packed: bool) -> None:
    q, k, v, weights = make(kv_heads, length)
    segments = documents(length) if packed else None

    def both(function: Any) -> Any:
        def objective(q: Any, k: Any, v: Any) -> Any:
            out = function(q, k, v, segments)
            return jnp.sum(weights * out), out

        return jax.jit(jax.grad(objective, (0, 1, 2), has_aux=True))(q, k, v)

    found, wanted = both(lambda *arrays: splash_attention(*arrays, interpret=True)), both(causal_attention)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-5)


def test_heads_whose_width_has_an_inexact_root_are_scaled_in_float32() -> None:
    q, k, v, _ = (x.astype(jnp.bfloat16) for x in make(4, 128, 96))
    found = splash_attention(q, k, v, interpret=True)
    assert found.dtype == jnp.bfloat16
    q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    wanted = causal_attention(q, k, v)
    np.testing.assert_allclose(found.astype(jnp.float32), wanted, atol=0.03)


@pytest.mark.parametrize(("length", "block"), [(128, 128), (384, 384), (640, 128), (1024, 512), (1280, 256)])
def test_blocks_divide_the_length(length: int, block: int) -> None:
    assert splash_block_length(length) == block


def test_other_lengths_have_xla_and_the_log_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    choice.chosen.cache_clear()
    q, k, v, _ = make(2, 200)
    with caplog.at_level(logging.INFO, "jslm"):
        for _ in range(2):
            found = tpu.attention(q, k, v, documents(200))
    np.testing.assert_array_equal(found, causal_attention(q, k, v, documents(200)))
    said = "attention: xla (splash attention needs a length of a multiple of 128, not 200)"
    assert [record.getMessage() for record in caplog.records] == [said]


SPREAD = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding
from jslm.config import MeshConfig
from jslm.model.kernels.plain import attention as causal_attention
from jslm.model.kernels.splash import splash_attention
from jslm.parallel import make_mesh, partition_spec

noise = np.random.default_rng(0)
q, k, v = (noise.standard_normal((4, 128, heads, 8), np.float32) for heads in (4, 2, 2))
segments = (np.arange(128) // 50 * np.ones((4, 1))).astype(np.int32)
grads = lambda f: jax.jit(jax.grad(lambda q, k, v, s: jnp.sum(jnp.sin(f(q, k, v, s))), (0, 1, 2)))
wanted = grads(causal_attention)(q, k, v, segments)
with jax.set_mesh(make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))) as _:
    mesh = jax.sharding.get_mesh()
    put = lambda x, axes: jax.device_put(x, NamedSharding(mesh, partition_spec(axes)))
    heads = ("batch", "length", "heads", "head_dim")
    placed = [put(x, heads) for x in (q, k, v)] + [put(segments, heads[:2])]
    found = grads(lambda *a: splash_attention(*a, interpret=True))(*placed)
    assert len({shard.device for shard in found[0].addressable_shards}) == 8
    assert found[0].addressable_shards[0].data.shape == (1, 128, 2, 8)
for one, other in zip(found, wanted, strict=True):
    np.testing.assert_allclose(one, other, atol=2e-5)
"""


@pytest.mark.multidevice
def test_each_device_has_its_rows_and_heads() -> None:
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", SPREAD], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
