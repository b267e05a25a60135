"""What a run measures: `metrics.jsonl`, what trackers are told of it, and the progress line of the terminal."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self, SupportsFloat, TextIO

from jslm.console import TERMINAL_SECONDS, Line, format_clock, is_terminal, say
from jslm.errors import JslmError
from jslm.files import write_text

if TYPE_CHECKING:
    from jslm.train.budget import Budget
    from jslm.train.trackers.workers import Trackers

METRICS_FILE = "metrics.jsonl"
_log = logging.getLogger("jslm")

Values = Mapping[str, SupportsFloat | None]


class MetricsLog:
    """Appends measurements to `run_dir/metrics.jsonl`, one JSON object a line, and tells trackers of them.

    A context manager: leaving it closes all; `status` is what the trackers then hear. One process of a run holds one;
    on many hosts only the first does.
    """

    def __init__(self, run_dir: Path, *, resume_step: int | None, trackers: Trackers | None = None) -> None:
        """Opens the log, keeping the lines of steps up to `resume_step`; with None the run starts anew.

        Lines of later steps come from a run that was killed after its last checkpoint and will be written again. Lines
        that a kill or a crash spoilt are cut out, with a warning that counts them and names the first.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        last_step = -1 if resume_step is None else resume_step
        if path.exists():
            kept = [json.dumps(line) + "\n" for line in _parse(path) if line["step"] <= last_step]
            write_text(path, "".join(kept))
        self._file: IO[str] = path.open("a", encoding="utf-8")
        self._trackers = trackers
        self.status = "finished"

    def write(self, step: int, values: Values) -> None:
        """Writes one line at once: `step`, `time` (seconds since the epoch) and `values`.

        A value that is not finite becomes null, since JSON has no word for it, and trackers hear nothing of it.
        """
        now = time.time()
        numbers = {key: _number(value) for key, value in values.items()}
        line = {"step": int(step), "time": round(now, 3)} | numbers
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        if self._trackers is not None:
            finite = {key: number for key, number in numbers.items() if number is not None}
            self._trackers.scalars(int(step), finite, now)

    def text(self, step: int, tag: str, text: str) -> None:
        """Hands a text, such as samples, to the trackers; `metrics.jsonl` holds numbers only."""
        if self._trackers is not None:
            self._trackers.text(step, tag, text)

    def file(self, path: Path) -> None:
        """Hands a file that is whole, such as the report, to the trackers."""
        if self._trackers is not None:
            self._trackers.file(path)

    def close(self) -> None:
        """Closes the file and the trackers; a second call does nothing."""
        self._file.close()
        if self._trackers is not None:
            self._trackers.close(self.status)
            self._trackers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.status = "failed"
        self.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a `metrics.jsonl`, in file order, without spoilt ones, of which a warning tells.

    Raises:
        JslmError: the file is absent.
    """
    if not path.exists():
        raise JslmError(f"{path}: no such file; expected the {METRICS_FILE} of a run folder")
    return _parse(path)


class Progress:
    """How far a run is: a bar rewritten in place on a terminal, else a plain line about every two seconds.

    Takes the same keys as `MetricsLog.write`, and remembers the last of each, so a training line shows the last
    validation too. A context manager: leaving it leaves the last state, with the time that the steps took.
    """

    def __init__(
        self,
        total_steps: int,
        *,
        budget: Budget | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        width: int | None = None,
    ) -> None:
        """`stream` is standard error unless given; `width` is in columns, the terminal's own unless given. With a
        `budget` the bar is that of its time, and the steps are as many as it says, where it knows already."""
        self._total: float = total_steps
        self._budget = budget
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._terminal = is_terminal(self._stream)
        self._line = Line(1.0 if budget else total_steps, self._stream, width)
        self._interval = TERMINAL_SECONDS if self._terminal else 2.0
        self._separator = " · " if _can_encode(self._stream, "·") else " | "
        self._values: dict[str, float] = {}
        self._step = 0
        self._first: tuple[float, int] | None = None
        self._shown_at = -math.inf

    def update(self, step: int, values: Values) -> None:
        """Takes in the measurements of a step, and shows them unless the last showing was a moment ago."""
        now = self._clock()
        if self._first is None:
            self._first = (now, step)
        self._step = step
        if self._budget is not None:
            self._total = self._budget.end
        self._values |= {key: float("nan") if value is None else float(value) for key, value in values.items()}
        # The last step is shown by `close`, which knows that nothing is left.
        if now - self._shown_at >= self._interval and step < self._total:
            self._shown_at = now
            if self._terminal:
                done = step if self._budget is None else self._budget.share
                self._line.show(done, self._fields(self._left(now)), self._separator)
            else:
                self._print(self._left(now))

    def message(self, text: str) -> None:
        """Prints a line of its own, above the bar on a terminal."""
        say(text, self._stream)

    def close(self) -> None:
        """Leaves the last state in place of the bar; a second call does nothing."""
        self._line.clear()
        if self._first is not None:
            self._print(f"in {format_clock(self._clock() - self._first[0])}")
        self._first = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self, seconds: str) -> None:
        say(self._separator.join(text for _, text in self._fields(seconds)), self._stream)

    def _fields(self, seconds: str) -> list[tuple[int, str]]:
        """(rank, text) in reading order; the highest ranks are the first to go on a narrow terminal."""
        values = self._values
        fields = [(0, f"step {self._step:,}" + (f"/{self._total:,.0f}" if math.isfinite(self._total) else ""))]
        if "train/loss" in values:
            fields.append((1, f"loss {values['train/loss']:.3f}"))
        if "val/loss" in values:
            validation = f"val {values['val/loss']:.3f}"
            if "val/bits_per_byte" in values:
                validation += f" ({values['val/bits_per_byte']:.2f} bits/byte)"
            if "val/accuracy" in values:
                validation += f" ({values['val/accuracy']:.0%} preferred, margin {values['val/margin']:.2f})"
            fields.append((3, validation))
        if "lr" in values:
            fields.append((5, f"lr {format_scientific(values['lr'])}"))
        if "tokens_per_s" in values:
            fields.append((4, format_rate(values["tokens_per_s"], "tok")))
        if math.isfinite(values.get("mfu", math.nan)):
            fields.append((6, f"MFU {values['mfu']:.0%}"))
        if seconds:
            fields.append((2, seconds))
        return fields

    def _left(self, now: float) -> str:
        if self._budget is not None:
            return f"{format_clock(self._budget.seconds_left)} left"
        if self._first is None or self._step <= self._first[1]:
            return ""
        started, first_step = self._first
        return f"{format_clock((now - started) / (self._step - first_step) * (self._total - self._step))} left"


def format_count(value: float) -> str:
    """Three significant digits and a unit: 999, 1.23k, 39.1M, 1.1B."""
    if not math.isfinite(value):
        return str(value)
    if abs(value) < 1000:
        return f"{value:.3g}" if abs(value) < 999.5 else "1k"
    scaled, units = value / 1000, "kMBT"
    # 999,950 rounds to 1000k, which is 1M.
    while abs(scaled) >= 999.5 and len(units) > 1:
        scaled, units = scaled / 1000, units[1:]
    decimals = max(0, 2 - math.floor(math.log10(abs(float(f"{scaled:.3g}")))))
    text = f"{scaled:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + units[0]


def format_rate(value: float, unit: str) -> str:
    """A rate with its unit: 41.2k tok/s."""
    return f"{format_count(value)} {unit}/s"


def format_scientific(value: float) -> str:
    """A small number with one decimal and a short exponent: 1.0e-3."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def format_duration(seconds: float) -> str:
    """A span of time in its two largest units: 0.4 s, 12 s, 3 min 12 s, 2 h 5 min, 1 d 3 h."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, large, small_size, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // small_size
            return f"{whole // size} {large}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def _parse(path: Path) -> list[dict[str, Any]]:
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), start=1) if line.strip()]
    entries = [_entry(line) for _, line in lines]
    spoilt = [line for line, entry in zip(lines, entries, strict=True) if entry is None]
    if spoilt:
        number, line = spoilt[0]
        where = "at its end" if all(entry is None for entry in entries[-len(spoilt) :]) else "not only at its end"
        _log.warning(
            "%s:%d: found %r, expected a JSON object with a step and numbers; %s left out (%s)",
            path,
            number,
            line[:60].decode(errors="replace"),
            "this line is" if len(spoilt) == 1 else f"{len(spoilt):,} such lines are",
            where,
        )
    return [entry for entry in entries if entry is not None]


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line's values; None where a kill, a crash of the machine or another program spoilt it."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not isinstance(found.get("step"), int):
        return None
    return found if all(value is None or isinstance(value, int | float) for value in found.values()) else None


def _number(value: SupportsFloat | None) -> float | int | None:
    if value is None:
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else None


def _can_encode(stream: TextIO, text: str) -> bool:
    try:
        text.encode(getattr(stream, "encoding", None) or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
