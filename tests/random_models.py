"""Parameters of models that have learned nothing, none of them at its trivial start (zero biases, unit scales)."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from jslm.config import ModelConfig
from jslm.model import Params, param_shapes


def spread_params(model: ModelConfig, seed: int, deviation: float = 0.5) -> Params:
    """Around 1 for scales and 0 for all else; large enough that each step of writing has its own likeliest token."""
    noise = np.random.default_rng(seed)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        start = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return start + deviation * noise.standard_normal(leaf.shape, np.float32)

    params: Params = jax.tree_util.tree_map_with_path(fill, param_shapes(model))
    return params


def noise_params(model: ModelConfig, deviation: float = 1.0) -> Params:
    """Noise alone; the padding rows of tables are zeros, as a bundle promises."""
    noise = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        array = noise.standard_normal(leaf.shape, np.float32) * np.float32(deviation)
        if "tokens" in jax.tree_util.keystr(path):
            array[model.vocab_size :] = 0
        return array

    params: Params = jax.tree_util.tree_map_with_path(fill, param_shapes(model))
    return params


def lively_params(model: ModelConfig) -> Params:
    """Logits of some units, as a trained model's, and no flat attention."""
    noise = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name, array = jax.tree_util.keystr(path), noise.standard_normal(leaf.shape, np.float32)
        if "scale" in name:
            return 1 + 0.1 * array
        return array * (leaf.shape[-2] ** -0.5 if "kernel" in name else 0.3)

    params: Params = jax.tree_util.tree_map_with_path(fill, param_shapes(model))
    return params
