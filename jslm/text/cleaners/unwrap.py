"""Hard-wrapped lines to paragraphs of one line each; verse, tables and dialogue keep theirs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable

from jslm.text.cleaners.base import Cleaned, Tally

# Lines of prose shorter than this are not what wrapping leaves.
_MIN_WIDTH = 40
# A document is hard-wrapped where its long lines end at about one width; lines longer than this are paragraphs already.
_MAX_WIDTH = 120
# A line is full where the next word would have gone past this share of the width: not all typists fill their lines.
_FULL = 0.77
# A line this short ends on purpose where the next begins with a capital: a speaker's name, a heading, an address.
_SHORT = 0.55
_PROSE_SHARE = 0.7
_VERSE_CAPITALS = 0.85
# Of the lines in a block, so many beside the first may be such before it is no prose.
_SHORT_SHARE = 0.2
_BLOCK = re.compile(r"(?<![^\n])[ \t]*[^\s][^\n]*(?:\n[ \t]*[^\s][^\n]*)+")
_TABLE = re.compile(r"\S(?: {3,}| ?\t+ ?|(?: ?\.){6,} *)\S|^[ \t]*[|+]", re.MULTILINE)
# What the pattern can't match without, looked for first because it is quick.
_TABLE_SIGNS = ("   ", "\t", "|", "+", ". . .", "......")
_CENTRED = " " * 16
_OPENING = re.compile(r"[\s\"'“‘«„_*(\[—-]*")
_LEFT_HALF = re.compile(r"[^\W\d_]+(?=-\Z)")
_RIGHT_HALF = re.compile(r"[^\W\d_]+")
# Halves of words at line ends are no words, so they can't vouch for themselves.
_WORD = re.compile(r"(?<![\w-])[^\W\d_]+(?:-[^\W\d_]+)*(?![\w-])(?!-\n)")


def unwrap(text: str) -> Cleaned:
    """Joins the lines of hard-wrapped paragraphs with a space, and the halves of words that a hyphen cut at line ends.

    A block of lines between empty ones is prose where most of its lines are full for the document's width. Verse (short
    lines, or nearly all with capitals), tables (columns, dot leaders) and lists keep their lines; in prose, a short
    line before a capital or in capitals (a speaker's name, a heading) keeps its break. At a line's end a dash
    takes no space. A hyphen there goes where the text has the word without it elsewhere, or where the left half is no
    word of the text; `well-known` keeps its.
    """
    width = _wrap_width(text)
    if not width:
        return Cleaned(text)
    removed = Tally()

    @functools.cache
    def words() -> frozenset[str]:
        return frozenset(_WORD.findall(text.lower()))

    def block(match: re.Match[str]) -> str:
        return _join_block(match[0], width, words, removed)

    return Cleaned(_BLOCK.sub(block, text), removed)


def _wrap_width(text: str) -> int:
    """The width at which the lines are wrapped: of the longer ones, the 95th percentile; 0 where they are not."""
    lengths = sorted(n for n in map(len, text.split("\n")) if n > _MIN_WIDTH)
    if not lengths:
        return 0
    width = lengths[int(0.95 * (len(lengths) - 1))]
    return width if width <= _MAX_WIDTH else 0


def _join_block(block: str, width: int, words: Callable[[], frozenset[str]], removed: Tally) -> str:
    lines = block.split("\n")
    last = len(lines) - 1
    if block.startswith(_CENTRED):
        return block
    short, enough = _SHORT * width, _FULL * width
    full = kept = capitals = 0
    keeps = [False] * len(lines)
    for index in range(last):
        line, following = lines[index], lines[index + 1]
        length, letter = len(line), following[0]
        if not letter.isalpha():
            letter = following[_OPENING.match(following).end() :][:1]  # type: ignore[union-attr]
        is_capital = letter.isupper()
        capitals += is_capital
        if length < short:
            if is_capital or line.isupper():
                keeps[index + 1] = True
                kept += 1
        elif length > enough or letter.islower() or length + 1 + len(following.split(None, 1)[0]) > enough:
            full += 1
    is_verse = last >= (2 if block[0] == " " else 3) and capitals >= _VERSE_CAPITALS * last
    if kept > 1 + _SHORT_SHARE * last or full == 0 or full < _PROSE_SHARE * (last - kept) or is_verse:
        return block
    if any(sign in block for sign in _TABLE_SIGNS) and 3 * len(_TABLE.findall(block)) > last:
        return block
    parts = [lines[0].rstrip()]
    for index in range(1, last + 1):
        line = lines[index].strip()
        if keeps[index]:
            parts.append("\n" + line)
            continue
        removed.add("line breaks", 1)
        before = parts[-1]
        if before[-1] == "-" and before[-2:-1] not in ("", " ", "-"):
            if _is_cut_word(before, line, words):
                parts[-1] = before[:-1]
                removed.add("hyphens", 1)
            parts.append(line)
        else:
            # A dash, long or typed as two hyphens, takes no space where the line ends with it.
            parts.append(line if before[-1] == "—" or before.endswith("--") else " " + line)
    return "".join(parts)


def _is_cut_word(before: str, line: str, words: Callable[[], frozenset[str]]) -> bool:
    """Whether the hyphen at the end of `before` is there for the line's end only."""
    left, right = _LEFT_HALF.search(before), _RIGHT_HALF.match(line)
    if not left or not right or right[0][0].isupper():
        return False
    first, second = left[0].lower(), right[0].lower()
    known = words()
    if first + second in known:
        return True
    return f"{first}-{second}" not in known and first not in known
