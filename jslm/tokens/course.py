"""How many examples stand before each step of a run, whatever batch sizes it had on its way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

from jslm.errors import JslmError


@dataclass(frozen=True)
class Course:
    """Steps of `batch_size` examples (sequences, or pairs of answers) since the last of `changes`.

    `changes` are (step, examples before it), ascending from (0, 0): each step from which a batch size held on.
    """

    batch_size: int
    changes: tuple[tuple[int, int], ...] = ((0, 0),)

    def examples_before(self, step: int) -> int:
        """Examples in the first `step` steps."""
        for (start, seen), (stop, later) in pairwise(self.changes):
            if step < stop:
                return seen + (step - start) * (later - seen) // (stop - start)
        start, seen = self.changes[-1]
        return seen + (step - start) * self.batch_size

    def step_at(self, examples: float) -> float:
        """The step, with its fraction, that so many examples stand before."""
        for (start, seen), (stop, later) in pairwise(self.changes):
            if examples < later:
                return start + (examples - seen) * (stop - start) / (later - seen)
        start, seen = self.changes[-1]
        return start + (examples - seen) / self.batch_size

    def with_batch_size(self, batch_size: int, step: int) -> Course:
        """The same up to `step`, and from there on in batches of `batch_size`."""
        if batch_size == self.batch_size:
            return self
        past = [change for change in self.changes if change[0] < step]
        return Course(batch_size, (*past, (step, self.examples_before(step))))

    def to_state(self, step: int) -> dict[str, Any]:
        """The position before `step` as JSON-able values."""
        return {
            "step": step,
            "examples": self.examples_before(step),
            "batch_size": self.batch_size,
            "changes": [list(change) for change in self.changes],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> tuple[Self, int]:
        """The course and the step that `to_state` was given.

        States of before `examples` were kept have a `step` that counts batches of the last size only; their
        `run_step`, where there is one, is the step of the run. Raises JslmError where a state contradicts itself.
        """
        if "examples" not in state:
            examples, step = state["step"] * state["batch_size"], state.get("run_step", state["step"])
            changes = ((0, 0),) if step == state["step"] else ((0, 0), (step, examples))
            return cls(state["batch_size"], changes), step
        course = cls(state["batch_size"], tuple((step, seen) for step, seen in state["changes"]))
        if course.examples_before(state["step"]) != state["examples"]:
            raise JslmError(
                f"data position in the checkpoint: step {state['step']:,} of batches of {state['batch_size']} since "
                f"{state['changes'][-1]} does not come after {state['examples']:,} examples; it is damaged"
            )
        return course, state["step"]
