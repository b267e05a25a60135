"""What is compiled to train: objectives, the optimizer, the state, the step, and what a preference's loss needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

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
    "LossResult": "jslm.learn.next_token",
    "TrainState": "jslm.learn.state",
    "abstract_state": "jslm.learn.state",
    "make_objective": "jslm.learn.objectives",
    "make_optimizer": "jslm.learn.optimizer",
    "make_train_step": "jslm.learn.step",
    "objective_kind": "jslm.learn.objectives",
}
__getattr__ = lazy_names(__name__, _MODULES)
