"""The trackers of a run, each in a thread of its own: none can stop a run or make a step wait."""

from __future__ import annotations

import importlib
import json
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jslm.files import write_text
from jslm.train.trackers.tracker import TrackedRun, Tracker

TRACKERS_FILE = "trackers.json"
# A step's line of metrics is one entry: hours of them while a network is away.
_WAITING = 10_000
_CLOSING_SECONDS = 30.0
_log = logging.getLogger("jslm")

Call = tuple[str, tuple[Any, ...]]


class Trackers:
    """Tells all trackers of a run. Nothing here waits but `close`, and that for half a minute in all."""

    def __init__(
        self,
        names: Sequence[str],
        run_dir: Path,
        config: Mapping[str, Any],
        *,
        resume_step: int | None,
        waiting: int = _WAITING,
        closing_seconds: float = _CLOSING_SECONDS,
    ) -> None:
        """Opens `names` in the background. With a `resume_step` they go on in the runs that `trackers.json` names.

        `waiting`: calls kept for a tracker that is slow, before further ones are dropped and counted.
        """
        ids = _Ids(run_dir / TRACKERS_FILE, goes_on=resume_step is not None)
        first_step = 1 if resume_step is None else resume_step + 1
        self._closing_seconds = closing_seconds
        self._workers = [
            _Worker(name, TrackedRun(run_dir, config, first_step, ids.get(name), ids.keeper(name)), waiting)
            for name in names
        ]

    def scalars(self, step: int, values: Mapping[str, float], walltime: float) -> None:
        """Figures of a step, all of them finite; `walltime` is in seconds since the epoch."""
        self._tell("scalars", step, values, walltime)

    def text(self, step: int, tag: str, text: str) -> None:
        """A text of a step."""
        self._tell("text", step, tag, text)

    def file(self, path: Path) -> None:
        """A file of the run, which stays as it is."""
        self._tell("file", path)

    def close(self, status: str) -> None:
        """Ends them; what could not be told is counted in a line a tracker. A second call does nothing."""
        for worker in self._workers:
            worker.end(status)
        deadline = time.monotonic() + self._closing_seconds
        for worker in self._workers:
            worker.wait(max(0.0, deadline - time.monotonic()), self._closing_seconds)
        self._workers = []

    def _tell(self, method: str, *arguments: Any) -> None:
        for worker in self._workers:
            worker.tell(method, *arguments)


class _Worker:
    def __init__(self, name: str, run: TrackedRun, waiting: int) -> None:
        self._name, self._run, self._waiting = name, run, waiting
        self._calls: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._told = self._lost = 0
        self._warned = False
        # A daemon: a process may end although a tracker waits for its network.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def tell(self, method: str, *arguments: Any) -> None:
        self._told += 1
        if self._calls.qsize() < self._waiting:
            self._calls.put((method, arguments))
        else:
            self._lose(f"{self._waiting:,} figures and texts wait for it already")

    def end(self, status: str) -> None:
        self._calls.put(("close", (status,)))

    def wait(self, seconds: float, limit: float) -> None:
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._lost += max(0, self._calls.qsize() - 1)
            _log.warning(
                "train.trackers: %s did not end within %.0f s and is left behind; %s", self._name, limit, self._count()
            )
        elif self._lost:
            _log.warning("train.trackers: %s: %s", self._name, self._count())

    def _count(self) -> str:
        return f"{self._lost:,} of {self._told:,} figures, texts and files did not reach it; the run folder has all"

    def _work(self) -> None:
        # BaseException: a library that ends its process when it is unhappy ends this thread's work alone.
        tracker: Tracker | None = None
        try:
            tracker = importlib.import_module(f"jslm.train.trackers.{self._name}").open_tracker(self._run)
        except BaseException as error:
            self._warn(error)
        while True:
            method, arguments = self._calls.get()
            if tracker is None:
                self._lost += method != "close"
            else:
                try:
                    getattr(tracker, method)(*arguments)
                except BaseException as error:
                    self._lost += method != "close"
                    self._warn(error)
            if method == "close":
                return

    def _lose(self, reason: str) -> None:
        self._lost += 1
        self._warn(reason)

    def _warn(self, error: BaseException | str) -> None:
        if self._warned:
            return
        self._warned = True
        said = " ".join(str(error).split())[:300] or type(error).__name__
        _log.warning("train.trackers: %s: %s; the run goes on, and what does not reach it is counted", self._name, said)


class _Ids:
    """`trackers.json`: the name that each tracker has for this run."""

    def __init__(self, path: Path, *, goes_on: bool) -> None:
        self._path, self._lock = path, threading.Lock()
        self._ids = _read_ids(path) if goes_on else {}

    def get(self, name: str) -> str:
        return self._ids.get(name, "")

    def keeper(self, name: str) -> Callable[[str], None]:
        def keep(run_id: str) -> None:
            with self._lock:
                self._ids[name] = run_id
                write_text(self._path, json.dumps(self._ids, indent=1) + "\n")

        return keep


def _read_ids(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text("utf-8"))
        if not (isinstance(found, dict) and all(isinstance(value, str) for value in found.values())):
            raise ValueError("found no JSON object of names")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        _log.warning("%s: damaged (%s); trackers begin a new run", path, error)
        return {}
    return found
