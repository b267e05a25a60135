"""Distillation by the teachers' likeliest tokens: Hinton et al. 2015, "Distilling the Knowledge in a Neural Network".

What is minimised is `(1 - weight)` times the cross-entropy of the text and `weight` times the divergence from the mean
of the teachers' probabilities, times the squared temperature (section 2), so that both gradients keep their sizes. The
teachers are never run here: what they expect is known beforehand (jslm.learn.teachers). Validation is that of the next
token, so that the figures compare with those of the teachers.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jslm.learn.next_token import NextToken
from jslm.learn.objective import Batch, Sums
from jslm.model import Params, taught_sums
from jslm.tokens.taught import TEACHER_IDS, TEACHER_LOG_PROBS


class Distill(NextToken):
    """Nats a token of the text ("loss"), and of the divergence from the teachers ("divergence")."""

    figures = ("loss", "divergence")
    needs_teachers = True

    def sums(self, params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Sums]:
        """(what is minimised, the sums of `figures`) over the targets that are not -1."""
        model, train = self.config.model, self.config.train
        cross_entropy, divergence = taught_sums(
            params,
            batch["inputs"],
            batch["targets"],
            batch[TEACHER_IDS],
            batch[TEACHER_LOG_PROBS],
            model,
            self.dtype,
            temperature=train.distill.temperature,
            dropout_key=key if model.drops_out else None,
            loss_chunk=train.loss_chunk,
            batch_shards=self.batch_shards,
            segments=batch.get("segments"),
        )
        weight = train.distill.weight
        total = (1 - weight) * cross_entropy + weight * train.distill.temperature**2 * divergence
        return total, {"loss": cross_entropy, "divergence": divergence}

    def batch_shapes(self, *rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Those of the next token, and what the teachers expect at each place."""
        model = self.config.model
        shape = (*rows, model.context_length, min(self.config.train.distill.top_k, model.vocab_size))
        return super().batch_shapes(*rows) | {
            TEACHER_IDS: jax.ShapeDtypeStruct(shape, jnp.int32),
            TEACHER_LOG_PROBS: jax.ShapeDtypeStruct(shape, jnp.float32),
        }
