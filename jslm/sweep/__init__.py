"""verb: many runs of one config with some keys changed, and a table of what came out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.sweep.runner import run_sweep
    from jslm.sweep.space import Trial, grid_trials, random_trials

__all__ = ["Trial", "grid_trials", "random_trials", "run_sweep"]

_MODULES = {
    "Trial": "jslm.sweep.space",
    "grid_trials": "jslm.sweep.space",
    "random_trials": "jslm.sweep.space",
    "run_sweep": "jslm.sweep.runner",
}
__getattr__ = lazy_names(__name__, _MODULES)
