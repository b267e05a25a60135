"""Direct preference optimisation: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is
Secretly a Reward Model".

An answer's reward is `beta` times the logarithm of how much likelier the model makes it than the reference model does
(section 4, equation 5); the loss is the cross-entropy of "the chosen answer has the higher reward" (equation 7). No
model of rewards is trained, and the reference model, whose log-probabilities are known beforehand, is never run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jslm.config import Config, DpoConfig
from jslm.learn.objective import Batch, Objective, Sums
from jslm.model import IGNORED, Params, row_log_probs, stack_conditions
from jslm.model.keys import make_key

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

    def figures(self) -> dict[str, float]:
        """All of them."""
        return asdict(self)

    def said(self, entropy: float | None) -> str:
        """In a line; the text's entropy says nothing of preferences."""
        return (
            f"validation over all {self.pairs:,} pairs: loss {self.loss:.4f}, the chosen answer preferred in "
            f"{self.accuracy:.1%}, margin {self.margin:.4f}"
        )


class Preference(Objective):
    """Nats a pair, and the other means of a `PreferenceResult`.

    A batch is `[pairs, 2, context]`, the chosen answer first, with float32 "reference" `[pairs, 2]`: the reference
    model's log-probabilities.
    """

    figures = ("loss", "accuracy", "margin", "chosen_reward", "rejected_reward")
    unit = "pair"
    rows = 2
    needs_reference = True

    def sums(self, params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Sums]:
        """(loss, the sums of `figures`) over the pairs that are no padding; there is no dropout."""
        policy = answer_log_probs(params, batch, self.config, self.dtype, self.batch_shards)
        losses, rewards = preference_losses(policy, batch["reference"], self.config.train.dpo)
        margins = rewards[:, 0] - rewards[:, 1]
        found = {
            "loss": losses,
            "accuracy": jnp.where(jnp.abs(margins) < _EVEN, 0.5, (margins > 0).astype(jnp.float32)),
            "margin": margins,
            "chosen_reward": rewards[:, 0],
            "rejected_reward": rewards[:, 1],
        }
        counted = is_pair(batch)
        sums = {name: jnp.sum(jnp.where(counted, values, 0.0)) for name, values in found.items()}
        return sums["loss"], sums

    def count(self, batch: Batch) -> Float[Array, ""]:
        """Pairs that are no padding."""
        return jnp.sum(is_pair(batch)).astype(jnp.float32)

    def validation_sums(self, params: Params, batch: Batch, token_bytes: Array) -> Sums:
        """Those of `figures`, and "pairs"."""
        return {**self.sums(params, batch, make_key(0))[1], "pairs": jnp.sum(is_pair(batch))}

    def result(self, totals: Mapping[str, float]) -> PreferenceResult:
        """Means over the pairs whose sums these are."""
        pairs = max(1.0, totals.get("pairs", 0))
        means = {name: totals.get(name, 0.0) / pairs for name in self.figures}
        return PreferenceResult(**means, pairs=int(totals.get("pairs", 0)))


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


def is_pair(batch: Mapping[str, Array]) -> Array:
    """Which pairs of a batch are no padding, bool `[..., pairs]`: an answer has one target at least."""
    return jnp.any(batch["targets"] != IGNORED, axis=(-2, -1))
