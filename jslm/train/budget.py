"""`train.minutes`: how many steps a run has, told anew from the time that its steps take."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from jslm.config import Config

# Closing the run: the last checkpoint, samples and the report.
_CLOSING_SECONDS = 4.0
# A sequence in training, in such that are only read: twice as much for the gradient, and the update.
_READ_SHARE = 2.5
# The rate is that of the last steps, over this share of the time left, and of this many steps at least.
_WINDOW_SHARE = 0.2
_MIN_STEPS = 3
_now = time.monotonic
_BEGINNING = _now()


def process_seconds() -> float:
    """Seconds since this process began, its interpreter and imports included; where the system does not say, since
    this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text("ascii").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return _now() - _BEGINNING


class Budget:
    """The clock of a run with `train.minutes`, and the schedule that follows from it.

    `schedule` is what the train state holds (see `timed_factor`): the step at which the decay begins, the step at which
    the run ends, and the factor of the learning rate where the decay begins. Before the decay both steps move with the
    measured rate; in it the end alone does, and the rate falls from where it is. None begins anew, as where a run is
    given more minutes than it had.
    """

    def __init__(
        self, config: Config, spent: float, started: float, schedule: np.ndarray | None, held_out: int = 0
    ) -> None:
        """`spent`: seconds of the run's earlier commands; `started`: when this one began, as `time.monotonic()`;
        `held_out`: sequences that are read after the last step, for the loss of the whole split."""
        self._seconds = 60.0 * config.train.minutes
        self._most = config.train.steps or math.inf
        self._decay = 1.0 if config.optimizer.schedule == "linear" else config.optimizer.decay_fraction
        self._warmup = config.optimizer.warmup_steps
        self._spent, self._started = spent, started
        self._closing = _CLOSING_SECONDS
        self._closing_steps = held_out / (_READ_SHARE * config.train.batch_size)
        self._times: deque[tuple[float, int]] = deque()
        # Seconds a step, and the step and the time that they were measured at; none at first.
        self._pace: tuple[float, int, float] | None = None
        self.schedule = np.array([np.inf, np.inf, 1.0], np.float32) if schedule is None else np.array(schedule)

    @property
    def elapsed(self) -> float:
        """Seconds that the run has taken, those of its earlier commands too."""
        return self._spent + _now() - self._started

    @property
    def share(self) -> float:
        """The share of the budget that is gone."""
        return min(1.0, self.elapsed / max(self.elapsed + self.seconds_left, 1e-9))

    @property
    def seconds_left(self) -> float:
        """Seconds until the whole run is to be over, which its steps may end before its time."""
        left = self._seconds - self.elapsed
        if self._pace is not None and math.isfinite(self._most):
            seconds, step, at = self._pace
            left = min(left, self._closing + (self._most - step) * seconds - (_now() - at))
        return max(0.0, left)

    @property
    def left(self) -> float:
        """Seconds until the steps have to be done, so that there is time for what follows them."""
        return self._seconds - self._closing - self.elapsed

    @property
    def end(self) -> float:
        """The step at which the run ends, as far as that is known; infinite before the first steps are timed."""
        return min(float(self.schedule[1]), self._most)

    def note(self, step: int) -> bool:
        """Takes the time after `step` steps, on every process at the same steps; whether the schedule has changed."""
        now = _now()
        self._times.append((now, step))
        if step - self._times[0][1] < _MIN_STEPS:
            return False
        while len(self._times) > 2 and now - self._times[1][0] > max(_WINDOW_SHARE * self.left, 5.0):
            if step - self._times[1][1] < _MIN_STEPS:
                break
            self._times.popleft()
        began, first = self._times[0]
        seconds = max(now - began, 1e-9) / (step - first)
        self._closing = _CLOSING_SECONDS + self._closing_steps * seconds
        self._pace = seconds, step, now
        end = min(step + max(0.0, self.left) / seconds, self._most)
        if jax.process_count() > 1:
            # One clock for all: they have to take the same steps.
            end = float(multihost_utils.broadcast_one_to_all(np.float32(end)))
        return self._set_end(step, float(max(step, round(end))))

    def _set_end(self, step: int, end: float) -> bool:
        old = self.schedule
        if abs(end - old[1]) <= max(1.0, 0.002 * end) and end > step + 1:
            return False
        begin = max((1.0 - self._decay) * end, min(self._warmup, 0.1 * end))
        # A rate that falls goes on falling, even where steps become so fast that it would be early now.
        is_falling = step > old[0]
        new = [float(step), end, decay_factor(step, old)] if is_falling or step > begin else [begin, end, 1.0]
        self.schedule = np.array(new, np.float32)
        return True


def decay_factor(step: float, schedule: np.ndarray) -> float:
    """What `jslm.learn.timed_factor` gives after the warm-up, on the host."""
    begin, end, height = (float(value) for value in schedule)
    if not math.isfinite(end):
        return height
    return height * min(1.0, max(0.0, (end - step) / max(end - begin, 1.0)))
