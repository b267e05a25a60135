"""How sure a rewriter is, made a probability: fitted on held-out pairs, and a threshold for a stated precision."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64

from jslm.config import RewriteConfig
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.evaluate.answers import Item, is_acceptable
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import confidence_of, features
from jslm.infer.rewrite import Written, written

if TYPE_CHECKING:
    from jslm.infer import LanguageModel

# Rewrites that a calibration is fitted on, at least: four weights, and both kinds of them.
LEAST_ITEMS = 20
_RIDGE = 1e-2
_ROUNDS = 50
_BATCH = 16


def calibrate(model: LanguageModel, items: Sequence[Item], precision: float) -> RewriteConfig:
    """The model's `[rewrite]` with a calibration and a threshold from `items`, which nothing was trained on.

    `precision` is the share of right ones that is wanted among the sentences that change, from 0 to 1. Raises JslmError
    where it is out of range, and where the items do not tell right from wrong: under twenty rewrites, or all of a kind.
    """
    if not 0 < precision < 1:
        raise JslmError(f"precision = {precision}; expected a share between 0 and 1, such as 0.9")
    settings = model.config.rewrite
    texts = _write(model, items)
    kept = []
    for item, one in zip(items, texts, strict=True):
        if one is None or not one.changed or (settings.faithful and unfaithful(item.sentence, one.output)):
            continue
        kept.append((features(one.logprobs), is_acceptable(item, one.output), one.logprobs))
    right = np.array([good for _, good, _ in kept], np.float64)
    if len(kept) < LEAST_ITEMS or right.min() == right.max():
        raise JslmError(
            f"calibration: {len(kept)} rewrites of {len(items)} sentences, {int(right.sum()) if len(kept) else 0} of "
            f"them right; expected {LEAST_ITEMS} or more, right ones and wrong ones: give more held-out sentences"
        )
    weights = fit_logistic(np.array([row for row, _, _ in kept], np.float64), right)
    fitted = settings.model_copy(update={"calibration": [round(float(w), 6) for w in weights], "precision": precision})
    sure = [confidence_of(fitted, logprobs) or 0.0 for _, _, logprobs in kept]
    return fitted.model_copy(update={"threshold": choose_threshold(sure, right.astype(bool).tolist(), precision)})


def _write(model: LanguageModel, items: Sequence[Item]) -> list[Written | None]:
    open_minded = copy.copy(model)
    open_minded.config = model.config.model_copy(update={"rewrite": RewriteConfig()})
    found: list[Written | None] = []
    with Bar("calibrating", len(items), "sentences") as bar:
        for start in range(0, len(items), _BATCH):
            batch = [item.sentence for item in items[start : start + _BATCH]]
            found += written(open_minded, batch)
            bar.add(len(batch))
    return found


def fit_logistic(
    inputs: Float64[np.ndarray, "items features"], right: Float64[np.ndarray, " items"]
) -> Float64[np.ndarray, " features"]:
    """Weights of a logistic regression with a little ridge, by Newton's method; the first input is a constant 1."""
    scale = np.maximum(np.abs(inputs).max(axis=0), 1e-9)
    x = inputs / scale
    weights = np.zeros(x.shape[1])
    for _ in range(_ROUNDS):
        chance = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        slope = x.T @ (chance - right) + _RIDGE * weights
        curvature = (x * (chance * (1 - chance))[:, None]).T @ x + _RIDGE * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, slope)
        weights -= step
        if np.abs(step).max() < 1e-8:
            break
    return weights / scale


def choose_threshold(confidences: Sequence[float], right: Sequence[bool], precision: float) -> float:
    """The lowest confidence such that of the items at it or above the wanted share is right; 1 where there is none."""
    order = sorted(zip(confidences, right, strict=True), key=lambda pair: -pair[0])
    best, good = 1.0, 0
    for place, (sure, fine) in enumerate(order, 1):
        good += fine
        last_of_its_kind = place == len(order) or order[place][0] < sure
        if last_of_its_kind and good >= precision * place:
            best = sure
    # Rounded down, so that the item it was chosen by is still at it.
    return int(best * 1e6) / 1e6
