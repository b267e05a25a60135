"""verb: loss, perplexity and bits per byte; benchmarks from disk; rewriting; samples and what they copy.

`evaluate_run` is what the command line does to each model. Importing this package imports no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.evaluate.loss import LossResult, evaluate_loss, make_eval_step
    from jslm.evaluate.runner import Plan, evaluate_run
    from jslm.evaluate.stories import check_samples

__all__ = ["LossResult", "Plan", "check_samples", "evaluate_loss", "evaluate_run", "make_eval_step"]

_MODULES = {
    "LossResult": "loss",
    "Plan": "runner",
    "check_samples": "stories",
    "evaluate_loss": "loss",
    "evaluate_run": "runner",
    "make_eval_step": "loss",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.evaluate.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.evaluate' has no attribute {name!r}")
