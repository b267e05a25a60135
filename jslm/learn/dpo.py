"""Direct preference optimisation: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is
Secretly a Reward Model".

An answer's reward is `beta` times the logarithm of how much likelier the model makes it than the reference model does
(section 4, equation 5); the loss is the cross-entropy of "the chosen answer has the higher reward" (equation 7). No
model of rewards is trained, and the reference model, whose log-probabilities are known beforehand, is never run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jslm.config import Config, DpoConfig
from jslm.model import IGNORED, Params, row_log_probs, stack_conditions
from jslm.parallel import batch_sharding, place_rows, replicated
from jslm.tokens.loader import batch_names

Batch = dict[str, Array]
# Sums over pairs.
Sums = dict[str, Float[Array, ""]]
SUMS = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")
# Margins nearer to zero are rounding: those of a policy that still is the reference model.
_EVEN = 1e-4


@dataclass(frozen=True)
class PreferenceResult:
    """Means over `pairs`: `loss` (nats a pair), `accuracy` (share whose chosen answer has the higher reward, an even
    one being half a pair), `margin` (chosen reward less rejected reward), and both rewards.
    """

    loss: float
    accuracy: float
    margin: float
    chosen_reward: float
    rejected_reward: float
    pairs: int


def preference_losses(
    policy: Float[Array, "pairs 2"], reference: Float[Array, "pairs 2"], config: DpoConfig
) -> tuple[Float[Array, " pairs"], Float[Array, "pairs 2"]]:
    """(loss in nats, rewards) of each pair, from summed log-probabilities of the chosen and the rejected answer."""
    rewards = config.beta * (policy - reference)
    margin = rewards[:, 0] - rewards[:, 1]
    smoothing = config.label_smoothing
    loss = -(1 - smoothing) * jax.nn.log_sigmoid(margin) - smoothing * jax.nn.log_sigmoid(-margin)
    return loss, rewards


def answer_log_probs(
    params: Params, batch: Batch, config: Config, dtype: jnp.dtype, batch_shards: int
) -> Float[Array, "pairs 2"]:
    """Summed log-probabilities of both answers of each pair, in nats; `batch` is `[pairs, 2, context]`."""
    names = (name for name in batch if name != "reference")
    rows = {name: batch[name].reshape(-1, batch[name].shape[-1]) for name in names}
    log_probs = row_log_probs(
        params,
        rows["inputs"],
        rows["targets"],
        config.model,
        dtype,
        loss_chunk=config.train.loss_chunk,
        batch_shards=batch_shards,
        conditions=stack_conditions(rows, config.model),
    )
    return log_probs.reshape(-1, 2)


def preference_sums(params: Params, batch: Batch, config: Config, dtype: jnp.dtype, batch_shards: int) -> Sums:
    """Sums of the `SUMS` over the pairs of a batch that are no padding; the "loss" is what is minimised."""
    policy = answer_log_probs(params, batch, config, dtype, batch_shards)
    losses, rewards = preference_losses(policy, batch["reference"], config.train.dpo)
    margins = rewards[:, 0] - rewards[:, 1]
    found = {
        "loss": losses,
        "accuracy": jnp.where(jnp.abs(margins) < _EVEN, 0.5, (margins > 0).astype(jnp.float32)),
        "margin": margins,
        "chosen_reward": rewards[:, 0],
        "rejected_reward": rewards[:, 1],
    }
    counted = is_pair(batch)
    return {name: jnp.sum(jnp.where(counted, values, 0.0)) for name, values in found.items()}


def is_pair(batch: Mapping[str, Array]) -> Array:
    """Which pairs of a batch are no padding, bool `[..., pairs]`: an answer has one target at least."""
    return jnp.any(batch["targets"] != IGNORED, axis=(-2, -1))


def make_preference_step(config: Config, mesh: Mesh, dtype: jnp.dtype) -> Callable[[Params, Batch], Sums]:
    """The jitted validation step `(params, batch) -> sums` of the `SUMS`, and "pairs", over `[pairs, 2, context]`."""
    batch_shards = mesh.shape["data"] * mesh.shape["fsdp"]

    def step(params: Params, batch: Batch) -> Sums:
        sums = preference_sums(params, batch, config, dtype, batch_shards)
        return {**sums, "pairs": jnp.sum(is_pair(batch))}

    batch_in = dict.fromkeys(batch_names("preferences", config.model.conditions), batch_sharding(mesh))
    return jax.jit(step, in_shardings=(None, batch_in), out_shardings=replicated(mesh))


def evaluate_preferences(
    step: Callable[[Params, Batch], Sums], params: Params, batches: Iterable[Mapping[str, Any]], mesh: Mesh
) -> PreferenceResult:
    """Means over all pairs of `batches`, this process's rows of each."""
    totals = dict.fromkeys((*SUMS, "pairs"), 0.0)
    pending: Sums = {}
    for batch in batches:
        sums = step(params, place_rows(batch, mesh))
        # Read one batch late, so that the device always has the next one queued.
        _add(totals, pending)
        pending = sums
    _add(totals, pending)
    pairs = max(1.0, totals["pairs"])
    return PreferenceResult(**{name: totals[name] / pairs for name in SUMS}, pairs=int(totals["pairs"]))


def _add(totals: dict[str, float], sums: Sums) -> None:
    for name, value in jax.device_get(sums).items():
        totals[name] += float(value)
