"""Footnotes, with the marks that point to them."""

from __future__ import annotations

import re

from jslm.text.cleaners.base import Cleaned, Tally

_LABEL = r"\d{1,4}|[A-Z]|[*†‡§]{1,4}"
# A note in brackets of its own, over several paragraphs perhaps: [Footnote 1: ...].
_BRACKETED = re.compile(
    rf"(?<![ \t])[ \t]*+\[Footnote[ ]?(?P<label>{_LABEL})?[:.]?(?![\w-])(?:[^\[\]]++|\[[^\[\]]*+\])*+\][ \t]*\n*",
    re.IGNORECASE,
)
_SIDENOTE = re.compile(r"(?<![ \t])[ \t]*+\[Sidenote:(?:[^\[\]]++|\[[^\[\]]*+\])*+\][ \t]*\n*", re.IGNORECASE)
# A paragraph that begins with its mark: "[1] See page 3." or "{1} See page 3.".
_PARAGRAPH = re.compile(
    rf"(?:\A|(?<=\n\n))[ \t]*(?P<mark>\[(?:{_LABEL})\]|\{{(?:{_LABEL})\}}):?[ \t]+\S(?:[^\n]|\n(?![ \t]*(?:\n|\Z)))*\n*"
)
# A mark behind a word, as in "word[1]" and "word {1}".
_MARK = re.compile(rf"(?<=[^\s\[{{])[ ]?(?P<mark>\[(?:{_LABEL})\]|\{{(?:{_LABEL})\}})")
_ANY_LABEL = re.compile(rf"[\[{{](?:{_LABEL})[\]}}]")
_HEADING = re.compile(r"(?:\A|(?<=\n))[ \t]*(?:FOOTNOTES?|NOTES)[:.]?[ \t]*\n+(?=\S|\Z)", re.IGNORECASE)


def footnotes(text: str) -> Cleaned:
    """Notes written `[Footnote 1: ...]`, or as paragraphs `[1] ...` and `{1} ...`, and the marks `word[1]` of those.

    A paragraph is a note only where its mark also stands behind a word, and a mark goes only with its note: `a[1]` in
    a text about programs stays. Margin notes `[Sidenote: ...]` go too.
    """
    removed = Tally()
    lower = text.lower()
    has_side_notes = "[sidenote" in lower
    has_labels = _ANY_LABEL.search(text) is not None
    if not has_labels and not has_side_notes and "[footnote" not in lower:
        return Cleaned(text)
    pointed_at = {match["mark"] for match in _MARK.finditer(text)} if has_labels else set()
    gone: set[str] = set()

    def bracketed(match: re.Match[str]) -> str:
        if match["label"]:
            gone.update((f"[{match['label']}]", f"{{{match['label']}}}"))
        removed.add("notes", len(match[0]))
        return ""

    def paragraph(match: re.Match[str]) -> str:
        if match["mark"] not in pointed_at:
            return match[0]
        gone.add(match["mark"])
        removed.add("notes", len(match[0]))
        return ""

    def mark(match: re.Match[str]) -> str:
        if match["mark"] not in gone:
            return match[0]
        removed.add("marks", len(match[0]))
        return ""

    if "[footnote" in lower:
        text = _BRACKETED.sub(bracketed, text)
    if pointed_at:
        text = _PARAGRAPH.sub(paragraph, text)
    if gone:
        text = _MARK.sub(mark, text)
        text = removed.cut(_HEADING, "headings", text)
    return Cleaned(removed.cut(_SIDENOTE, "side notes", text) if has_side_notes else text, removed)
