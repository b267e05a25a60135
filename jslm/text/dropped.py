"""What selection dropped from a corpus: counts and a few examples a reason, which add up across processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from jslm.text.document import Document

EXCERPT_CHARACTERS = 160
SHOWN_SOURCES = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a document goes: the rule's name, and what it found and allows."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Example:
    """Something dropped: where it stood, the figure that decided, and how its text begins."""

    source: str
    detail: str
    excerpt: str


@dataclass(slots=True)
class Dropped:
    """What went for one reason: `items` are documents, or lines where the reason is about lines."""

    items: int = 0
    characters: int = 0
    examples: list[Example] = field(default_factory=list)


@dataclass(slots=True)
class DropReport:
    """Documents and characters seen and kept, and what was dropped by reason.

    `example_limit` examples are kept a reason, the first in the order of the documents. Reports of consecutive parts of
    a corpus, merged in that order, are equal to the report of the whole, whatever the parts.
    """

    example_limit: int = 3
    documents_seen: int = 0
    documents_kept: int = 0
    characters_seen: int = 0
    characters_kept: int = 0
    reasons: dict[str, Dropped] = field(default_factory=dict)

    def see(self, document: Document) -> None:
        """Counts a document that came in."""
        self.documents_seen += 1
        self.characters_seen += len(document.text)

    def keep(self, document: Document) -> None:
        """Counts a document that goes on."""
        self.documents_kept += 1
        self.characters_kept += len(document.text)

    def judge(self, document: Document, verdict: Verdict | None) -> bool:
        """Counts a document that came in, and what became of it; whether it goes on, as without a verdict it does."""
        self.see(document)
        if verdict is None:
            self.keep(document)
        else:
            self.drop(verdict.reason, document.source, document.text, verdict.detail)
        return verdict is None

    def drop(self, reason: str, source: str, text: str, detail: str) -> None:
        """Counts a document or a line that goes."""
        dropped = self.reasons.setdefault(reason, Dropped())
        dropped.items += 1
        dropped.characters += len(text)
        if len(dropped.examples) < self.example_limit:
            # A slice first: splitting a whole book for its first words would cost more than the filter.
            words = " ".join(text[: 4 * EXCERPT_CHARACTERS].split())
            excerpt = words if len(words) <= EXCERPT_CHARACTERS else words[: EXCERPT_CHARACTERS - 1] + "…"
            dropped.examples.append(Example(source, detail, excerpt))

    def merge(self, other: DropReport) -> None:
        """Adds the report of the part of the corpus that follows."""
        self.documents_seen += other.documents_seen
        self.documents_kept += other.documents_kept
        self.characters_seen += other.characters_seen
        self.characters_kept += other.characters_kept
        for reason, more in other.reasons.items():
            dropped = self.reasons.setdefault(reason, Dropped())
            dropped.items += more.items
            dropped.characters += more.characters
            dropped.examples += more.examples[: self.example_limit - len(dropped.examples)]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `meta.json`; `from_json` gives the report back."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """The report that `to_json` made these of."""
        reasons = {
            reason: Dropped(entry["items"], entry["characters"], [Example(**example) for example in entry["examples"]])
            for reason, entry in fields["reasons"].items()
        }
        return cls(**{**fields, "reasons": reasons})

    def lines(self) -> Iterator[str]:
        """The report for people: a line of totals, then a line a reason with its examples below."""
        yield (
            f"kept {self.documents_kept:,} of {self.documents_seen:,} document(s), "
            f"{self.characters_kept:,} of {self.characters_seen:,} character(s)"
        )
        for reason, dropped in sorted(self.reasons.items()):
            yield f"dropped, {reason}: {dropped.items:,}, {dropped.characters:,} character(s)"
            for example in dropped.examples:
                yield f"  {example.source}: {example.detail}: {example.excerpt}"


@dataclass(slots=True)
class Gutted:
    """Documents of which one cleaner took over half: how many, how many wholly, and the first by name and share."""

    documents: int = 0
    emptied: int = 0
    first: list[str] = field(default_factory=list)

    def see(self, source: str, share: float) -> None:
        """Counts a document that lost `share`, in (0.5, 1], of its characters."""
        self.documents += 1
        self.emptied += share == 1
        if len(self.first) < SHOWN_SOURCES:
            self.first.append(f"{source} ({share:.0%})")

    def line(self, cleaner: str) -> str:
        """What to say of them."""
        more = f" and {self.documents - len(self.first):,} more" if self.documents > len(self.first) else ""
        wholly = f", all of {self.emptied:,}" if self.emptied else ""
        return (
            f"cleaner {cleaner}: removes over half of {self.documents:,} document(s){wholly}: "
            f"{', '.join(self.first)}{more}"
        )


@dataclass(slots=True)
class LostSources:
    """Files, or members of archives, whose every document was dropped: how many, and the first by name and reason.

    Documents come file by file; `name`, `kept` and `detail` are of the file under way.
    """

    count: int = 0
    first: list[str] = field(default_factory=list)
    name: str = ""
    kept: bool = True
    detail: str = ""

    def see(self, source: str, verdict: Verdict | None) -> None:
        """Counts a document of `source`: None where it stays."""
        if source != self.name:
            self.close()
            self.name, self.kept = source, False
        self.kept |= verdict is None
        self.detail = verdict.detail if verdict else ""

    def close(self) -> None:
        """The file under way is at its end."""
        if not self.kept:
            self.count += 1
            if len(self.first) < SHOWN_SOURCES:
                self.first.append(f"{self.name} ({self.detail})")
        self.name, self.kept = "", True

    def line(self) -> str:
        """What to say of them; empty where there are none."""
        if not self.count:
            return ""
        more = f" and {self.count - len(self.first):,} more" if self.count > len(self.first) else ""
        return f"data.dedup: nothing is left of {', '.join(self.first)}{more}"
