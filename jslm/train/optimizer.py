"""Schedules and the optax chain: clip -> AdamW, or Muon with AdamW beside it."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jslm.config import OptimizerConfig


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate as a factor of its peak (0 to 1) by count of updates: linear warm-up, then the chosen shape.

    The warm-up's first update already moves: factor 1 / (warmup + 1). "wsd": Hu et al. 2024, "MiniCPM".
    """
    warmup = min(config.warmup_steps, steps)
    floor, rest = config.min_learning_rate_ratio, max(steps - warmup, 1)
    match config.schedule:
        case "cosine":
            after = optax.cosine_decay_schedule(1.0, rest, alpha=floor)
        case "linear":
            after = optax.linear_schedule(1.0, floor, rest)
        case "constant":
            after = optax.constant_schedule(1.0)
        case "wsd":
            decay = max(1, min(rest, round(config.decay_fraction * steps)))
            after = optax.linear_schedule(1.0, floor, decay, transition_begin=rest - decay)
    if not warmup:
        return after
    return optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), after], [warmup])


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The whole chain, for parameter trees of `jslm.model` (layers stacked on axis 0).

    AdamW: Loshchilov & Hutter 2019; decay on matrices and embeddings only. Muon: Jordan 2024, with the update scaled to
    AdamW's RMS of 0.2 (Liu et al. 2025, "Muon is Scalable", section 2.2), so that one learning rate serves both.
    """
    schedule = make_schedule(config, steps)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()

    def rate(peak: float) -> optax.Schedule:
        return lambda count: peak * schedule(count)

    adamw = optax.adamw(
        rate(config.learning_rate),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=config.weight_decay,
        mask=is_matrix,
    )
    if config.name == "adamw":
        return optax.chain(clip, adamw)
    muon = optax.chain(
        optax.contrib.scale_by_muon(weight_dimension_numbers=_muon_dimensions),
        optax.stateless(_scale_to_adamw_rms),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate(config.muon_learning_rate or config.learning_rate)),
    )
    return optax.chain(clip, optax.partition({"muon": muon, "adamw": adamw}, muon_labels))


def is_matrix(params: Any) -> Any:
    """True for each kernel and embedding table, False for biases and norm scales."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: _leaf_name(path) in ("kernel", "tokens", "positions"), params
    )


def muon_labels(params: Any) -> Any:
    """ "muon" for the blocks' kernels; "adamw" for embeddings, head, norms and biases."""

    def label(path: Any, _: Any) -> str:
        return "muon" if path[0].key == "layers" and _leaf_name(path) == "kernel" else "adamw"

    return jax.tree_util.tree_map_with_path(label, params)


def _muon_dimensions(params: Any) -> Any:
    # Kernels are [layers, in, out]: axis 0 is a batch of matrices, each orthogonalised by itself.
    dimensions = optax.contrib.MuonDimensionNumbers(reduction_axis=1, output_axis=2)
    return jax.tree.map(lambda leaf: dimensions if jnp.ndim(leaf) == 3 else None, params)


def _scale_to_adamw_rms(updates: Any, _: Any) -> Any:
    # An orthogonal [in, out] update has RMS 1 / sqrt(max(in, out)).
    return jax.tree.map(lambda leaf: leaf * (0.2 * max(leaf.shape[-2:]) ** 0.5), updates)


def _leaf_name(path: Any) -> str:
    return str(path[-1].key)
