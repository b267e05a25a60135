"""verb: loss, perplexity and bits per byte; benchmarks from disk; rewriting; samples and what they copy.

`evaluate_run` is what the command line does to each model. Importing this package imports no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.evaluate.runner import Plan, evaluate_run
    from jslm.evaluate.stories import check_samples

__all__ = ["Plan", "check_samples", "evaluate_run"]

_MODULES = {
    "Plan": "jslm.evaluate.runner",
    "check_samples": "jslm.evaluate.stories",
    "evaluate_run": "jslm.evaluate.runner",
}
__getattr__ = lazy_names(__name__, _MODULES)
