"""verb: loss, perplexity and bits per byte over token files; story checks."""

from jslm.evaluate.loss import LossResult, evaluate_loss, make_eval_step
from jslm.evaluate.stories import check_samples

__all__ = ["LossResult", "check_samples", "evaluate_loss", "make_eval_step"]
