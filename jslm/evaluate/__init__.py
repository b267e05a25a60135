"""verb: loss, perplexity and bits per byte; benchmarks from disk; rewriting; samples and what they copy.

`evaluate_run` is what the command line does to each model. Importing this package imports no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.evaluate.runner import Plan, evaluate_run
    from jslm.evaluate.stories import check_samples

__all__ = ["Plan", "check_samples", "evaluate_run"]

_MODULES = {
    "Plan": "runner",
    "check_samples": "stories",
    "evaluate_run": "runner",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.evaluate.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.evaluate' has no attribute {name!r}")
