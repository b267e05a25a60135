"""Documents on disk between the passes over them, and what is known of all documents up to there.

A part is a line of JSON, the `Tally`, and for each document a line of JSON (source, bits, bytes) and its UTF-8 text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Self

from jslm.errors import JslmError
from jslm.prepare.removed import Removed
from jslm.text.documents import Document
from jslm.text.dropped import DropReport, Gutted, LostSources

# A corpus may have millions of bad records; meta.json lists the first.
MAX_SKIPPED = 1000
# Of one condition: a column with more is no label.
MAX_LABELS = 1000


@dataclass(slots=True)
class Tally:
    """What has been read, kept, dropped and skipped up to the end of a part.

    `entry` and `index` say where reading goes on: with which entry of `resolve_sources`, after how many documents.
    `literals` are the separators that stand in the text, each with its count and first place.
    `cleaned` are the documents that were not blank, `gutted` those of which a cleaner took over half, by its name.
    `reports` are by stage of selection: `filters`, `dedup`, `lines`; `lost` are the files that `dedup` took whole.
    """

    entry: int = 0
    index: int = 0
    is_last: bool = False
    documents: int = 0
    characters: int = 0
    utf8_bytes: int = 0
    cleaned: int = 0
    removed: Removed = field(default_factory=dict)
    gutted: dict[str, Gutted] = field(default_factory=dict)
    skipped: int = 0
    skipped_first: list[str] = field(default_factory=list)
    literals: dict[str, list[Any]] = field(default_factory=dict)
    reports: dict[str, DropReport] = field(default_factory=dict)
    lost: LostSources = field(default_factory=LostSources)
    labels: list[list[str]] = field(default_factory=list)

    def keep(self, document: Document) -> int:
        """Counts a document and its labels; returns its size in UTF-8. Raises JslmError for too many labels."""
        for number, label in enumerate(document.labels):
            if number == len(self.labels):
                self.labels.append([])
            known = self.labels[number]
            if label and label not in known:
                known.append(label)
                if len(known) > MAX_LABELS:
                    raise JslmError(
                        f"data.conditions: number {number + 1} has over {MAX_LABELS:,} labels, the last {label[:40]!r} "
                        f"in {document.place}; name a key with few values"
                    )
        size = len(document.text.encode("utf-8", "surrogatepass"))
        self.documents += 1
        self.characters += len(document.text)
        self.utf8_bytes += size
        return size

    def see_literals(self, found: Mapping[str, int], place: str) -> None:
        """Counts separators of a document."""
        for literal, count in found.items():
            self.literals.setdefault(literal, [0, place])[0] += count

    def skip(self, messages: Sequence[str]) -> None:
        """Counts files and records that could not be read."""
        self.skipped += len(messages)
        self.skipped_first += messages[: MAX_SKIPPED - len(self.skipped_first)]

    def to_json(self) -> dict[str, Any]:
        """Plain values; `from_json` gives an equal tally."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """The tally that `to_json` made these of."""
        reports = {stage: DropReport.from_json(report) for stage, report in fields["reports"].items()}
        gutted = {cleaner: Gutted(**found) for cleaner, found in fields["gutted"].items()}
        return cls(**{**fields, "reports": reports, "gutted": gutted, "lost": LostSources(**fields.get("lost", {}))})


def write_text_part(file: BinaryIO, tally: Tally, documents: Sequence[Document]) -> None:
    """Writes a part; raises OSError."""
    _write_line(file, tally.to_json())
    for document in documents:
        text = document.text.encode("utf-8", "surrogatepass")
        head: dict[str, Any] = {"source": document.source, "bits": document.bits, "bytes": len(text)}
        if document.where and document.where != document.source:
            head["where"] = document.where
        if document.labels:
            head["labels"] = document.labels
        if document.rejected is not None:
            head["rejected"] = document.rejected
        _write_line(file, head)
        file.write(text)


def read_tally(path: Path) -> Tally:
    """The tally of a part."""
    with path.open("rb") as file:
        return Tally.from_json(json.loads(file.readline()))


def read_text_part(path: Path) -> Iterator[Document]:
    """The documents of a part. Memory: one of them."""
    with path.open("rb") as file:
        file.readline()
        while line := file.readline():
            head = json.loads(line)
            text = file.read(head["bytes"]).decode("utf-8", "surrogatepass")
            labels = tuple(head.get("labels", ()))
            rejected, where = head.get("rejected"), head.get("where", "")
            yield Document(text, head["source"], head["bits"], labels=labels, rejected=rejected, where=where)


def _write_line(file: BinaryIO, fields: dict[str, Any]) -> None:
    # ASCII: a file's name may hold bytes that are no UTF-8.
    file.write(json.dumps(fields).encode("ascii") + b"\n")
