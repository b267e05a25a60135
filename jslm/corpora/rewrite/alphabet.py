"""The characters that a rewriter knows by default: those of languages with Latin letters, and what else people type."""

from __future__ import annotations

import functools
import string
import unicodedata
from typing import Final

# Letters with accents (Latin-1, Latin Extended-A), Greek and Cyrillic, as names have them.
_BLOCKS: Final = ((0x00A1, 0x017F), (0x0386, 0x03CE), (0x0400, 0x045F))
_MARKS: Final = "‐‑–—―‘’‚“”„†‡•…‰′″‹›⁄€₤₹№™←↑→↓−√∞≈≠≤≥■▪►●★☆☺♥♦✓✔✗"
_SUPERSCRIPTS: Final = "⁰⁴⁵⁶⁷⁸⁹₀₁₂₃₄"
# Romanian and Vietnamese letters, and what dictionaries spell with.
_LETTERS: Final = "ȘșȚțƒəʻʼẞḥṣṭạảấầẩẫậắằẳẵặẹẻẽếềểễệỉịọỏốồổỗộớờởỡợụủứừửữựỳỵỷỹ"


def wide_alphabet() -> str:
    """Each of them once: printable ASCII with tab and line feed first."""
    ascii_part = "".join(char for char in string.printable if char not in "\r\x0b\x0c")
    blocks = "".join(chr(code) for first, last in _BLOCKS for code in range(first, last + 1))
    kept = (char for char in blocks + _MARKS + _SUPERSCRIPTS + _LETTERS if _is_used(char))
    return "".join(dict.fromkeys(ascii_part + "".join(kept)))


def _is_used(char: str) -> bool:
    """Whether text in Unicode NFC can have it, and people see it."""
    return unicodedata.normalize("NFC", char) == char and unicodedata.category(char) not in ("Cf", "Cn", "Zs", "Mn")


@functools.cache
def letters(script: str) -> str:
    """The small letters of the wide alphabet in a script: `LATIN`, `GREEK` or `CYRILLIC`."""
    return "".join(
        char for char in wide_alphabet() if char.islower() and unicodedata.name(char, "").startswith(f"{script} ")
    )
