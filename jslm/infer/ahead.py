"""The decode loop without arrays, for compiling it ahead of time."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

from jslm.config import MeshConfig, ModelConfig
from jslm.infer.programs import DISPATCH_TOKENS, cast_params, empty_state, write
from jslm.infer.samplers import Features
from jslm.model import decoding_params, param_shapes, unstack_layers
from jslm.parallel import make_mesh


def trace_decode(config: ModelConfig, dtype: jnp.dtype, device: jax.Device, batch: int) -> jax.stages.Traced:
    """The loop that `LanguageModel` runs to draw tokens for `batch` rows with a full context, traced for `device`.

    Temperature sampling without filters or penalties; allocates nothing, and the device need not be here.
    """
    place = SingleDeviceSharding(device)

    def placed(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree)

    features = Features(draws=True, sorts=False, penalises=False, tops=False, asks=False)
    with jax.set_mesh(make_mesh(MeshConfig(), [device])):
        weights = jax.eval_shape(
            lambda params: decoding_params(cast_params(unstack_layers(params), dtype), config, dtype),
            param_shapes(config),
        )
        state = jax.eval_shape(lambda: empty_state(slots=batch, config=config, dtype=dtype))
        # Nothing is penalised.
        state = state._replace(seen=None, counts=None)
        number = jax.ShapeDtypeStruct((), jnp.int32, sharding=place)
        alive = jax.ShapeDtypeStruct((batch,), bool, sharding=place)
        return write.trace(
            placed(weights),
            placed(state),
            alive,
            number,
            number,
            features=features,
            dispatch=DISPATCH_TOKENS,
            config=config,
            dtype=dtype,
        )
