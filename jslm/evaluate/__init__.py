"""verb: loss, perplexity and bits per byte; benchmarks from disk; rewriting; samples and what they copy.

`evaluate_run` is what the command line does to each model, `split_baseline` what counting makes of its data. Importing
this package imports no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.evaluate.answers import wilson
    from jslm.evaluate.baseline import Baseline, split_baseline
    from jslm.evaluate.runner import Plan, evaluate_run
    from jslm.evaluate.stories import check_samples

__all__ = ["Baseline", "Plan", "check_samples", "evaluate_run", "split_baseline", "wilson"]

_MODULES = {
    "Baseline": "jslm.evaluate.baseline",
    "Plan": "jslm.evaluate.runner",
    "check_samples": "jslm.evaluate.stories",
    "evaluate_run": "jslm.evaluate.runner",
    "split_baseline": "jslm.evaluate.baseline",
    "wilson": "jslm.evaluate.answers",
}
__getattr__ = lazy_names(__name__, _MODULES)
