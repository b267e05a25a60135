"""What is compiled to train: objectives, the optimizer, the state, the step, and what a preference's loss needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.learn.next_token import LossResult
    from jslm.learn.objectives import make_objective, objective_kind
    from jslm.learn.optimizer import make_optimizer
    from jslm.learn.state import TrainState, abstract_state
    from jslm.learn.step import make_train_step

__all__ = [
    "LossResult",
    "TrainState",
    "abstract_state",
    "make_objective",
    "make_optimizer",
    "make_train_step",
    "objective_kind",
]

_MODULES = {
    "LossResult": "next_token",
    "TrainState": "state",
    "abstract_state": "state",
    "make_objective": "objectives",
    "make_optimizer": "optimizer",
    "make_train_step": "step",
    "objective_kind": "objectives",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.learn.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.learn' has no attribute {name!r}")
