"""TensorBoard events of a run. The only module that imports tensorboardX."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX import SummaryWriter

from jslm.train.trackers.tracker import TrackedRun

FOLDER = "tensorboard"


def open_tracker(run: TrackedRun) -> TensorBoard:
    """A new event file under `run_dir/tensorboard`.

    Events of earlier files at `first_step` and later were written by a killed run: TensorBoard drops them when it
    reads this file.
    """
    return TensorBoard(run.folder, first_step=run.first_step)


class TensorBoard:
    """Scalars and texts; TensorBoard has no place for files."""

    def __init__(self, run_dir: Path, *, first_step: int) -> None:
        # tensorboardX names files by the second; a run resumed within one would overwrite its own events.
        suffix = f".{time.time_ns()}"
        self._writer = SummaryWriter(str(run_dir / FOLDER), purge_step=first_step, filename_suffix=suffix)

    def scalars(self, step: int, values: Mapping[str, float], walltime: float) -> None:
        """Writes one scalar a key; `walltime` is in seconds since the epoch."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step, walltime=walltime)

    def text(self, step: int, tag: str, text: str) -> None:
        """Writes a text, which TensorBoard shows as Markdown."""
        self._writer.add_text(tag, text, step)

    def file(self, path: Path) -> None:
        """Nothing: it stands beside the events already."""

    def close(self, status: str) -> None:
        """Writes what is buffered and closes the file."""
        self._writer.close()
