"""A profiler trace of a few steps."""

from __future__ import annotations

from pathlib import Path

import jax


class Profiler:
    """A trace of five steps of a run, a few after its start, where compiling is over; of fewer in a shorter run.

    A context manager around the steps: leaving it ends a trace that is still open. Not entered, it does nothing.
    """

    def __init__(self, folder: Path, start: int, end: int) -> None:
        self.folder = folder
        self.first = min(start + 5, max(start, end - 5))
        self.last = min(self.first + 5, end)
        self.entered = self.tracing = False

    def __enter__(self) -> None:
        self.entered = True

    def __exit__(self, *_: object) -> None:
        if self.tracing:
            jax.profiler.stop_trace()

    def before(self, step: int) -> None:
        """Starts or ends the trace, where that is due."""
        if self.entered and step == self.first:
            jax.profiler.start_trace(str(self.folder))
            self.tracing = True
        elif self.tracing and step == self.last:
            jax.profiler.stop_trace()
            self.tracing = False
