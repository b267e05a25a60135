"""What is compiled to train: the optimizer, the state, the step, and what a preference's loss needs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.learn.optimizer import make_optimizer
    from jslm.learn.state import TrainState, abstract_state
    from jslm.learn.step import make_train_step

__all__ = ["TrainState", "abstract_state", "make_optimizer", "make_train_step"]

_MODULES = {
    "TrainState": "state",
    "abstract_state": "state",
    "make_optimizer": "optimizer",
    "make_train_step": "step",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.learn.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.learn' has no attribute {name!r}")
