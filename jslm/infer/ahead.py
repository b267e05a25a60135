"""The decode loop without arrays, for compiling it ahead of time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jslm.config import MeshConfig, ModelConfig
from jslm.infer.decode import DecodeState, decode
from jslm.infer.language_model import _cast
from jslm.infer.samplers import Plan, Sampling
from jslm.model import decoding_params, init_cache, param_shapes, unstack_layers
from jslm.parallel import make_mesh


def trace_decode(config: ModelConfig, dtype: jnp.dtype, device: jax.Device, batch: int) -> jax.stages.Traced:
    """The loop that `LanguageModel` runs to draw tokens for `batch` rows with a full context, traced for `device`.

    Temperature sampling without filters or penalties; allocates nothing, and the device need not be here.
    """
    place = SingleDeviceSharding(device)

    def shape(dims: tuple[int, ...], kind: Any) -> Any:
        return jax.ShapeDtypeStruct(dims, kind, sharding=place)

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: shape(leaf.shape, leaf.dtype), tree)

    with jax.set_mesh(make_mesh(MeshConfig(), [device])):
        weights = jax.eval_shape(
            lambda params: decoding_params(_cast(unstack_layers(params), dtype), config, dtype),
            param_shapes(config),
        )
        cache = jax.eval_shape(lambda: init_cache(config, batch, config.context_length, dtype))
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
        state = DecodeState(
            placed(cache), shape((batch, config.vocab_size), jnp.float32), shape((batch,), jnp.int32), None
        )
        sampling = Sampling(
            temperature=shape((batch,), jnp.float32),
            top_k=shape((batch,), jnp.int32),
            top_p=shape((batch,), jnp.float32),
            min_p=shape((batch,), jnp.float32),
            repetition_penalty=shape((batch,), jnp.float32),
        )
        scalar = shape((), jnp.int32)
        return decode.trace(
            placed(weights),
            state,
            shape((batch,), jnp.int32),
            scalar,
            scalar,
            placed(keys),
            scalar,
            sampling,
            plan=Plan(draws=True, sorts=False, penalises=False),
            config=config,
            dtype=dtype,
        )
