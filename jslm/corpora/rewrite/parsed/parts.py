"""Pairs of long sentences cut to a run of their clauses, as these are rewritten (`jslm.corpora.clause_runs`)."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from itertools import takewhile
from typing import Final

from jslm.corpora.clause_runs import clause_runs

# Runs of so many characters at most.
LONGEST: Final = 120
# A sentence so long is cut half as often as the longest ones, a shorter one never.
_FROM: Final = 60
_ALWAYS: Final = 120
_BY: Final = re.compile(r"\bby\b")


def is_cut(prompt: str, share: float, rng: random.Random) -> bool:
    """Whether a pair is to be cut: of long sentences that share, of shorter ones in proportion."""
    return len(prompt) > _FROM and rng.random() < share * min(1.0, len(prompt) / _ALWAYS)


def cut(prompt: str, completion: str, rng: random.Random) -> tuple[str, str] | None:
    """A run of clauses of a pair on both sides, drawn from all that it has; None where it has none.

    A run that has all that the two sides differ in becomes what it is in the whole sentence. One with a "by" that has
    only some of it stays as it is: a subject or an agent lies beyond. Of a sentence to leave alone, each run stays.
    """
    before = _common(prompt, completion)
    behind = min(_common(reversed(prompt), reversed(completion)), min(len(prompt), len(completion)) - before)
    runs = []
    for start, end in clause_runs(prompt, LONGEST):
        part = prompt[start:end]
        if prompt == completion:
            runs.append((part, part))
        elif start <= before and end >= len(prompt) - behind:
            runs.append((part, completion[start : len(completion) - (len(prompt) - end)]))
        elif start < len(prompt) - behind and end > before and _BY.search(part):
            runs.append((part, part))
    return rng.choice(runs) if runs else None


def _common(one: Iterable[str], other: Iterable[str]) -> int:
    """How many characters two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))
