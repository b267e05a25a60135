"""Documents before and after the cleaners, side by side in the terminal."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from itertools import islice, zip_longest

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.prepare.removed import removed_lines
from jslm.text.documents import Document, clean_document, read_raw_documents

MIN_COLUMN = 30
EXCERPT_LINES = 14
EXCERPT_CHARACTERS = 3000
_ANCHOR_WORDS = 8
_UNPRINTABLE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


def preview(config: DataConfig, count: int, width: int = 0) -> Iterator[str]:
    """Lines that show the first `count` documents: what each cleaner removed, and both texts in two columns.

    Long documents are shown at their beginning, in the middle (at the same place in both) and at their end. `width` is
    that of the whole, 0 for the terminal's. Raises JslmError as `read_documents` does, and for a count under 1.
    """
    if count < 1:
        raise JslmError(f"--preview {count}: give a number of documents, such as --preview 3")
    column = max(MIN_COLUMN, ((width or shutil.get_terminal_size((160, 24)).columns) - 3) // 2)
    documents = (document for document in read_raw_documents(config) if document.text.strip())
    number = 0
    for number, document in enumerate(islice(documents, count), start=1):
        yield from _show(number, document, clean_document(document, config), config, column)
    if number == 0:
        raise JslmError(f"data.source: no text in {', '.join(config.sources)}; every file in it is empty or blank")
    if not config.cleaners:
        yield "data.cleaners is empty: the texts stay as they are"


def _show(number: int, before: Document, after: Document, config: DataConfig, column: int) -> Iterator[str]:
    yield "=" * (2 * column + 3)
    yield (
        f"document {number}: {before.source}, {len(before.text):,} characters before, {len(after.text):,} after"
        + ("" if after.text.strip() else " (nothing is left: it will be passed over)")
    )
    yield from removed_lines(after.removed, list(config.cleaners))
    yield from (f"cleaner {cleaner}: removes {share:.0%} of this document" for cleaner, share in after.gutted.items())
    for title, left, right in _excerpts(before.text, after.text):
        yield f"--- before, {title} ".ljust(column, "-") + "-+-" + f" after, {title} ".ljust(column, "-")
        rows = zip_longest(_wrap(left, column, title), _wrap(right, column, title), fillvalue="")
        yield from (f"{first.ljust(column)} | {second}".rstrip() for first, second in rows)


def _excerpts(before: str, after: str) -> Iterator[tuple[str, str, str]]:
    """Title, and both texts from about the same place on."""
    if max(len(before), len(after)) <= EXCERPT_CHARACTERS:
        yield "all", before, after
        return
    yield "beginning", before[:EXCERPT_CHARACTERS], after[:EXCERPT_CHARACTERS]
    middle = after.find("\n", len(after) // 2) + 1 or len(after) // 2
    text = after[middle : middle + EXCERPT_CHARACTERS].lstrip("\n")
    # White space is what cleaners change most.
    anchor = r"\s+".join(map(re.escape, text.split(maxsplit=_ANCHOR_WORDS)[:_ANCHOR_WORDS]))
    found = re.compile(anchor).search(before) if anchor else None
    start = found.start() if found else len(before) // 2
    yield "middle", before[start : start + EXCERPT_CHARACTERS], text
    yield "end", before[-EXCERPT_CHARACTERS:], after[-EXCERPT_CHARACTERS:]


def _wrap(text: str, column: int, title: str) -> list[str]:
    """Lines of at most `column` characters: the first or, of an end, the last of them."""
    lines: list[str] = []
    for line in text.expandtabs().split("\n"):
        visible = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", line)
        lines += textwrap.wrap(visible, column, drop_whitespace=False, replace_whitespace=False) or [""]
    if title == "end":
        return lines[-EXCERPT_LINES:]
    return lines if title == "all" and len(lines) <= 3 * EXCERPT_LINES else lines[:EXCERPT_LINES]
