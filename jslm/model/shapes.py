"""What a shape costs: parameters by part, floating-point operations, compute type."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jslm.config import ModelConfig
from jslm.model.decoder import param_shapes
from jslm.model.kernels.types import Task, auto_type

_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16, "float16": jnp.float16}


def count_parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by part over the true vocabulary (padding rows are not counted); `total` is their sum."""
    shapes = param_shapes(config)
    padding = config.padded_vocab_size - config.vocab_size
    parts = {part: sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree)) for part, tree in shapes.items()}
    counts = {
        "token_embedding": config.vocab_size * config.d_model,
        "position_embedding": config.context_length * config.d_model if config.position == "learned" else 0,
        "condition_embeddings": config.d_model * sum(len(condition.labels) for condition in config.conditions),
        "layers": parts["layers"],
        "final_norm": parts["final_norm"],
        "head": parts["head"] - padding * config.d_model if "head" in parts else 0,
    }
    return {**counts, "total": sum(counts.values())}


def flops_per_token(config: ModelConfig, length: int | None = None) -> float:
    """Floating-point operations of forward and backward for one token of a sequence of `length` (default: the context).

    6 for each weight of a matrix product (Kaplan et al. 2020), the tied or untied head included and the embedding
    look-up not, plus causal attention: 6 * layers * heads * head_dim * length, half of PaLM's count (Chowdhery et al.
    2022, appendix B), which has no causal mask. Recomputation by `remat` does not count: this is for MFU.
    """
    length = length or config.context_length
    counts = count_parameters(config)
    matrices = counts["layers"] + config.vocab_size * config.d_model
    attention = 6 * config.n_layers * config.n_heads * config.dim_per_head * length
    return 6.0 * matrices + attention


def compute_dtype(config: ModelConfig, task: Task = "training", *, platform: str = "", kind: str = "") -> jnp.dtype:
    """The type that `model.dtype` means for that task on a platform and kind of device, by default this process's.

    `auto` is what `jslm.model.kernels.types` has measured there.
    """
    if config.dtype != "auto":
        return jnp.dtype(_DTYPES[config.dtype])
    if not platform:
        platform, kind = jax.default_backend(), jax.devices()[0].device_kind
    return jnp.dtype(_DTYPES[auto_type(task, platform, kind)])
