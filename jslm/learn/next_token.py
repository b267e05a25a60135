"""The loss of the next token, over all of a text or (by the labels of the data) over completions alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jslm.learn.objective import Batch, Objective, Sums
from jslm.model import IGNORED, Params, loss_sums, stack_conditions


@dataclass(frozen=True)
class LossResult:
    """Sums over the tokens that count: `nats`, `tokens`, and UTF-8 `bytes` of their text."""

    nats: float
    tokens: int
    bytes: int

    @property
    def loss(self) -> float:
        """Nats a token."""
        return self.nats / max(1, self.tokens)

    @property
    def perplexity(self) -> float:
        """exp(loss); infinite past 1e300."""
        return math.exp(self.loss) if self.loss < 690 else math.inf

    @property
    def bits_per_byte(self) -> float:
        """Bits to code one byte of text: the figure that compares across tokenizers."""
        return self.nats / math.log(2) / max(1, self.bytes)

    def figures(self) -> dict[str, float]:
        """Loss, perplexity, bits a byte and tokens."""
        return {name: getattr(self, name) for name in ("loss", "perplexity", "bits_per_byte", "tokens")}

    def said(self, entropy: float | None) -> str:
        """In a line, beside the text's own entropy in bits a byte, where it is known."""
        message = (
            f"validation over all {self.tokens:,} tokens: loss {self.loss:.4f}, perplexity {self.perplexity:.2f}, "
            f"{self.bits_per_byte:.4f} bits per byte"
        )
        if entropy:
            message += f"; the text's own entropy is {entropy:.4f} ({self.bits_per_byte / entropy - 1:+.1%})"
        return message


class NextToken(Objective):
    """Cross-entropy of each target, in nats a token, with `train.z_loss` in what is minimised and not in the loss."""

    def sums(self, params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Sums]:
        """(what is minimised, loss) over the targets that are not -1."""
        model, train = self.config.model, self.config.train
        total, cross_entropy = loss_sums(
            params,
            batch["inputs"],
            batch["targets"],
            model,
            self.dtype,
            dropout_key=key if model.drops_out or model.conditions else None,
            z_loss=train.z_loss,
            loss_chunk=train.loss_chunk,
            batch_shards=self.batch_shards,
            segments=batch.get("segments"),
            conditions=stack_conditions(batch, model),
        )
        return total, {"loss": cross_entropy}

    def count(self, batch: Batch) -> Float[Array, ""]:
        """Targets that are not -1."""
        return jnp.maximum(jnp.sum(batch["targets"] != IGNORED), 1).astype(jnp.float32)

    def validation_sums(self, params: Params, batch: Batch, token_bytes: Array) -> Sums:
        """ "loss" (nats, without z-loss or dropout), "tokens" that count, and "bytes" of their text."""
        targets = batch["targets"]
        _, loss = loss_sums(
            params,
            batch["inputs"],
            targets,
            self.config.model,
            self.dtype,
            loss_chunk=self.config.train.loss_chunk,
            batch_shards=self.batch_shards,
            segments=batch.get("segments"),
            conditions=stack_conditions(batch, self.config.model),
        )
        counted = targets != IGNORED
        byte_count = jnp.sum(jnp.where(counted, token_bytes[jnp.maximum(targets, 0)], 0))
        return {"loss": loss, "tokens": jnp.sum(counted), "bytes": byte_count}

    def result(self, totals: Mapping[str, float]) -> LossResult:
        """The validation whose sums these are."""
        return LossResult(totals.get("loss", 0.0), int(totals.get("tokens", 0)), int(totals.get("bytes", 0)))

    def told_by_loss(self, loss: float, bits_per_nat: float) -> dict[str, float]:
        """Bits a byte."""
        return {"bits_per_byte": loss * bits_per_nat}
