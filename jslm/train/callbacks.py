"""What `jslm.train` tells of a run to functions of its caller, and what they may answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeVar

from jslm.errors import JslmError

if TYPE_CHECKING:
    from jslm.learn.objective import Result

STOP: Literal["stop"] = "stop"


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step, as plain numbers.

    `loss` is the objective's, in nats, over the step's batch; `figures` are the objective's others by name; `grad_norm`
    is that before clipping; `tokens` are those learned from since the run's first step; `skipped`: the loss or the
    gradient was not finite, and the parameters are those of before.
    """

    step: int
    loss: float
    figures: Mapping[str, float]
    learning_rate: float
    grad_norm: float
    param_norm: float
    tokens: int
    skipped: bool


@dataclass(frozen=True)
class ValidationRecord:
    """One validation: `loss` in nats, `figures` as `metrics.jsonl` has them without `val/` (`bits_per_byte`, ...).

    `best_step` and `best_loss` are those of the best validation so far, which this one is where `is_best` says so.
    """

    step: int
    loss: float
    figures: Mapping[str, float]
    is_best: bool
    best_step: int
    best_loss: float


OnStep = Callable[[StepRecord], Literal["stop"] | None]
OnValidation = Callable[[ValidationRecord], Literal["stop"] | None]


Record = TypeVar("Record")


class Callbacks:
    """The caller's functions, what they have asked for, and what they have raised."""

    def __init__(self, on_step: OnStep | None = None, on_validation: OnValidation | None = None) -> None:
        self.on_step, self.on_validation = on_step, on_validation
        self.asks_to_stop = False
        self.error: Exception | None = None

    @property
    def end_run(self) -> bool:
        """Whether the run is to end here: one has asked for it, or has failed."""
        return self.asks_to_stop or self.error is not None

    def step(self, step: int, metrics: Mapping[str, float], figures: Sequence[str], tokens: int) -> None:
        """Tells of a step, by what `learn.step` returned for it; `figures` names the objective's own."""
        if self.on_step is not None and self.error is None:
            record = StepRecord(
                step=step,
                loss=metrics["loss"],
                figures=MappingProxyType({name: metrics[name] for name in figures}),
                learning_rate=metrics["lr"],
                grad_norm=metrics["grad_norm"],
                param_norm=metrics["param_norm"],
                tokens=tokens,
                skipped=metrics["bad_in_a_row"] > 0,
            )
            self._call("on_step", self.on_step, record)

    def validation(self, step: int, result: Result, best_step: int, best_loss: float) -> None:
        """Tells of a validation."""
        if self.on_validation is not None and self.error is None:
            record = ValidationRecord(
                step=step,
                loss=result.loss,
                figures=MappingProxyType(result.figures()),
                is_best=best_step == step,
                best_step=best_step,
                best_loss=best_loss,
            )
            self._call("on_validation", self.on_validation, record)

    def _call(self, name: str, function: Callable[[Record], object], record: Record) -> None:
        try:
            answer = function(record)
            if answer not in (None, STOP):
                raise JslmError(f"{name} returned {answer!r}; expected None to go on, or {STOP!r} to end the run here")
        except Exception as error:
            # Raised once a checkpoint is saved: the step that it came from must not be lost with it.
            self.error = error
        else:
            self.asks_to_stop |= answer == STOP
