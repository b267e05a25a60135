"""Cleaners: small pure functions from text to `Cleaned`, chosen and put in order by `data.cleaners`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from jslm.text.cleaners.base import Cleaned
from jslm.text.cleaners.footnotes import footnotes
from jslm.text.cleaners.gutenberg import gutenberg
from jslm.text.cleaners.pages import page_numbers
from jslm.text.cleaners.plain import emphasis, html, mojibake, normalize
from jslm.text.cleaners.screenplay import screenplay
from jslm.text.cleaners.unwrap import unwrap

__all__ = ["CLEANERS", "Cleaned", "apply_cleaners"]

CLEANERS: dict[str, Callable[[str], Cleaned]] = {
    "emphasis": emphasis,
    "footnotes": footnotes,
    "gutenberg": gutenberg,
    "html": html,
    "mojibake": mojibake,
    "normalize": normalize,
    "page_numbers": page_numbers,
    "screenplay": screenplay,
    "unwrap": unwrap,
}


def apply_cleaners(text: str, names: Sequence[str]) -> tuple[str, dict[str, dict[str, int]], dict[str, float]]:
    """The text after each cleaner in turn, what each of them removed (characters by what they were), and the share, in
    (0.5, 1], that those took which took over half of it, white space apart."""
    removed: dict[str, dict[str, int]] = {}
    gutted: dict[str, float] = {}
    for name in names:
        cleaned = CLEANERS[name](text)
        before, after = _visible(text), _visible(cleaned.text)
        if 2 * after < before:
            gutted[name] = 1 - after / before
        text = cleaned.text
        if cleaned.removed:
            totals = removed.setdefault(name, {})
            for what, characters in cleaned.removed.items():
                totals[what] = totals.get(what, 0) + characters
    return text, removed, gutted


def _visible(text: str) -> int:
    """About how many characters are no white space: scripts are half indentation."""
    return len(text) - sum(map(text.count, " \n\t\r\f"))
