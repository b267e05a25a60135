"""verb: token files to a model, with checkpoints, metrics, samples and a report."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.train.loop import TrainOutcome, train
    from jslm.train.optimizer import make_optimizer
    from jslm.train.state import TrainState, abstract_state
    from jslm.train.step import make_train_step

__all__ = ["TrainOutcome", "TrainState", "abstract_state", "make_optimizer", "make_train_step", "train"]

_MODULES = {
    "TrainOutcome": "loop",
    "TrainState": "state",
    "abstract_state": "state",
    "make_optimizer": "optimizer",
    "make_train_step": "step",
    "train": "loop",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.train.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.train' has no attribute {name!r}")
