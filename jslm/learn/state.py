"""Everything that a training run carries from step to step, and where it lives on the mesh."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jslm.config import Config
from jslm.model import Params, init_adapters, init_params, merge_adapters, param_axes
from jslm.model.keys import make_key
from jslm.parallel import replicated, tree_shardings

# "params" (with train.lora the adapters, and the frozen weights as "base"), "opt_state", "step" (optimizer steps
# tried), "bad_steps" (of them skipped), "bad_in_a_row"; "ema" where train.ema_decay is on; "loss_scale" and
# "good_steps" where compute is float16; "schedule" (see `timed_factor`) where train.minutes is set.
TrainState = dict[str, Any]

INITIAL_LOSS_SCALE = 2.0**15
_merge = jax.jit(merge_adapters, static_argnums=2)


def init_state(
    config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, dtype: jnp.dtype, params: Params | None = None
) -> TrainState:
    """A fresh state, created sharded; from the given parameters where there are some (with `train.lora` always)."""
    shardings = state_shardings(config, optimizer, mesh, dtype)
    if params is not None:
        placed = place_params(config, params, optimizer, mesh, dtype)
        return jax.jit(lambda params: _new_state(config, optimizer, dtype, params), out_shardings=shardings)(placed)
    return jax.jit(lambda: _fresh(config, optimizer, dtype), out_shardings=shardings)()


def place_params(
    config: Config, params: Params, optimizer: optax.GradientTransformation, mesh: Mesh, dtype: jnp.dtype
) -> Params:
    """The model's whole parameters on the mesh, split as those of the state are."""
    shardings = state_shardings(config, optimizer, mesh, dtype)

    def place(leaf: Any, sharding: jax.sharding.Sharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        # From the host: a process can't hand its devices' arrays to those of another.
        return jax.device_put(np.asarray(leaf), sharding)

    placed: Params = jax.tree.map(place, params, shardings["base" if "base" in shardings else "params"])
    return placed


def model_params(config: Config, state: TrainState) -> Params:
    """The parameters that the model computes with: the averaged ones where there are some, adapters merged."""
    params: Params = state["ema" if "ema" in state else "params"]
    if "base" not in state:
        return params
    return _merge(state["base"], params, config.train.lora)


def abstract_state(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, dtype: jnp.dtype) -> TrainState:
    """The state as `jax.ShapeDtypeStruct`s with shardings; allocates nothing."""
    shapes = jax.eval_shape(lambda: _fresh(config, optimizer, dtype))
    shardings = state_shardings(config, optimizer, mesh, dtype)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), shapes, shardings
    )


def state_shardings(config: Config, optimizer: optax.GradientTransformation, mesh: Mesh, dtype: jnp.dtype) -> Any:
    """A tree of NamedSharding of the state's structure: moments and averages are split as their parameters are."""
    shapes = jax.eval_shape(lambda: _fresh(config, optimizer, dtype))
    param_shardings = tree_shardings(mesh, param_axes(config.model))
    by_path = {jax.tree_util.keystr(path): s for path, s in jax.tree_util.tree_flatten_with_path(param_shardings)[0]}
    whole = shapes["base" if "base" in shapes else "params"]
    param_shapes = {
        jax.tree_util.keystr(path): leaf.shape for path, leaf in jax.tree_util.tree_flatten_with_path(whole)[0]
    }

    def of_leaf(path: Any, leaf: jax.ShapeDtypeStruct) -> Any:
        # Optimizer states wrap parameter trees: the end of a leaf's path names its parameter.
        for start in range(len(path)):
            name = jax.tree_util.keystr(path[start:])
            if name in by_path and param_shapes[name] == leaf.shape:
                return by_path[name]
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(of_leaf, shapes)


def _fresh(config: Config, optimizer: optax.GradientTransformation, dtype: jnp.dtype) -> TrainState:
    return _new_state(config, optimizer, dtype, init_params(config.model, make_key(config.seed)))


def _new_state(config: Config, optimizer: optax.GradientTransformation, dtype: jnp.dtype, params: Params) -> TrainState:
    base = None
    if config.train.lora.rank:
        base, params = params, init_adapters(params, config.train.lora, make_key(config.seed))
    state: TrainState = {
        "params": params,
        "opt_state": optimizer.init(params),
        "step": jnp.zeros((), jnp.int32),
        "bad_steps": jnp.zeros((), jnp.int32),
        "bad_in_a_row": jnp.zeros((), jnp.int32),
    }
    if base is not None:
        state["base"] = base
    if config.train.ema_decay:
        state["ema"] = jax.tree.map(jnp.copy, params)
    if config.train.minutes:
        state["schedule"] = jnp.array([jnp.inf, jnp.inf, 1.0], jnp.float32)
    if dtype == jnp.float16:
        state["loss_scale"] = jnp.full((), INITIAL_LOSS_SCALE, jnp.float32)
        state["good_steps"] = jnp.zeros((), jnp.int32)
    return state
