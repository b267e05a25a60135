"""verb: loss, perplexity and bits per byte over token files; story checks."""

from jslm.evaluate.loss import LossResult, evaluate_loss, make_eval_step

__all__ = ["LossResult", "evaluate_loss", "make_eval_step"]
