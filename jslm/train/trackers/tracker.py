"""What a tracker is: a module of this folder with `open_tracker(run: TrackedRun) -> Tracker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class TrackedRun:
    """The run as a tracker meets it.

    `known_id` is the tracker's own name for this run, "" for a new one; `keep_id(id)` writes that name into the run's
    folder, so that a resumed run goes on under it. `first_step` is the first that will be told (1 for a new run): what
    an earlier process told of it and later ones is told again.
    """

    folder: Path
    config: Mapping[str, Any]
    first_step: int
    known_id: str
    keep_id: Callable[[str], None]

    @property
    def name(self) -> str:
        """The name that people read: that of the folder."""
        return self.folder.resolve().name


class Tracker(Protocol):
    """What is told to a tracker, in its own thread: it may wait for a network, and may fail."""

    def scalars(self, step: int, values: Mapping[str, float], walltime: float) -> None:
        """Finite figures of a step; `walltime` is in seconds since the epoch. A step may come twice in a row."""

    def text(self, step: int, tag: str, text: str) -> None:
        """A text of a step, such as its samples."""

    def file(self, path: Path) -> None:
        """A file of the run that is whole now, such as its report."""

    def close(self, status: str) -> None:
        """The end: "finished", "early_stopped", "stopped", "interrupted" or "failed". Returns when all is handed on."""
