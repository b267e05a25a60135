"""Parts of an English sentence that can be rewritten by themselves: runs of clauses, cut at marks and conjunctions.

Pairs are cut so for training, and long sentences for rewriting: what is asked for is what was learned.
"""

from __future__ import annotations

import re
from typing import Final

# Behind a mark, before a bracket or a dash, and before a word that begins a clause. "And" and "or" join as many nouns
# as clauses, so a cut there takes one subject of two.
_CUT: Final = re.compile(
    r"(?<=[,;:—–)])\s+|\s+(?=[(—–]|-+\s)|\s+(?=(?:(?:and|or)\s+)?(?:after|although|as|because|before|but|if|since|so|"
    r"that|though|until|when|where|whether|which|while|who|whom|whose)\b)(?<!\b[Aa]nd\s)(?<!\b[Oo]r\s)"
)
# These say more of the word before them, which may be the agent: a run does not end there.
_HOLDING: Final = re.compile(r"(?:as|that|where|which|who|whom|whose)\b")
SHORTEST: Final = 12
_MOST_RUNS: Final = 64


def clause_runs(sentence: str, most: int) -> list[tuple[int, int]]:
    """(start, end) of the runs of whole clauses of `SHORTEST` to `most` characters, the longest first, 64 at most; not
    the whole sentence. White space stands around them, not in them."""
    cuts = list(_CUT.finditer(sentence))
    starts = [0, *(cut.end() for cut in cuts)]
    ends = [(cut.start(), not _HOLDING.match(sentence, cut.end())) for cut in cuts] + [(len(sentence), True)]
    found = []
    for first, start in enumerate(starts):
        for end, is_one in ends[first : first + most]:
            if end - start > most:
                break
            if is_one and end - start >= SHORTEST and (start, end) != (0, len(sentence)):
                found.append((start, end))
    return sorted(found, key=lambda run: run[0] - run[1])[:_MOST_RUNS]
