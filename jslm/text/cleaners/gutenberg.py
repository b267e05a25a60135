"""Project Gutenberg's books without what Project Gutenberg put around them."""

from __future__ import annotations

import re

from jslm.text.cleaners.base import Cleaned, Tally
from jslm.text.cleaners.gutenberg_frame import find_books

_NAME = re.compile(r"Pro(?:[jy]e[ck]?t\w{0,3}|getto)[ \n-]Gutenberg", re.IGNORECASE)
# How far from the beginning credits and notes are looked for, and notes from the end, in characters.
_HEAD = 8000
_HEAD_PARAGRAPHS = 20
_TAIL = 40_000
_TAIL_PARAGRAPHS = 3

_CREDITS = re.compile(
    r"""Project\sGutenberg|gutenberg\.(?:org|net)|pgdp\.net|Distributed\s+Proofread|archive\.org/details
      | generously\smade\savailable\sby
      | ^\W*(?:(?:This|The)\s+)?(?:e-?(?:text|book)|file|transcription)\s(?:was\s)?
        (?:prepared|produced|transcribed|created|scanned|proofed|typed|converted)\b
      | ^\W*(?:Produced|Prepared|Transcribed|Scanned|Proofed|Proofread|Typed|Digiti[sz]ed)
        (?:(?:,|\sand|\s&)\s\w+)*(?:\s+(?:by|from)\b|:)
      | ^\W*(?:HTML\sversion|Further\scorrections)\sby\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
# The heading of notes by those who made the file.
_NOTES_HEADING = r"""(?:
    (?:Transcri(?:ber|ption|ptionist)|Preparer|Producer|E-?text\s(?:editor|producer|preparer|transcriber))
        (?:['’]?s?['’]?)\s+(?:End\s?|Foot)?(?:Note|Comment|Correction|Amendment|Remark)s?\b
  | Notes?\s(?:of|on|from|by)\s(?:the\s|this\s)?(?:Transcriber|e-?text|e-?book)
  | (?:Typographical|Printer['’]?s['’]?)\s(?:errors?|mistakes?)\s[^\n]*(?:correct|transcri)
  | (?:Notes?\s(?:de|du|sur)\s(?:la\s)?transcri|Nota\s(?:del|do)\stranscri|Anmerkung(?:en)?\szur\sTranskr)
  | Au\slecteur\b(?=[^\n]*\s+(?:[^\n]+\n){0,6}?[^\n]*(?:\bitaliques\b|livre\s[ée]lectronique|typographiques))
)[^\n]*"""
_NOTES = re.compile(_NOTES_HEADING, re.VERBOSE | re.IGNORECASE)
_NOTES_LINE = re.compile(r"(?:\A|(?<=\n\n))[ \t|_*=]*" + _NOTES_HEADING, re.VERBOSE | re.IGNORECASE)
_NOTE_WORDS = re.compile(
    r"\b(?:pages?|pg|p\.|line|changed|corrected|corrections?|typos?|typographical|spelling|hyphen\w*|punctuation|replaced"
    r"|original|printer|transcri\w+|errors?|missing|retained|inserted|removed|normali[sz]ed|edition|remplac\w+|corrig\w+)"
    r"\b|=>|→",
    re.IGNORECASE,
)
_CHARACTERS_A_NOTE_WORD = 250
_BRACKETED_NOTE = re.compile(
    r"\[(?:Transcriber|Transcription)(?:['’]?s?['’]?)?\s+(?:Note|Comment)s?\b(?:[^\[\]]++|\[[^\[\]]*+\])*+\]",
    re.IGNORECASE,
)
_ILLUSTRATION = re.compile(
    r"\[(?:Illustrations?|Picture|Vignette|Frontispiece(?=[\]:])|Image|Decoration|Blank Page)(?![\w-])"
    r"(?:[^\[\]]++|\[[^\[\]]*+\])*+\]",
    re.IGNORECASE,
)
_RULES_AT_END = re.compile(r"(?:\n[ \t]*+(?:[-*_=+|][ \t]*+){3,}+)+\s*\Z")
_BLANK_LINE = re.compile(r"\n(?:[ \t]*\n)+")
_WIDE_GAP = re.compile(r"\n(?:[ \t]*\n){2,}")


def gutenberg(text: str) -> Cleaned:
    """The books of a Project Gutenberg file, or of several in a row; text without that name in it stays as it is.

    Removed: header, licence and footer (the modern `*** START OF` and the "SMALL PRINT" of the 1990s), credits,
    transcribers' notes at both ends and in brackets, illustration markers with their captions.
    """
    removed = Tally()
    if not _NAME.search(text):
        return Cleaned(text)
    books = []
    for book in find_books(text, removed):
        book = removed.cut(_BRACKETED_NOTE, "transcriber's notes", book)
        book = _strip_head(_strip_tail(book, removed), removed)
        books.append(_strip_illustrations(book, removed))
    return Cleaned("\n\n\n".join(filter(None, books)), removed)


def _strip_head(book: str, removed: Tally) -> str:
    """Without the credits and notes among the first paragraphs."""
    kept: list[str] = []
    position = 0
    for _ in range(_HEAD_PARAGRAPHS):
        gap = _BLANK_LINE.search(book, position)
        if gap is None or gap.end() > _HEAD:
            break
        paragraph = book[position : gap.end()]
        # Some notes stand in a box of +, - and |.
        heading = _NOTES.match(book, position + len(paragraph) - len(paragraph.lstrip(" \t\n+|*=_-")))
        if heading:
            end = _notes_end(book, heading)
            end = end if end - position < _HEAD else gap.end()
            removed.add("transcriber's notes", end - position)
            position = end
            continue
        if _CREDITS.search(paragraph.strip()):
            removed.add("credits", len(paragraph))
        else:
            kept.append(paragraph)
        position = gap.end()
    return "".join(kept) + book[position:]


def _strip_tail(book: str, removed: Tally) -> str:
    """Without the notes at the end, and credits in the last paragraphs."""
    start = max(0, len(book) - _TAIL)
    tail = book[start:]
    while notes := _NOTES_LINE.search(tail):
        end = _notes_end(tail, notes)
        removed.add("transcriber's notes", end - notes.start())
        tail = _RULES_AT_END.sub("", tail[: notes.start()].rstrip()) + "\n\n\n" + tail[end:].lstrip("\n")
    book = book[:start] + tail
    for _ in range(_TAIL_PARAGRAPHS):
        stripped = book.rstrip()
        last = stripped.rfind("\n\n") + 1
        if not last or not _CREDITS.search(stripped[last:].strip()):
            break
        removed.add("credits", len(book) - last)
        book = stripped[:last]
    return book.strip("\n")


def _notes_end(text: str, heading: re.Match[str]) -> int:
    """Where the notes under a heading end: at a gap of two empty lines or more, or with the text.

    They may come in several parts; a further one that does not speak of pages and errors is the book's.
    """
    end = heading.end()
    # The note itself may stand on the heading's line.
    is_first = not heading[0].partition(":")[2].strip(" |*_=")
    while gap := _WIDE_GAP.search(text, end):
        if text[end : gap.start()].strip():
            is_first = False
        following = _WIDE_GAP.search(text, gap.end())
        part = text[gap.end() : following.start() if following else len(text)]
        if not is_first and len(_NOTE_WORDS.findall(part)) * _CHARACTERS_A_NOTE_WORD < len(part):
            return gap.end()
        end, is_first = gap.end() + len(part), False
    return len(text)


def _strip_illustrations(book: str, removed: Tally) -> str:
    """Without the markers; a paragraph that one of them interrupts is whole again."""
    parts: list[str] = []
    position = 0
    for mark in _ILLUSTRATION.finditer(book):
        before = book[position : mark.start()]
        position = mark.end()
        line = before.rstrip(" \t")
        after = book[position : position + 200]
        rest = after.lstrip()
        if (not line or line[-1] == "\n") and after.lstrip(" \t")[:1] in ("\n", ""):
            # A marker with lines of its own.
            position += len(after) - len(rest) - _indentation(after, rest)
            above = line.rstrip()
            gap = max(len(line) - len(above), after[: len(after) - len(rest)].count("\n"))
            if above and (above[-1].isalpha() or above[-1] in ",;") and rest[:1].islower():
                gap = 1
            parts += [above, "\n" * (gap if above or parts else 0)]
            removed.add("illustrations", len(mark[0]))
        else:
            parts.append(before[:-1] if before[-1:] == " " and after[:1] in " .,;:" else before)
            removed.add("illustrations", len(mark[0]))
    parts.append(book[position:])
    return "".join(parts)


def _indentation(after: str, rest: str) -> int:
    """Spaces at the beginning of the line on which `rest`, the end of `after`, starts."""
    space = after[: len(after) - len(rest)]
    return len(space) - space.rfind("\n") - 1
