"""How sure a rewriter is, made a probability: fitted on held-out pairs, and a threshold for a stated precision."""

from __future__ import annotations

import copy
import logging
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from jslm.config import RewriteConfig
from jslm.config.rewrite_schema import AgreementConfig
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.evaluate.answers import Item, is_acceptable
from jslm.infer.faithful import unfaithful
from jslm.infer.judgement import confidence_of, features
from jslm.infer.rewrite import Written, may_add, written

if TYPE_CHECKING:
    from jslm.infer import LanguageModel

# Rewrites that a calibration is fitted on, at least: four weights, and both kinds of them.
LEAST_ITEMS = 20
_RIDGE = 1e-2
_ROUNDS = 50
_FOLDS = 10
_BATCH = 16
_log = logging.getLogger("jslm")


class Judged(NamedTuple):
    """Rewrites that a calibration is fitted on: log-probabilities, agreement of the beams, whether it is right, and
    whether the sentence had only to be left alone."""

    logprobs: list[list[float]]
    agreement: list[float]
    right: list[bool]
    spoilt: list[bool]

    def inputs(self, *, agreement: bool) -> Float64[np.ndarray, "items features"]:
        """What a logistic regression weighs."""
        rows = [features(logprobs) for logprobs in self.logprobs]
        if agreement:
            return np.array([(*row, value) for row, value in zip(rows, self.agreement, strict=True)], np.float64)
        return np.array(rows, np.float64)


class Gain(NamedTuple):
    """What the agreement of beams is worth: scores of rewrites that a fit had not seen, without and with it."""

    log_loss: tuple[float, float]
    brier: tuple[float, float]
    items: int

    @property
    def is_one(self) -> bool:
        """Whether confidence is better with it."""
        return self.log_loss[1] < self.log_loss[0]


def calibrate(
    model: LanguageModel, items: Sequence[Item], precision: float, *, left_alone: float = 0.0, beams: int = 1
) -> RewriteConfig:
    """The model's `[rewrite]` with a calibration and a threshold from `items`, which nothing was trained on.

    `precision` is the share of right ones that is wanted among the sentences that change, from 0 to 1; `left_alone` the
    share that is to stay of the items whose only answer is the sentence itself (0: as many as do). `beams` over 1
    looks at a search too: where the agreement of its texts makes the confidence better on sentences that it was not
    fitted on (`agreement_gain`, which is logged), `rewrite.agreement` has its calibration, and the model rewrites with
    that many beams from then on. Raises JslmError where a share is out of range, and where the items do not tell right
    from wrong: under twenty rewrites, or all of a kind.
    """
    if not 0 < precision < 1:
        raise JslmError(f"precision = {precision}; expected a share between 0 and 1, such as 0.9")
    if not 0 <= left_alone < 1:
        raise JslmError(f"left_alone = {left_alone}; expected a share from 0 to under 1, such as 0.95")
    if beams < 1:
        raise JslmError(f"beams = {beams}; expected 1 (greedy) or more")
    settings = model.config.rewrite.model_copy(update={"agreement": AgreementConfig(), "precision": precision})
    to_stay = sum(_is_to_stay(item) for item in items)
    # As many of them may change; a rounding of the share takes none away.
    most = int((1 - left_alone) * to_stay + 1e-9)
    weights, threshold = _fit(settings, _judge(model, items, 1), precision, most, agreement=False)
    fitted = settings.model_copy(update={"calibration": weights, "threshold": threshold})
    if beams == 1:
        return fitted
    judged = _judge(model, items, beams)
    gain = agreement_gain(judged)
    _log.info(
        "agreement of %d beams, on %d rewrites by ten-fold cross-validation: log loss %.4f without, %.4f with; Brier "
        "score %.4f without, %.4f with: %s",
        *(beams, gain.items, *gain.log_loss, *gain.brier, "taken" if gain.is_one else "left out"),
    )
    if not gain.is_one:
        return fitted
    weights, threshold = _fit(settings, judged, precision, most, agreement=True)
    agreement = AgreementConfig(beams=beams, calibration=weights, threshold=threshold)
    return fitted.model_copy(update={"agreement": agreement})


