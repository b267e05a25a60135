"""Rotary positions and the ways to stretch them."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.model.kernels import Kernels
from jslm.model.kernels.plain import PLAIN


def rotary_tables(
    config: ModelConfig, positions: Int[Array, "batch length"]
) -> tuple[Float[Array, "batch length half"], Float[Array, "batch length half"]]:
    """float32 cosines and sines of `positions * frequency` for each of the head_dim/2 rotated pairs."""
    # float32 whatever the compute dtype: bfloat16 can't tell position 257 from 258.
    frequencies, amplitude = rotary_frequencies(config)
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies)[None, None, :]
    return jnp.cos(angles) * amplitude, jnp.sin(angles) * amplitude


def apply_rotary(
    x: Float[Array, "batch length heads head_dim"],
    tables: tuple[Float[Array, "#batch length half"], Float[Array, "#batch length half"]],
    kernels: Kernels = PLAIN,
) -> Float[Array, "batch length heads head_dim"]:
    """Rotates each pair (x[i], x[i + head_dim/2]) by its angle.

    Half-split pairs, as in Hugging Face Llama weights; llama2.c and lilLM interleave theirs.
    Su et al. 2021, "RoFormer", section 3.4.2.
    """
    cos, sin = (table[:, :, None, :] for table in tables)
    return kernels.rotate(x, cos, sin)


def rotary_frequencies(config: ModelConfig) -> tuple[np.ndarray, float]:
    """The head_dim/2 angular frequencies in radians a position (float32), and the factor on the tables.

    `linear`: Chen et al. 2023, "Extending Context Window of Large Language Models via Positional Interpolation".
    `ntk`: base * factor**(d / (d - 2)), bloc97 2023. `yarn`: Peng et al. 2023, section 3. `llama3`: Llama 3.1's bands.
    """
    dim, theta, scaling = config.dim_per_head, config.rope_theta, config.rope_scaling
    exponents = np.arange(0, dim, 2, dtype=np.float64) / dim
    plain = theta**-exponents
    factor = scaling.factor
    original = float(scaling.original_context_length or config.context_length / factor)
    amplitude = 1.0
    match scaling.kind:
        case "none":
            frequencies = plain
        case "linear":
            frequencies = plain / factor
        case "ntk":
            frequencies = (theta * factor ** (dim / max(dim - 2, 1))) ** -exponents
        case "yarn":
            frequencies = _yarn(plain, config, original)
            amplitude = scaling.attention_factor or 0.1 * math.log(factor) + 1.0
        case "llama3":
            turns = original * plain / (2 * math.pi)
            low, high = scaling.low_freq_factor, scaling.high_freq_factor
            kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
            frequencies = plain * (kept + (1 - kept) / factor)
    return frequencies.astype(np.float32), amplitude


def _yarn(plain: np.ndarray, config: ModelConfig, original: float) -> np.ndarray:
    scaling, dim = config.rope_scaling, config.dim_per_head

    def pair_with(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(config.rope_theta))

    low = max(math.floor(pair_with(scaling.beta_fast)), 0)
    high = min(math.ceil(pair_with(scaling.beta_slow)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0.0, 1.0)
    return np.asarray(plain * (1 - ramp) + plain / scaling.factor * ramp)


def default_positions(batch: int, length: int) -> jax.Array:
    """`[batch, length]` int32 positions 0, 1, 2, ..."""
    return jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))


def segment_positions(segments: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """Positions counted from the start of each run of equal segment numbers in a row."""
    places = jnp.arange(segments.shape[1], dtype=jnp.int32)[None]
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    return places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
