"""How far the best texts of a search agree: whether the model sees one answer, or several."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from jslm.infer.row import Row

_LETTERS = re.compile(r"[^\W_]+")
# Shares beyond those of ten nats are the same.
_MOST = 10.0


def agreement_on(chosen: Row, rows: Sequence[Row]) -> float:
    """The log-odds, from -10 to 10, of the share of all rows' probability that has the letters of `chosen`.

    Rows are texts of one prompt, `chosen` one of them. Those that the limit cut count with what they have, as each
    stands for all that go on from it; punctuation and case are passed over. 10 where there is nothing else.
    """
    totals = np.array([sum(row.all_logprobs) for row in rows])
    weights = np.exp(totals - totals.max())
    same = np.array([_letters(row) == _letters(chosen) for row in rows])
    for_it, against = weights[same].sum(), weights[~same].sum()
    if not against:
        return _MOST
    return float(np.clip(math.log(max(for_it, 1e-300)) - math.log(against), -_MOST, _MOST))


def _letters(row: Row) -> list[str]:
    return _LETTERS.findall(row.text.casefold())
