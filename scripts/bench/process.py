"""A lane seen from outside: starts its process, asks for turns, and stops it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# A turn that has not come back after this many times its length (and a minute) never will.
_PATIENCE = 20.0


class LaneError(Exception):
    """A lane could not be opened or broke; the message says why in one line."""


@dataclass(frozen=True)
class Spec:
    """What to start: the module whose `open_lane` takes `values`, in the interpreter `python`."""

    name: str
    side: str  # "jslm" or "peer"
    module: str
    python: str
    values: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


class LaneProcess:
    """A running lane: `facts` and `setup_seconds` once started, `turn` for work, `peak_memory` in bytes so far."""

    def __init__(self, spec: Spec, *, timeout: float) -> None:
        """Starts it, and waits until it is warm. Raises LaneError where it fails or takes more than `timeout` s, and
        starts nothing where none are left."""
        if timeout <= 0:
            raise LaneError("no time was left (--minutes)")
        self.spec = spec
        self.peak_memory = 0
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        try:
            self._process = subprocess.Popen(
                [spec.python, "-m", "scripts.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
                encoding="utf-8",
                cwd=ROOT,
                start_new_session=True,
                env={**os.environ, **spec.environment, "PYTHONPATH": path},
            )
        except OSError as error:
            self._log.close()
            raise LaneError(f"{spec.python}: {error.strerror}") from None
        self._answers: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        try:
            answer = self._ask({"module": spec.module, "spec": dict(spec.values)}, timeout)
        except BaseException:
            self.close()
            raise
        self.facts: dict[str, Any] = answer["facts"]
        self.setup_seconds: float = answer["setup_seconds"]

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """(units of work, seconds they took). Raises LaneError."""
        answer = self._ask({"case": case, "seconds": seconds}, 60 + _PATIENCE * seconds)
        return answer["units"], answer["seconds"]

    def close(self) -> None:
        """Stops the process; a second call does nothing."""
        if self._log.closed:
            return
        # The whole session: PyTorch's compiler starts processes of its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                stream and stream.close()
        self._log.close()

    def _ask(self, request: dict[str, Any], timeout: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=max(timeout, 1.0))
        except queue.Empty:
            raise LaneError(f"no answer within {timeout:.0f} s") from None
        except OSError:
            line = ""
        if not line:
            raise LaneError(f"its process ended: {self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise LaneError(answer["error"])
        self.peak_memory = max(self.peak_memory, answer["peak_memory_bytes"])
        return answer

    def _listen(self) -> None:
        assert self._process.stdout is not None
        try:
            for line in self._process.stdout:
                self._answers.put(line)
        except ValueError:
            # Closed while reading: nobody waits for the rest.
            pass
        self._answers.put("")

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1][:300] if lines else "no message"
