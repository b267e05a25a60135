"""What every cleaner gives back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Cleaned:
    """A text, and how many characters were taken out of it (or mended in place) by what they were."""

    text: str
    removed: Mapping[str, int] = field(default_factory=dict)


class Tally(dict[str, int]):
    """Counts what is removed; a name without anything removed does not appear."""

    def add(self, name: str, characters: int) -> None:
        """Counts `characters` more under `name`; a text that grew has lost none."""
        if characters > 0:
            self[name] = self.get(name, 0) + characters

    def cut(self, pattern: re.Pattern[str], name: str, text: str, replacement: str = "") -> str:
        """`pattern.sub(replacement, text)`, with the difference in length counted under `name`."""
        result = pattern.sub(replacement, text)
        self.add(name, len(text) - len(result))
        return result
