"""What training minimises: an objective is one object, and a new one is a file beside `next_token` and `preference`."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float

from jslm.config import Config
from jslm.model import Params
from jslm.parallel import batch_sharding, batch_shards, place_rows, replicated
from jslm.tokens.loader import batch_names, packing_of

Batch = dict[str, Array]
# Sums over what counts in a batch, by name.
Sums = dict[str, Float[Array, ""]]


class Result(Protocol):
    """A validation: means over all that counted."""

    @property
    def loss(self) -> float:
        """Nats of what is minimised, by which checkpoints are compared; the smaller the better."""
        ...

    def figures(self) -> dict[str, float]:
        """By the names that `metrics.jsonl` and `run.json` have them under, behind `val/`."""
        ...

    def said(self, entropy: float | None) -> str:
        """In a line, beside the bits a byte that the text itself has, where they are known."""
        ...


class Objective(abc.ABC):
    """How a batch is scored and what is told of it, for one run's config, computation type and mesh."""

    # Sums that a step gives; "loss" is the one that training is known by.
    figures: ClassVar[tuple[str, ...]] = ("loss",)
    # What the loss is a mean over, and how many rows of a context one example has.
    unit: ClassVar[str] = "token"
    rows: ClassVar[int] = 1
    # Whether batches carry log-probabilities of a model that is computed beforehand (jslm.learn.reference).
    needs_reference: ClassVar[bool] = False
    # Whether they carry what teachers expect (jslm.learn.teachers); those of validation don't.
    needs_teachers: ClassVar[bool] = False

    def __init__(self, config: Config, mesh: Mesh, dtype: jnp.dtype) -> None:
        """`mesh` is the one that batches are split over."""
        self.config = config
        self.mesh = mesh
        self.dtype = dtype

    @property
    def batch_shards(self) -> int:
        """Parts that the rows of a batch are split into by the compiler, where this is asked."""
        return batch_shards(self.mesh)

    @abc.abstractmethod
    def sums(self, params: Params, batch: Batch, key: Array) -> tuple[Float[Array, ""], Sums]:
        """(what is minimised, the sums of `figures`) over what counts in a micro-batch; `key` is for dropout."""

    @abc.abstractmethod
    def count(self, batch: Batch) -> Float[Array, ""]:
        """How much counts in a whole batch (with the axis of accumulation): what the sums are divided by."""

    @abc.abstractmethod
    def validation_sums(self, params: Params, batch: Batch, token_bytes: Array) -> Sums:
        """Sums over what counts in a batch, without dropout, of which `result` makes means."""

    @abc.abstractmethod
    def result(self, totals: Mapping[str, float]) -> Result:
        """The validation whose sums these are; none where nothing was summed."""

    def told_by_loss(self, loss: float, bits_per_nat: float) -> dict[str, float]:
        """What a training loss also says; `bits_per_nat` are bits a byte of text for a nat a token."""
        return {}

    @property
    def step_places(self) -> int:
        """Places of a step's batch, all of which it computes, padding too."""
        return self.rows * self.config.train.batch_size * self.config.model.context_length

    def batch_shapes(self, *rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """The arrays of a batch of `rows` examples (accumulation and micro-batch)."""
        packing, model = packing_of(self.config), self.config.model
        examples = (*rows, *([self.rows] if self.rows > 1 else []))
        shape = jax.ShapeDtypeStruct((*examples, model.context_length), jnp.int32)
        found = dict.fromkeys(batch_names(packing, model.conditions), shape)
        return found | ({"reference": jax.ShapeDtypeStruct(examples, jnp.float32)} if self.needs_reference else {})

    def make_validation(self, token_bytes: np.ndarray) -> Callable[[Params, Iterable[Mapping[str, Any]]], Result]:
        """`(params, batches) -> result` over this process's rows of each batch (NumPy `[rows, context]`), all devices
        together. `token_bytes` `[vocab]` are the UTF-8 bytes of each token."""
        names = batch_names(packing_of(self.config), self.config.model.conditions)
        step = jax.jit(
            self.validation_sums,
            in_shardings=(None, dict.fromkeys(names, batch_sharding(self.mesh)), replicated(self.mesh)),
            out_shardings=replicated(self.mesh),
        )
        lengths = np.asarray(token_bytes, np.int32)

        def validate(params: Params, batches: Iterable[Mapping[str, Any]]) -> Result:
            totals: dict[str, float] = {}

            def add(sums: Sums) -> None:
                for name, value in jax.device_get(sums).items():
                    # Counts stay whole numbers, however many.
                    totals[name] = totals.get(name, 0) + value.item()

            pending: Sums = {}
            for batch in batches:
                sums = step(params, place_rows(batch, self.mesh), lengths)
                # Read one batch late, so that the device always has the next one queued.
                add(pending)
                pending = sums
            add(pending)
            return self.result(totals)

        return validate
