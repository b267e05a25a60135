"""verb: token files to a model, with checkpoints, metrics, samples and a report.

`jslm.train(config, on_step=..., on_validation=...)` is `jslm.train.train`: this package can be called.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.train.callbacks import STOP, StepRecord, ValidationRecord
    from jslm.train.loop import TrainOutcome, train
    from jslm.train.report import write_report

__all__ = ["STOP", "StepRecord", "TrainOutcome", "ValidationRecord", "train", "write_report"]

_LIGHT = dict.fromkeys(("STOP", "StepRecord", "ValidationRecord"), "jslm.train.callbacks") | {
    "write_report": "jslm.train.report"
}
# JAX, optax and Grain come with it.
__getattr__ = lazy_names(__name__, dict.fromkeys(("TrainOutcome", "train"), "jslm.train.loop") | _LIGHT)


class _TrainPackage(ModuleType):
    # `jslm.train` is this package once anything has imported it, and the function's name for people all the same.
    def __call__(self, *arguments: Any, **keywords: Any) -> TrainOutcome:
        outcome: TrainOutcome = self.train(*arguments, **keywords)
        return outcome


sys.modules[__name__].__class__ = _TrainPackage
