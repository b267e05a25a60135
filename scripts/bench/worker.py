"""The process of one lane: `python -m scripts.bench.worker`, told what to do by lines of JSON on stdin.

The first line is `{"module": ..., "spec": {...}}`, answered with the lane's facts; each later one `{"case": ...,
"seconds": ...}`, a turn. Answers are lines of JSON on stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Protocol


class Lane(Protocol):
    """One program in one variant, opened and warm."""

    # Whatever the table and the JSON need to know of it; see `report.py`.
    facts: dict[str, Any]

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Works for about `seconds`, once at least; returns (units of work done, the seconds they took)."""


def main() -> int:
    """Answers until stdin ends."""
    # Libraries that print must not get in between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    lane: Lane | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if lane is None:
                started = time.perf_counter()
                lane = importlib.import_module(request["module"]).open_lane(request["spec"])
                answer = {"facts": lane.facts, "setup_seconds": time.perf_counter() - started}
            else:
                units, seconds = lane.turn(request["case"], request["seconds"])
                answer = {"units": units, "seconds": seconds}
            # On an accelerator, the lane knows.
            answer["peak_memory_bytes"] = lane.facts.get("device_memory_bytes") or peak_memory()
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    return 0


def peak_memory() -> int:
    """Most memory resident at once in this process so far, in bytes."""
    try:
        # getrusage's figure begins with that of the process that started this one.
        status = Path("/proc/self/status").read_text("ascii")
        return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    sys.exit(main())
