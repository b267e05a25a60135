"""How far a long pass has come: one line rewritten on a terminal, a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

TERMINAL_SECONDS = 0.2
PLAIN_SECONDS = 10.0


class Progress:
    """Reports `done` of `total` bytes with the rate and the time left; an earlier run has done `before` of them."""

    def __init__(self, title: str, total: int, log: Callable[[str], None], before: int = 0) -> None:
        self.title = title
        self.total = total
        self._log = log
        self._terminal = sys.stderr.isatty()
        self._started = self._shown = time.monotonic()
        self._before = self._done = before
        self._is_open = False

    def add(self, amount: int) -> None:
        """Counts `amount` more, and shows the line if it is time."""
        self._done += amount
        now = time.monotonic()
        if now - self._shown >= (TERMINAL_SECONDS if self._terminal else PLAIN_SECONDS):
            self._shown = now
            line = self._line(now - self._started)
            if self._terminal:
                # Escape code: clear to the end of the line.
                print(f"\r{line}\x1b[K", end="", file=sys.stderr, flush=True)
                self._is_open = True
            else:
                self._log(line)

    def close(self) -> None:
        """Clears the line."""
        if self._is_open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _line(self, seconds: float) -> str:
        rate = (self._done - self._before) / seconds
        # Compressed input is larger than its files say.
        if self._done > self.total:
            return f"{self.title}: {self._done / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s"
        left = max(0, self.total - self._done) / rate if rate else 0.0
        return (
            f"{self.title}: {self._done / 1e6:.1f} of {self.total / 1e6:.1f} MB, {rate / 1e6:.1f} MB/s, "
            f"{int(left // 60)}:{int(left % 60):02d} left"
        )
