"""verb: many runs of one config with some keys changed, and a table of what came out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.sweep.runner import run_sweep
    from jslm.sweep.space import Trial, grid_trials, random_trials

__all__ = ["Trial", "grid_trials", "random_trials", "run_sweep"]

_MODULES = {"Trial": "space", "grid_trials": "space", "random_trials": "space", "run_sweep": "runner"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.sweep.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.sweep' has no attribute {name!r}")
