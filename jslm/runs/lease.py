"""Who writes a run at an address: one object, written again and again by the process that does.

Clocks of two machines may differ; so whether a writer lives is told by whether its object changes while one looks.
Between reading the object and writing it another may do the same: the later one wins, and the other sees that at its
next beat, before it makes another checkpoint count.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from typing import ClassVar

from jslm.console import say
from jslm.errors import JslmError
from jslm.storage import Objects

WRITER = "writer.json"
BEAT_SECONDS = 10.0
# Without a beat for so long, a writer is taken to be gone.
LEASE_SECONDS = 35.0


class Taken(JslmError):
    """Another process writes this run."""


@dataclasses.dataclass(frozen=True)
class Writer:
    """A process that writes a run; `id` is of this start of it, `beat` counts its signs of life."""

    id: str
    host: str
    machine: str
    pid: int
    started: int
    beat: int = 0
    ended: bool = False


class Lease:
    """This process's right to write a run."""

    # Ids that this process held and gave up while the address could not be told.
    _given_up: ClassVar[set[str]] = set()

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        # A beat that is on its way must not arrive after the end.
        self._writing = threading.Lock()
        self._mine = Writer(uuid.uuid4().hex, socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()))

    @property
    def id(self) -> str:
        """Tells this start of this process from all others."""
        return self._mine.id

    def previous(self) -> Writer | None:
        """Who wrote last; None where nobody has. Waits while it may still be at work.

        Raises Taken where it is.
        """
        found = self._read()
        if found is None or found.ended or _is_gone(found) or found.id in self._given_up:
            return found
        say(f"{self._objects.address}: {found.host} may still be writing here; waiting up to {LEASE_SECONDS:.0f} s")
        deadline = time.monotonic() + LEASE_SECONDS
        while time.monotonic() < deadline:
            time.sleep(min(1.0, LEASE_SECONDS / 4))
            now = self._read()
            if now is None or now.ended:
                return now
            if now != found:
                raise self._taken(now)
        return found

    def take(self) -> None:
        """Writes that it is this process from now on."""
        self._write()

    def beat(self) -> None:
        """Shows that this process lives; nothing after `end`. Raises Taken where another has taken over, and
        StorageError."""
        with self._writing:
            if not self._mine.ended:
                self.check()
                self._mine = dataclasses.replace(self._mine, beat=self._mine.beat + 1)
                self._write()

    def check(self) -> None:
        """Raises Taken where another process has taken over, or has and handed back since, and StorageError."""
        found = self._read()
        if found is not None and (found.id != self.id or (found.ended and not self._mine.ended)):
            raise self._taken(found)

    def end(self) -> None:
        """Says that this process is done, so that the next need not wait. Raises as `beat`."""
        with self._writing:
            self.check()
            self._mine = dataclasses.replace(self._mine, ended=True)
            self._write()

    def hand_back(self, previous: Writer | None) -> None:
        """`end` of a process that has written nothing: the last to write is `previous`, as before. Raises as `beat`.

        Where that one only slept it has lost the run all the same, as what it had on its way may be gone.
        """
        with self._writing:
            self.check()
            self._mine = dataclasses.replace(self._mine, ended=True)
            self._write(None if previous is None else dataclasses.replace(previous, ended=True))

    def give_up(self) -> None:
        """Lets go of the run without a word at the address, which can't be reached; this process may take it again."""
        self._given_up.add(self.id)

    def _read(self) -> Writer | None:
        data = self._objects.read(WRITER)
        if data is None:
            return None
        try:
            return Writer(**json.loads(data))
        except (ValueError, TypeError):
            raise JslmError(
                f"{self._objects.address}/{WRITER}: not as jslm writes it; delete it where no process writes this run"
            ) from None

    def _write(self, writer: Writer | None = None) -> None:
        """That `writer` has the run, by default this process."""
        self._objects.write(WRITER, json.dumps(dataclasses.asdict(writer or self._mine)).encode())

    def _taken(self, other: Writer) -> Taken:
        if other.id == self.id:
            return Taken(
                f"run_dir = {self._objects.address}: another training process took this run over while this one was "
                "silent, and has let go of it; start this one again to go on"
            )
        return Taken(
            f"run_dir = {self._objects.address}: another training process (host {other.host}, process {other.pid}) is "
            "writing this run; stop it, or choose another run_dir"
        )


def _machine() -> str:
    """Tells this boot of this machine, or container, from others: where process numbers mean the same processes."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        boot = ""
    try:
        # Containers of one machine may have its name, and each counts its processes from 1.
        processes = os.readlink("/proc/self/ns/pid")
    except OSError:
        processes = ""
    return f"{socket.gethostname()} {boot} {processes}".rstrip()


def _started(pid: int) -> int:
    """When a process of this machine began, in the kernel's ticks; 0 where it is not there, or nobody can tell."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace").rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _is_gone(writer: Writer) -> bool:
    """Whether it is known to be: a process of this machine that runs no more."""
    return bool(writer.started) and writer.machine == _machine() and _started(writer.pid) != writer.started
