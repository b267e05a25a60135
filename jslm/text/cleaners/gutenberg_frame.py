"""Where the books of a Project Gutenberg file are: between its headers, licences and footers, from 1990 to today."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from jslm.text.cleaners.base import Tally

# The name as files in several languages write it: Projekt, Projet, Proyecto, Projeto, Progetto, Project Gutenbergin.
_PROJECT = r"Pro(?:[jy]e[ck]?t\w{0,3}|getto)(?:[ ]|-)Gutenberg"
# Every kind of line that begins or ends a book or a licence; titles run over several lines.
_MARKS = re.compile(
    rf"""^[ \t]*(?:
        (?P<start>
            \*{{3}}[ ]?(?:START|BEGIN(?:NING)?)[ ]OF[ ](?:TH(?:E|IS)[ ])?(?:COPYRIGHTED[ ])?{_PROJECT}
            [^*]{{0,400}}\*{{3}}[^\n]*
          | \*{{3}}[ ]?(?:D[ÉE]BUT|ANFANG|BEGINN|BEGIN|INICIO|INÍCIO|COMIENZO|INIZIO|ALKU)\b[^*\n]{{0,60}}{_PROJECT}
            [^*]{{0,400}}\*{{3}}[^\n]*
        )
      | (?P<print>\*{{2,}}[ ]?START[* ]+(?:OF[ ])?THE[ ]SMALL[ ]PRINT![^\n]*)
      | (?P<printed>\*?END[* ]+(?:OF[ ])?THE[ ]SMALL[ ]PRINT![^\n]*)
      | (?P<end>
            \*{{3}}[ ]?END[ ]OF[ ](?:TH(?:E|IS)[ ])?(?:COPYRIGHTED[ ])?{_PROJECT}[^\n]*
          | [*<]*[ ]?(?:This[ ]is[ ]the[ ])?(?:The[ ])?End[ ]of[ ](?:th(?:e|is)[ ])?(?:COPYRIGHTED[ ])?
            (?:{_PROJECT}|(?:e-?text|e-?book)[ ](?:of|from)[ ]{_PROJECT})[^\n]*
          | [*<]*[ ]?(?:
                Fin[ ](?:de|du|del|d['’]) | Ende[ ](?:de[sr]|diese[sr]?|von) | Einde[ ](?:van|dezes|dit|deze)
              | Fine[ ](?:di|del|dell['’ao]|dello) | Fim[ ](?:de|d[aeo]|dest[ae])
              | Slut[ ]p[åa] | Slut(?:ten|ningen)?[ ]a[fv] | Loppu\b | Fi[ ]del?
            )\b[^\n]{{0,60}}?{_PROJECT}[^\n]*
          | [*<]*[ ]?(?:
                Ende[ ]dieses[ ]Etextes | Fin[ ]de[ ](?:ce[t]?|cette|l['’])[ ]?e-?text | Fin[ ]de[ ]este[ ]e-?text
              | Fine[ ]di[ ]questo[ ]e-?text | Fim[ ]deste[ ]e-?text
            )\w*[^\n]{{0,80}}
          | [^\n]{{0,80}}{_PROJECT}\w*[^\n]{{0,80}}[ ]loppu[.!]?[ \t]*(?=\n|\Z)
          | \*\*This[ ]is[ ]a[ ]COPYRIGHTED[ ]{_PROJECT}[ ]Etext,[ ]Details[ ]Above[^\n]*
          | \*{{3}}[ ]?START:[ ]FULL[ ]LICENSE[^\n]*
        )
    )(?:\n|\Z)""",
    re.MULTILINE | re.VERBOSE | re.IGNORECASE,
)
# What paragraphs of headers, licences and footers speak of, and those of books hardly ever do.
_FRAME = re.compile(
    rf"""{_PROJECT}|gutenberg\.(?:org|net)|\be-?texts?\b|\be-?books?\b|\bplain\svanilla\b|small\sprint
      | Copyright\slaws\sare|redistribut|electronic\swork|\bthe\sFoundation\b|\bdonations?\b|\btrademark\b
      | More\sinformation\sabout\sthis\sbook|Details\s(?:Above|Below)|Prepared\sBy\s(?:Hundreds|Thousands)\sof
      | This\sheader\sshould\sbe|in\sour\sseries|Midnight,\sCentral\sTime|till\smidnight
      | one\s(?:year|month)\sin\sadvance|\bMichael\sS?\.?\s?Hart|\btax\sdeductible
      | (?:two|one)\smillion\sdollars|^(?:WARRANTY|INDEMNITY|LIABILITY|DISCLAIMER|LIMITED\sWARRANTY)|\b(?:ftp|https?)\b
      | ^\W*\d\.[A-F](?:\.\d)?\.|Yes,\swe\sare\s(?:more\sthan\s)?one|first\sposted\son|This\sfile\sshould\sbe
      | ^\W*(?:Title|Subtitle|Author|Translator|Editor|Illustrator|Annotator|Contributor|Commentator
        |Release\sDate|Posting\sDate|Edition|Language|Character\sset(?:\sencoding)?|Most\srecently\supdated|Last\sUpdated?)s?:
      | ^\W*(?:Titre|Auteur|Titel|Autor|Sprache|Langue|Idioma|Lingua|Taal|Kieli|Titolo|T[ií]tulo)\s?:
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BLANK_LINE = re.compile(r"\n(?:[ \t]*\n)+")
# Between the small print and the modern line, where a file has both, stands no book.
_BETWEEN_STARTS = 5000
# So much that no header and no footer says makes a book of what stands where they should.
_BOOK = 5000
# What may follow a small print that stands at the end.
_AFTER_ALL = 200
# From a small print's first line to its last.
_PRINT = 25_000
_TAIL_PARAGRAPHS = 60

Kind = Literal["", "start", "end"]


@dataclass(frozen=True, slots=True)
class _Mark:
    start: int
    end: int
    # What it is to the text around it: a book begins behind it, or ends before it.
    kind: Kind
    # A small print at the end, in front of which stand further words of the footer.
    is_print: bool = False


def is_framed(text: str) -> bool:
    """Whether a line of the text begins or ends a book or a licence of Project Gutenberg."""
    # The pattern of all its lines is slow where none of them is.
    return ("Gutenberg" in text or "GUTENBERG" in text) and _MARKS.search(text) is not None


def find_books(text: str, removed: Tally) -> list[str]:
    """What stands between a header and a footer; counts both.

    The small print of the 1990s ends a header, and in some years it stood at the end: what is around it decides. What
    is not framed at all, or stands where a header or a footer should and is none, is kept without the paragraphs at its
    ends that are.
    """
    marks = [*_joined(text)]
    books: list[str] = []
    left: Kind = ""
    position = 0
    for number in range(len(marks) + 1):
        mark = marks[number] if number < len(marks) else _Mark(len(text), len(text), "")
        segment = text[position : mark.start]
        if _is_book(segment, left, mark.kind):
            stripped = segment if left == "start" else _without_head(segment, removed)
            if mark.is_print or left != "start":
                stripped = _without_tail(stripped, removed)
            books.append(stripped)
        else:
            removed.add("footer" if left == "end" else "header", len(segment))
        removed.add("header" if mark.kind == "start" else "footer", mark.end - mark.start)
        left, position = mark.kind, mark.end
    return books


def _is_book(segment: str, left: Kind, right: Kind) -> bool:
    """Whether what stands between two kinds of marks ("": the ends of the file) is a book."""
    if left == "start":
        return right != "start" or (len(segment) > _BETWEEN_STARTS and _is_mostly_book(segment))
    if left == "" and right != "start":
        return True
    # Here a header or a licence belongs.
    return len(segment) >= _BOOK and _is_mostly_book(segment)


def _is_mostly_book(text: str) -> bool:
    return 2 * _book_characters(text) > len(text)


def _joined(text: str) -> list[_Mark]:
    """The marks in their order, a small print being one: at a header's end, or at the end of all."""
    found = list(_MARKS.finditer(text))
    marks: list[_Mark] = []
    number = 0
    while number < len(found):
        mark = found[number]
        number += 1
        begin, end = mark.span()
        if mark["start"] or mark["end"]:
            marks.append(_Mark(begin, end, "start" if mark["start"] else "end"))
            continue
        if mark["print"]:
            closing = found[number] if number < len(found) else None
            if closing is None or not closing["printed"] or closing.start() - end > _PRINT:
                # Its end was cut off.
                marks.append(_Mark(begin, end, "end", is_print=True))
                continue
            end = closing.end()
            number += 1
        before = text[marks[-1].end if marks else 0 : begin]
        if number == len(found) and (after := _book_characters(text[end:])) < _AFTER_ALL:
            closes = _book_characters(before) > 0 or (not after and bool(marks))
        else:
            # Of several files in a row, this may end the first.
            closes = _is_mostly_book(before)
        marks.append(_Mark(begin, end, "end" if closes else "start", is_print=closes))
    return marks


def _book_characters(text: str) -> int:
    """Characters in paragraphs that no header and no footer has; where these are over half of all, that is enough."""
    said = 0
    for paragraph in _BLANK_LINE.split(text):
        if not _FRAME.search(paragraph.strip()):
            said += len(paragraph.strip(" \n\t*-_=#"))
            if 2 * said > len(text):
                break
    return said


def _without_head(segment: str, removed: Tally) -> str:
    """Without the paragraphs at the beginning that a header has; up to the first that is the book's."""
    position = 0
    while gap := _BLANK_LINE.search(segment, position):
        paragraph = segment[position : gap.start()].strip()
        if paragraph.strip("*-_=# \n") and not _FRAME.search(paragraph):
            break
        position = gap.end()
    removed.add("header", position)
    return segment[position:]


def _without_tail(segment: str, removed: Tally) -> str:
    """Without the paragraphs at the end that a footer has."""
    kept = segment
    for _ in range(_TAIL_PARAGRAPHS):
        stripped = kept.rstrip()
        last = max(stripped.rfind("\n\n"), 0)
        if not last or not _FRAME.search(stripped[last:].strip()):
            break
        kept = stripped[:last]
    removed.add("footer", len(segment) - len(kept))
    return kept
