"""Filters: which documents are worth learning from, by length, letters and repetition.

Rules and names follow Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher",
appendix A.1.1, as far as they don't depend on English.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator

from jslm.config import FilterConfig
from jslm.text.documents import Document
from jslm.text.dropped import DropReport, Verdict

_ASCII = bytes(range(128))
_ASCII_SPACE = bytes(byte for byte in _ASCII if chr(byte).isspace())
_NO_ASCII_LETTER = bytes(byte for byte in range(256) if byte >= 128 or not chr(byte).isalpha())


def filter_documents(documents: Iterable[Document], config: FilterConfig, report: DropReport) -> Iterator[Document]:
    """The documents that pass every filter, in their order; `report` counts all of them.

    Memory: one document. Each verdict depends on its document alone, so parts of a corpus can be filtered in any number
    of processes and their reports merged.
    """
    for document in documents:
        report.see(document)
        verdict = judge(document.text, config)
        if verdict is None:
            report.keep(document)
            yield document
        else:
            report.drop(verdict.reason, document.source, document.text, verdict.detail)


def judge(text: str, config: FilterConfig) -> Verdict | None:
    """The first filter that the text fails, the cheapest being asked first; None where it passes all."""
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
            ngram, share = _top_ngram(words, length)
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


def top_ngram_share(text: str, length: int) -> float:
    """Share in [0, 1] of the characters of words that the most frequent run of `length` words makes up.

    Runs are compared in lower case. Runs that occur once repeat nothing and have share 0. Overlaps count each time.
    """
    return _top_ngram(text.lower().split(), length)[1]


def _top_ngram(words: list[str], length: int) -> tuple[tuple[str, ...], float]:
    runs = Counter(zip(*(words[start:] for start in range(length)), strict=False))
    if not runs:
        return (), 0.0
    most = max(runs.values())
    if most == 1:
        return (), 0.0
    # Of runs that are as frequent, the longest makes up the most; ties go to the first in the text.
    ngram = max((run for run, count in runs.items() if count == most), key=lambda run: sum(map(len, run)))
    return ngram, min(1.0, most * sum(map(len, ngram)) / sum(map(len, words)))
