"""Exact loss over a token file in consecutive windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array

from jslm.config import Config
from jslm.model import IGNORED, Params, loss_sums, stack_conditions
from jslm.parallel import batch_sharding, place_rows, replicated
from jslm.tokens.loader import batch_names

EvalStep = Callable[[Params, dict[str, Array]], dict[str, Array]]


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


def make_eval_step(config: Config, mesh: Mesh, dtype: jnp.dtype, token_bytes: np.ndarray) -> EvalStep:
    """The jitted step `(params, batch) -> sums` over a batch of int32 "inputs", "targets" (and "segments").

    Each is `[rows, context]`.

    Sums: "loss" (nats, without z-loss or dropout), "tokens" (targets that are not -1), "bytes" (UTF-8 bytes of those
    targets, by `token_bytes` `[vocab]`).
    """
    batch_shards = mesh.shape["data"] * mesh.shape["fsdp"]

    def step(params: Params, batch: dict[str, Array], lengths: Array) -> dict[str, Array]:
        inputs, targets = batch["inputs"], batch["targets"]
        _, loss = loss_sums(
            params,
            inputs,
            targets,
            config.model,
            dtype,
            loss_chunk=config.train.loss_chunk,
            batch_shards=batch_shards,
            segments=batch.get("segments"),
            conditions=stack_conditions(batch, config.model),
        )
        counted = targets != IGNORED
        byte_count = jnp.sum(jnp.where(counted, lengths[jnp.maximum(targets, 0)], 0))
        return {"loss": loss, "tokens": jnp.sum(counted), "bytes": byte_count}

    batch_in = dict.fromkeys(batch_names(config.data.packing, config.model.conditions), batch_sharding(mesh))
    jitted = jax.jit(step, in_shardings=(None, batch_in, replicated(mesh)), out_shardings=replicated(mesh))
    lengths = np.asarray(token_bytes, np.int32)
    return lambda params, batch: jitted(params, batch, lengths)


def evaluate_loss(step: EvalStep, params: Params, batches: Iterable[Mapping[str, Any]], mesh: Mesh) -> LossResult:
    """Sums the step over this process's share of each batch (NumPy `[rows, context]`), all devices together."""
    nats, tokens, byte_count = 0.0, 0, 0
    pending: dict[str, Array] | None = None

    def collect(sums: dict[str, Array] | None) -> None:
        nonlocal nats, tokens, byte_count
        if sums is not None:
            host = jax.device_get(sums)
            nats, tokens, byte_count = (
                nats + float(host["loss"]),
                tokens + int(host["tokens"]),
                byte_count + int(host["bytes"]),
            )

    for batch in batches:
        sums = step(params, place_rows(batch, mesh))
        # Read one batch late, so that the device always has the next one queued.
        collect(pending)
        pending = sums
    collect(pending)
    return LossResult(nats, tokens, byte_count)
