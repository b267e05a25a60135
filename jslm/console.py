"""What a verb says on stderr while it works: a bar where a terminal can show one, plain lines elsewhere, and messages.

Messages and log lines stand above the bar, never in it. The only user of tqdm.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self, TextIO

_BAR_COLUMNS = 16
_LEAST_FOR_BAR = 49
# Seconds between two showings, on a terminal and in a log.
TERMINAL_SECONDS, PLAIN_SECONDS = 0.1, 10.0
_REMEMBERED = 1000
_LOCK = threading.RLock()
# Those that are on the screen.
_bars: list[Any] = []
# What is said while a text is written piece by piece; None where nothing is.
_held: list[tuple[str, TextIO]] | None = None


def is_terminal(stream: TextIO) -> bool:
    """Whether a line can be rewritten there."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def say(text: str, stream: TextIO | None = None) -> None:
    """Prints a line (to stderr unless told otherwise), above the bar where there is one."""
    stream = sys.stderr if stream is None else stream
    if _held is not None:
        _held.append((text, stream))
        return
    _above_bars(stream, lambda: print(text, file=stream, flush=True))


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Around a text that is printed piece by piece, its last line end included: what is said meanwhile comes after."""
    global _held
    held = _held = []
    try:
        yield
    finally:
        _held = None
        for text, stream in held:
            say(text, stream)


class Line:
    """The line at the bottom of a terminal: fields around a bar, rewritten in place."""

    def __init__(self, total: float, stream: TextIO, width: int | None = None) -> None:
        """`total` is what the bar is full at; `width` is in columns, the terminal's own unless given."""
        self._total, self._stream, self._width = total, stream, width
        self._bar: Any = None

    def show(self, done: float, fields: Sequence[tuple[int, str]], separator: str = ", ") -> None:
        """Shows (rank, text) in order, the bar after the first; what has no room goes, the highest ranks first."""
        # The last column stays empty: writing to it wraps on some terminals.
        columns = self._columns() - 1
        # The bar goes before any text on a narrow terminal, and the less telling texts before it elsewhere.
        texts = fit(fields, separator, columns - (_BAR_COLUMNS + 1 if columns >= _LEAST_FOR_BAR else 0))
        used = len(separator.join(texts))
        if not used:
            self.clear()
            return
        has_bar = used + _BAR_COLUMNS + 1 <= columns and done <= self._total
        joined = [text.replace("{", "{{").replace("}", "}}") for text in texts]
        if has_bar:
            joined[0] += f" {{bar:{_BAR_COLUMNS}}}"
        if self._stream.isatty() and not os.environ.get("NO_COLOR"):
            separator = f"\x1b[2m{separator}\x1b[0m"
        text, filled = separator.join(joined), min(done, self._total)
        if self._bar is None:
            self._bar = _open_bar(self._total, filled, self._stream, text)
        self._bar.bar_format, self._bar.n = text, filled
        self._bar.refresh()

    def clear(self) -> None:
        """Takes the line away; the next `show` puts it back."""
        if self._bar is not None:
            self._bar.close()
            _bars.remove(self._bar)
            self._bar = None

    def _columns(self) -> int:
        if self._width is not None:
            return self._width
        try:
            # Some pseudo-terminals say they are 0 wide.
            return os.get_terminal_size(self._stream.fileno()).columns or 80
        except (OSError, ValueError):
            return 80