def agreement_gain(judged: Judged) -> Gain:
    """Log loss (nats) and Brier score a rewrite of fits with and without the agreement, by ten-fold cross-validation.

    Raises JslmError where a fold has nothing to fit on.
    """
    right = np.array(judged.right, np.float64)
    _require(right, len(right))
    folds = np.random.default_rng(0).permutation(len(right)) % _FOLDS
    scores = []
    for agreement in (False, True):
        inputs, chance = judged.inputs(agreement=agreement), np.zeros(len(right))
        for fold in range(_FOLDS):
            weights = fit_logistic(inputs[folds != fold], right[folds != fold])
            chance[folds == fold] = 1 / (1 + np.exp(-np.clip(inputs[folds == fold] @ weights, -30, 30)))
        surprise = -np.log(np.clip(np.where(right > 0, chance, 1 - chance), 1e-9, 1))
        scores.append((float(surprise.mean()), float(((chance - right) ** 2).mean())))
    (loss, brier), (loss_with, brier_with) = scores
    return Gain((loss, loss_with), (brier, brier_with), len(right))


def _judge(model: LanguageModel, items: Sequence[Item], beams: int) -> Judged:
    """The items that the model rewrites, and whether rightly; without those that its check of words would keep."""
    settings = model.config.rewrite
    judged = Judged([], [], [], [])
    texts = _write(model, items, beams)
    for item, one in zip(items, texts, strict=True):
        if one is None or not one.changed:
            continue
        source = unicodedata.normalize("NFC", item.sentence)
        if settings.faithful and unfaithful(source, one.output, may_add=may_add(model)):
            continue
        judged.logprobs.append(one.logprobs)
        judged.agreement.append(one.agreement)
        judged.right.append(is_acceptable(item, one.output))
        judged.spoilt.append(_is_to_stay(item))
    _require(np.array(judged.right), len(items))
    return judged


def _is_to_stay(item: Item) -> bool:
    return item.answers == (item.sentence,)


def _require(right: np.ndarray, sentences: int) -> None:
    if len(right) < LEAST_ITEMS or right.min() == right.max():
        raise JslmError(
            f"calibration: {len(right)} rewrites of {sentences} sentences, {int(right.sum())} of them right; expected "
            f"{LEAST_ITEMS} or more, right ones and wrong ones: give more held-out sentences"
        )


def _fit(
    settings: RewriteConfig, judged: Judged, precision: float, most_spoilt: int, *, agreement: bool
) -> tuple[list[float], float]:
    """Weights, and the threshold for a precision and for so many spoilt ones at most."""
    inputs = judged.inputs(agreement=agreement)
    weights = [round(float(weight), 6) for weight in fit_logistic(inputs, np.array(judged.right, np.float64))]
    # By the weights as they are written down, and by the code that will use them.
    update = {"agreement": AgreementConfig(beams=2, calibration=weights)} if agreement else {"calibration": weights}
    fitted = settings.model_copy(update=update)
    sure = [
        confidence_of(fitted, logprobs, 2 if agreement else 1, value) or 0.0
        for logprobs, value in zip(judged.logprobs, judged.agreement, strict=True)
    ]
    return weights, choose_threshold(sure, judged.right, precision, judged.spoilt, most_spoilt)


def _write(model: LanguageModel, items: Sequence[Item], beams: int) -> list[Written | None]:
    open_minded = copy.copy(model)
    # A search takes its best text that is faithful.
    own = model.config.rewrite
    kept = ("faithful", "retry_beams", "clause_characters", "clause_word")
    rewrite = RewriteConfig(**{name: getattr(own, name) for name in kept})
    open_minded.config = model.config.model_copy(update={"rewrite": rewrite})
    found: list[Written | None] = []
    with Bar("calibrating", len(items), "sentences") as bar:
        for start in range(0, len(items), _BATCH):
            batch = [item.sentence for item in items[start : start + _BATCH]]
            # Without beams from the start it is the model's own way, with its second search.
            found += written(open_minded, batch, beams if beams > 1 else None)
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


def choose_threshold(
    confidences: Sequence[float],
    right: Sequence[bool],
    precision: float,
    spoilt: Sequence[bool] = (),
    most_spoilt: int = 0,
) -> float:
    """The lowest confidence such that of the items at it or above the wanted share is right, and `most_spoilt` of them
    at most are `spoilt` (none where not given); 1 where there is none."""
    rows = zip(confidences, right, spoilt or [False] * len(right), strict=True)
    order = sorted(rows, key=lambda row: -row[0])
    best, good, bad = 1.0, 0, 0
    for place, (sure, fine, is_spoilt) in enumerate(order, 1):
        good += fine
        bad += is_spoilt
        last_of_its_kind = place == len(order) or order[place][0] < sure
        if last_of_its_kind and good >= precision * place and bad <= most_spoilt:
            best = sure
    # Rounded down, so that the item it was chosen by is still at it.
    return int(best * 1e6) / 1e6
