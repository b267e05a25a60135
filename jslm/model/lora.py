"""Low-rank adapters: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models".

A kernel W `[in, out]` is used as W + alpha / rank * A B, with A `[in, rank]` and B `[rank, out]` learned and W frozen.
The sum is formed once a step rather than in each product: for small models it costs less than two more products a
layer, and merged and unmerged weights are the same numbers.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jslm.config import LoraConfig
from jslm.model.decoder import Params


def init_adapters(params: Params, config: LoraConfig, key: jax.Array) -> Params:
    """Fresh adapters for `params` (layers stacked on axis 0): at each target `a` `[layers, in, rank]`, normal with
    variance 1 / in, and `b` `[layers, rank, out]`, zero, so that nothing changes at first.

    Condition embeddings are small and new: they are learned whole, as a difference from those of `params`.
    """
    adapters: Params = {"layers": {}}
    for index, (part, name) in enumerate(_targets(params, config)):
        layers, d_in, d_out = params["layers"][part][name]["kernel"].shape
        a = jax.random.normal(jax.random.fold_in(key, index), (layers, d_in, config.rank), jnp.float32) * d_in**-0.5
        b = jnp.zeros((layers, config.rank, d_out), jnp.float32)
        adapters["layers"].setdefault(part, {})[name] = {"a": a, "b": b}
    if "conditions" in params["embed"]:
        adapters["embed"] = {"conditions": jax.tree.map(jnp.zeros_like, params["embed"]["conditions"])}
    return adapters


def merge_adapters(params: Params, adapters: Params, config: LoraConfig) -> Params:
    """The parameters that `params` with `adapters` compute with; `params` itself is left as it is."""
    merged = {**params, "layers": dict(params["layers"])}
    for part, linears in adapters["layers"].items():
        merged["layers"][part] = dict(params["layers"][part])
        for name, factors in linears.items():
            linear = params["layers"][part][name]
            change = jnp.einsum("lir,lro->lio", factors["a"], factors["b"], precision=jax.lax.Precision.HIGHEST)
            merged["layers"][part][name] = {**linear, "kernel": linear["kernel"] + config.alpha / config.rank * change}
    if "embed" in adapters:
        tables = jax.tree.map(jnp.add, params["embed"]["conditions"], adapters["embed"]["conditions"])
        merged["embed"] = {**params["embed"], "conditions": tables}
    return merged


def _targets(params: Params, config: LoraConfig) -> list[tuple[str, str]]:
    """(part, name) of each kernel that is adapted; a model without a gate has none there."""
    known: dict[str, Any] = {part: params["layers"][part] for part in ("attention", "mlp")}
    return [
        (part, name)
        for part, linears in known.items()
        for name in linears
        if name in config.targets and "kernel" in linears[name]
    ]
