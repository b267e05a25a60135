"""Filters: which documents are worth learning from, by length, letters and repetition.

Rules and names follow Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
appendix A.1.1, as far as they don't depend on English.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

from jslm.config import FilterConfig
from jslm.text.dropped import Verdict

_ASCII = bytes(range(128))
_ASCII_SPACE = bytes(byte for byte in _ASCII if chr(byte).isspace())
_NO_ASCII_LETTER = bytes(byte for byte in range(256) if byte >= 128 or not chr(byte).isalpha())


def judge(text: str, config: FilterConfig) -> Verdict | None:
    """The first filter that the text fails, the cheapest being asked first; None where it passes all.

    Each verdict depends on its text alone, so that parts of a corpus can be judged in any number of processes.
    """
    if len(text) < config.min_characters:
        return Verdict("min_characters", f"{len(text):,} character(s), under {config.min_characters:,}")
    if config.max_characters and len(text) > config.max_characters:
        return Verdict("max_characters", f"{len(text):,} characters, over {config.max_characters:,}")
    if config.min_alphabetic and (share := alphabetic_share(text)) < config.min_alphabetic:
        return Verdict("min_alphabetic", f"{share:.3f} of the characters are letters, under {config.min_alphabetic:g}")
    if config.max_duplicate_lines < 1.0 and (share := duplicate_line_share(text)) > config.max_duplicate_lines:
        return Verdict("max_duplicate_lines", f"{share:.3f} is in repeated lines, over {config.max_duplicate_lines:g}")
    if config.max_top_ngram:
        words = text.lower().split()
        for length, limit in enumerate(config.max_top_ngram, start=2):
            ngram, share = top_ngram(words, length)
            if share > limit:
                return Verdict("max_top_ngram", f"{share:.3f} is {' '.join(ngram)[:60]!r}, over {limit:g}")
    return None


def alphabetic_share(text: str) -> float:
    """Letters over characters that are no white space, in [0, 1]; 0 for a blank text.

    Marks count as letters: they are the vowels of Hindi and Thai.
    """
    # Deleting bytes is ten times as fast as looking at characters one by one, which the rarer ones are left to.
    data = text.encode("utf-8", "surrogatepass")
    others = data.translate(None, _ASCII).decode("utf-8", "surrogatepass")
    letters = len(data.translate(None, _NO_ASCII_LETTER))
    letters += sum(unicodedata.category(character)[0] in "LM" for character in others)
    spaces = len(data) - len(data.translate(None, _ASCII_SPACE)) + sum(map(str.isspace, others))
    return letters / (len(text) - spaces) if len(text) > spaces else 0.0


def duplicate_line_share(text: str) -> float:
    """Share in [0, 1] of the characters (white space at the ends of lines apart) in lines that stood before."""
    seen: set[str] = set()
    total = again = 0
    for line in map(str.strip, text.split("\n")):
        total += len(line)
        if line in seen:
            again += len(line)
        seen.add(line)
    return again / total if total else 0.0


def top_ngram(words: Sequence[str], length: int) -> tuple[tuple[str, ...], float]:
    """The most frequent run of `length` words, and the share in [0, 1] of the words' characters that it makes up.

    Runs that occur once repeat nothing: none, and 0. Overlaps count each time.
    """
    runs = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    if not runs:
        return (), 0.0
    most = max(runs.values())
    if most == 1:
        return (), 0.0
    # Of runs that are as frequent, the longest makes up the most; ties go to the first in the text.
    ngram = max((run for run, count in runs.items() if count == most), key=lambda run: sum(map(len, run)))
    return ngram, min(1.0, most * sum(map(len, ngram)) / sum(map(len, words)))
