"""Page numbers that scanning left in a text."""

from __future__ import annotations

import re

from jslm.text.cleaners.base import Cleaned, Tally

# Written as nothing else would be: [Page 12], {pg 12}, - 12 -, a form feed with a number.
_INLINE = re.compile(
    r"[ \t]?(?:\[(?:p\.|pp?g\.?|page)[ ]?(?:\d{1,4}|[ivxlc]{1,7})\]|\{(?:p\.|pg\.?|page)[ ]?\d{1,4}\})", re.IGNORECASE
)
_LINES = re.compile(
    r"\n[ \t]*+(?:[-–—~][ ]?\d{1,4}[ ]?[-–—~]|page[ ]\d{1,4}(?:[ ]of[ ]\d{1,4})?)[ \t]*(?=\n|\Z)", re.IGNORECASE
)
_FORM_FEED = re.compile(r"\f[ \t]*\d{1,4}[ \t]*(?=\n|\Z)")
# A number alone on a line: a page's, a chapter's, a year.
_BARE = re.compile(r"(?<!\n)(?P<gap>\n++)[ \t]*+\[?(?P<number>\d{1,4})\]?[ \t]*(?=\n|\Z)")
_NEWLINES = re.compile(r"\n*")
_MIN_BARE = 3
_MAX_STEP = 3


def page_numbers(text: str) -> Cleaned:
    """Text without page numbers.

    `[Page 12]`, `- 12 -` and the like always go. A bare number on a line goes where such numbers count upwards and at
    least a quarter of them stand in the middle of a sentence, as pages end and chapters don't. A sentence that is cut
    in two by one becomes whole.
    """
    removed = Tally()
    lower = text.lower()
    if "[p" in lower or "{p" in lower:
        text = removed.cut(_INLINE, "marked page numbers", text)
    text = removed.cut(_LINES, "marked page numbers", text, "\n")
    text = removed.cut(_FORM_FEED, "marked page numbers", text)
    numbers = list(_BARE.finditer(text))
    if len(numbers) < _MIN_BARE:
        return Cleaned(text, removed)
    rising = _longest_count(numbers)
    cuts = [_is_mid_sentence(text, match) for match in rising]
    if len(rising) < _MIN_BARE or 4 * sum(cuts) < len(rising):
        return Cleaned(text, removed)
    parts: list[str] = []
    position = 0
    for match, is_cut in zip(rising, cuts, strict=True):
        before, end = text[position : match.end("gap")], match.end()
        if is_cut:
            before = before.rstrip() + "\n"
            end = _NEWLINES.match(text, end).end()  # type: ignore[union-attr]
        parts.append(before)
        removed.add("page numbers", match.end() - match.end("gap"))
        position = end
    parts.append(text[position:])
    return Cleaned("".join(parts), removed)


def _longest_count(numbers: list[re.Match[str]]) -> list[re.Match[str]]:
    """The longest series of numbers that goes up, by 1 or a little more where pages have none."""
    # Of each value: the best series that ends with it, as its length and its last member.
    ends: dict[int, tuple[int, int]] = {}
    previous: list[int] = []
    for index, match in enumerate(numbers):
        value = int(match["number"])
        length, before = max(
            (ends.get(value - step, (0, -1)) for step in range(1, _MAX_STEP + 1)), key=lambda end: end[0]
        )
        previous.append(before)
        if length + 1 >= ends.get(value, (0, -1))[0]:
            ends[value] = (length + 1, index)
    index = max(ends.values())[1]
    series = []
    while index >= 0:
        series.append(numbers[index])
        index = previous[index]
    return series[::-1]


def _is_mid_sentence(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - 200) : match.start()].rstrip()
    after = text[match.end() : match.end() + 200].lstrip()
    return bool(before) and (before[-1].isalnum() or before[-1] in ",;-—") and after[:1].islower()
