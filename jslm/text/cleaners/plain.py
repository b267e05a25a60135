"""Cleaners for any text: characters and white space, wrong decoding, emphasis marks, markup."""

from __future__ import annotations

import re

from jslm.prompts.as_read import plain_characters, without_control
from jslm.text.cleaners.base import Cleaned, Tally
from jslm.text.readers.markup import html_to_text
from jslm.text.readers.problems import need

_LINE_END = re.compile(r"(?<![ \t])[ \t]++(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{3,}")
# Typists put two spaces behind a sentence. More of them, or elsewhere, may line up a table.
_SENTENCE_SPACE = re.compile(r"  (?=\S)(?<=[.!?:;,\"'’”)]  )")
_EMPHASIS = re.compile(
    r"(?<![^\W_])(?<![_=])(?P<mark>[_=])(?=[^\s_=])(?P<text>[^_=]{0,1000}?(?<=[^\s_=]))(?P=mark)(?![^\W_])(?![_=])"
)
_MARKUP = re.compile(r"</?[A-Za-z!][^<>]*>|&(?:#\d+|#x[0-9a-fA-F]+|[A-Za-z]\w*);")


def normalize(text: str) -> Cleaned:
    """Unicode NFC, control characters gone, white space in order.

    No-break and typographic spaces become spaces, form feeds and Unicode's line separators line breaks; spaces at line
    ends go, two spaces behind a sentence become one, empty lines become one, and the text begins and ends with neither.
    Indentation and runs of spaces inside lines stay: tables and verse need them.
    """
    removed = Tally()
    printable = without_control(text)
    removed.add("control characters", len(text) - len(printable))
    text = plain_characters(printable)
    removed.add("composed characters", len(printable) - printable.count("\r\n") - len(text))
    length = len(text)
    # Looking for what the patterns need is much quicker than the patterns.
    if " \n" in text or "\t\n" in text:
        text = _LINE_END.sub("", text)
    if "  " in text:
        text = _SENTENCE_SPACE.sub(" ", text)
    if "\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n", text)
    text = text.strip("\n").rstrip()
    removed.add("white space", length - len(text))
    return Cleaned(text, removed)


def emphasis(text: str) -> Cleaned:
    """`_italics_` and `=bold=`, as plain-text books write them, without the marks; snake_case and a=b stay."""
    removed = Tally()
    return Cleaned(removed.cut(_EMPHASIS, "marks", text, r"\g<text>"), removed)


def mojibake(text: str) -> Cleaned:
    """UTF-8 that was once decoded as another encoding (`cafÃ©`), mended by ftfy; quotes and ligatures stay as they are.

    Speer 2019, "ftfy: fixes text for you". Counted: the characters of the lines that changed.
    """
    if text.isascii():
        return Cleaned(text)
    ftfy = need("ftfy", "the cleaner mojibake")
    lines = text.split("\n")
    changed = 0
    for index, line in enumerate(lines):
        if not line.isascii():
            lines[index] = str(ftfy.fix_encoding(line))
            changed += len(line) if lines[index] != line else 0
    return Cleaned("\n".join(lines), {"characters in mended lines": changed} if changed else {})


def html(text: str) -> Cleaned:
    """Markup becomes text as in `html_to_text`; text without a tag or an entity stays as it is."""
    if not _MARKUP.search(text):
        return Cleaned(text)
    removed = Tally()
    plain = html_to_text(text)
    removed.add("markup", len(text) - len(plain))
    return Cleaned(plain, removed)