class Bar:
    """How much of some work is done: a bar with the rate and the time left, or a plain line every ten seconds.

    A context manager: leaving it takes the bar away. Work of less than that leaves nothing in a log.
    """

    def __init__(
        self,
        title: str,
        total: float,
        unit: str,
        *,
        before: float = 0,
        scale: float = 1.0,
        log: Callable[[str], None] | None = None,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`total` is in what `add` counts, shown over `scale` in `unit`; an earlier run has done `before` of it.

        `log` takes the plain lines where they are not for stderr.
        """
        self._title, self._total, self._unit, self._scale = title, total, unit, scale
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._log = log or (lambda text: say(text, self._stream))
        self._is_terminal = is_terminal(self._stream)
        self._line = Line(total, self._stream)
        self._started = self._shown = clock()
        self._before = self._done = before

    def add(self, amount: float = 1) -> None:
        """Counts `amount` more, and shows it if it is time."""
        self._done += amount
        now = self._clock()
        if now - self._shown < (TERMINAL_SECONDS if self._is_terminal else PLAIN_SECONDS):
            return
        self._shown = now
        fields = self._fields(now - self._started)
        if self._is_terminal:
            self._line.show(self._done, fields)
        else:
            self._log(", ".join(text for _, text in fields))

    def close(self) -> None:
        """Takes the bar away; a second call does nothing."""
        self._line.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fields(self, seconds: float) -> list[tuple[int, str]]:
        rate = (self._done - self._before) / seconds if seconds > 0 else 0.0
        decimals = 1 if self._scale != 1 else 0
        done, total = (f"{value / self._scale:,.{decimals}f}" for value in (self._done, self._total))
        speed = f"{rate / self._scale:,.1f} {self._unit}/s"
        # Compressed input is larger than its files say.
        if self._done > self._total:
            return [(0, f"{self._title}: {done} {self._unit}"), (2, speed)]
        fields = [(0, f"{self._title}: {done} of {total} {self._unit}"), (2, speed)]
        if rate and self._done < self._total:
            fields.append((1, f"{format_clock((self._total - self._done) / rate)} left"))
        return fields


def fit(fields: Sequence[tuple[int, str]], separator: str, columns: int) -> list[str]:
    """The texts of (rank, text) that go into a line of `columns`; the highest ranks are the first to go."""
    kept = list(fields)
    while len(kept) > 1 and len(separator.join(text for _, text in kept)) > columns:
        kept.remove(max(kept))
    texts = [text for _, text in kept]
    return texts if len(texts) > 1 else [texts[0][: max(0, columns)]]


def format_clock(seconds: float) -> str:
    """A span of time as on a clock: 02:31, 1:02:31, 1d 03:00:09."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour:02}:{minute:02}:{second:02}"
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute:02}:{second:02}"


def format_seconds(seconds: float) -> str:
    """A measured time with two digits that say something: 0.31 ms, 42 ms, 1.25 s."""
    if seconds >= 0.995:
        return f"{seconds:,.2f} s"
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.00995 else f"{seconds * 1e3:.2g} ms"


class ConsoleHandler(logging.Handler):
    """Prints log records as `jslm: WARNING: ...` above any bar, on what stderr is then; a warning once, however often
    it comes: a corpus is read several times over, and each sample of a run is written by a new model."""

    def __init__(self) -> None:
        super().__init__()
        self._warned: dict[str, None] = {}
        self.setFormatter(logging.Formatter("%(name)s: %(levelname)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Prints the record, unless it is a warning that has been printed."""
        try:
            line = self.format(record)
            if record.levelno == logging.WARNING:
                if line in self._warned:
                    return
                self._warned[line] = None
                if len(self._warned) > _REMEMBERED:
                    del self._warned[next(iter(self._warned))]
            say(line)
        except Exception:
            self.handleError(record)


def set_up_logging() -> None:
    """Sends log lines, and what libraries warn of, through a `ConsoleHandler`; handlers that are there stay alone."""
    logging.basicConfig(handlers=[ConsoleHandler()], level=logging.WARNING)
    logging.getLogger("jslm").setLevel(logging.INFO)
    warnings.showwarning = _log_warning


def _log_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    logging.getLogger("python").warning("%s: %s", category.__name__, " ".join(str(message).split()))


def _open_bar(total: float, done: float, stream: TextIO, text: str) -> Any:
    tqdm = _tqdm()
    # tqdm's own lock is shared between processes and costs a semaphore; here one process draws. Nor a thread beside the
    # verb's: worker processes are forked from it.
    tqdm.set_lock(_LOCK)
    tqdm.monitor_interval = 0
    bar = tqdm(total=total, initial=done, file=stream, leave=False, bar_format=text)
    _bars.append(bar)
    return bar


def _above_bars(stream: TextIO, write: Callable[[], None]) -> None:
    if not _bars:
        write()
        return
    with _tqdm().external_write_mode(file=stream):
        write()


def _tqdm() -> Any:
    # Where a bar is shown, and no sooner: it takes as long to import as `jslm --help` in all.
    from tqdm import tqdm

    return tqdm
