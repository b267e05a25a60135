"""What the cleaners took out of a corpus, added up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from jslm.text.documents import Document

# Characters by cleaner and by what they were.
Removed = dict[str, dict[str, int]]


def add_removed(totals: Removed, document: Document) -> None:
    """Adds what was removed from one document."""
    for cleaner, parts in document.removed.items():
        into = totals.setdefault(cleaner, {})
        for what, characters in parts.items():
            into[what] = into.get(what, 0) + characters


def removed_lines(totals: Mapping[str, Mapping[str, int]], cleaners: list[str]) -> Iterator[str]:
    """A line a cleaner, in their order, for people."""
    for cleaner in cleaners:
        parts = sorted(totals.get(cleaner, {}).items(), key=lambda part: -part[1])
        found = ", ".join(f"{what} {characters:,}" for what, characters in parts)
        yield f"cleaner {cleaner}: {found or 'nothing'}{' character(s)' if found else ''}"
