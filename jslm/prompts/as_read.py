"""A stretch of text as models read it: the same for what is learned, continued, answered and measured."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

# Control characters but tab and LF, and characters without width or meaning of their own. Zero-width joiners stay:
# Persian, Hindi and emoji need them. Form feeds and the like are white space, and become line breaks.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ufffe\uffff]")
_LINE_BREAK = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACE = re.compile("[\xa0\u2000-\u200a\u202f\u205f\u3000]")


def as_read(text: str, cleaners: Sequence[str] = ()) -> str:
    """A value of a record, a prompt or a message as a model reads it whose `data.cleaners` were these.

    CRLF and CR are LF, and byte order marks in front are no text, as `readers.text.decode` has it of files. With
    `normalize` among the cleaners the characters are those that it leaves (NFC and so on). What cleaners do to whole
    documents, such as removing a header or the white space at both ends, is theirs alone: a prompt may end in a space.
    Applying it twice changes nothing more.
    """
    text = text.lstrip("\N{ZERO WIDTH NO-BREAK SPACE}")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return plain_characters(text) if "normalize" in cleaners else text


def plain_characters(text: str) -> str:
    """Unicode NFC; no-break and typographic spaces as spaces, Unicode's line breaks as LF; no control characters."""
    text = _LINE_BREAK.sub("\n", without_control(text))
    # Last: a control character may have stood between a letter and its accent.
    return text if text.isascii() else unicodedata.normalize("NFC", _SPACE.sub(" ", text))


def without_control(text: str) -> str:
    """Without control characters and those that have neither width nor meaning."""
    return _CONTROL.sub("", text)
