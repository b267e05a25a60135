"""How a run ends that is told to: signals, and what has to reach its bucket before the process is gone."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any

from jslm.console import say
from jslm.errors import JslmError
from jslm.runs.folder import RunFolder
from jslm.runs.mirror import Mirror


class StopFlag:
    """The signal that asked a run to end, once there was one."""

    signal: int | None = None


@contextlib.contextmanager
def stop_signals() -> Iterator[StopFlag]:
    """Notes SIGTERM and Ctrl-C instead of dying; Ctrl-C after either interrupts at once."""
    flag = StopFlag()

    def note(number: int, _frame: Any) -> None:
        # Launchers pass SIGTERM on as well as send it, so a second one must not cost the checkpoint.
        if flag.signal is not None and number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        flag.signal = flag.signal or number

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        # Not the main thread (a notebook's worker, a test): signals are not ours to handle.
        before = {}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def finish_uploads(mirror: Mirror | None, status: str, folder: RunFolder, seconds: float) -> None:
    """Uploads what is outstanding; nothing of a run that is at no address.

    Raises JslmError where it can't; after an interrupt that is said, since its exit status tells launchers to start the
    run again.
    """
    if mirror is None:
        return
    if status != "interrupted":
        mirror.close()
        return
    mirror.seconds = seconds
    try:
        mirror.close()
    except JslmError as error:
        say(str(error))
    else:
        say(f"{folder.address}: uploaded; the same command on any machine goes on from there")
