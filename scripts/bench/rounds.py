"""Lanes take turns; what their times say."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from scripts.bench.process import LaneError, LaneProcess, Spec

Say = Callable[[str], None]
# Threads that spin while they wait for work give up within this time.
_REST = 0.2
_LONGEST_START = 300.0


@dataclass
class Budget:
    """How much is measured: `rounds` of turns of `seconds`, all of it before `deadline` (`time.monotonic`)."""

    rounds: int
    seconds: float
    deadline: float

    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.monotonic()


@dataclass
class Measured:
    """What one lane did in one case. `turns`: round -> (units, seconds)."""

    name: str
    side: str
    facts: dict[str, Any] = field(default_factory=dict)
    setup_seconds: float | None = None
    peak_memory: int = 0
    turns: dict[int, tuple[float, float]] = field(default_factory=dict)
    error: str = ""

    def rates(self) -> list[float]:
        """Units a second in each turn."""
        return [units / seconds for units, seconds in self.turns.values()]


def take_turns(
    specs: Sequence[Spec], cases: Sequence[str], budget: Budget, say: Say, *, together: bool = False
) -> dict[str, list[Measured]]:
    """Case -> what each lane did in it.

    jslm's lanes stay from the beginning to the end. Each peer is started, takes one turn in each case between turns of
    theirs, and goes again unless it is the fastest peer so far in some case: so at most a few models are in memory, and
    the best peer has as many turns as jslm. A lane that fails, or for which no time is left, says so in `error`.

    `together` starts all lanes at once, before any turn: where there are cores for it, and an accelerator to be paid.
    """
    ours = [spec for spec in specs if spec.side == "jslm"]
    peers = [spec for spec in specs if spec.side == "peer"]
    found = {case: [Measured(spec.name, spec.side) for spec in specs] for case in cases}
    running: dict[str, LaneProcess] = {}
    number = 0

    def entries(name: str) -> list[Measured]:
        return [entry for case in cases for entry in found[case] if entry.name == name]

    def fail(name: str, reason: str) -> None:
        say(f"  {name}: {reason}")
        for entry in entries(name):
            entry.error = entry.error or reason
        if lane := running.pop(name, None):
            lane.close()

    def start(spec: Spec) -> None:
        try:
            lane = LaneProcess(spec, timeout=min(budget.left(), _LONGEST_START))
        except LaneError as error:
            return fail(spec.name, f"not measured: {error}")
        running[spec.name] = lane
        for entry in entries(spec.name):
            entry.facts, entry.setup_seconds, entry.peak_memory = lane.facts, lane.setup_seconds, lane.peak_memory
        say(f"  {spec.name}: ready after {lane.setup_seconds:.1f} s")

    def one_round(names: Sequence[str], cases: Sequence[str]) -> None:
        nonlocal number
        number += 1
        # Every other round backwards, so that none always comes first.
        for name in names[:: 1 if number % 2 else -1]:
            for case in cases:
                if name not in running:
                    continue
                time.sleep(_REST)
                entry = next(entry for entry in found[case] if entry.name == name)
                try:
                    entry.turns[number] = running[name].turn(case, budget.seconds)
                    entry.peak_memory = running[name].peak_memory
                except LaneError as error:
                    fail(name, f"broke off: {error}")

    def best_peers() -> set[str]:
        return {best.name for case in cases if (best := fastest(found[case], "peer"))}

    try:
        first = [*ours, *(peers if together else [])]
        with ThreadPoolExecutor(max(1, len(first) if together else 1)) as pool:
            list(pool.map(start, first))
        for spec in peers:
            if not together:
                start(spec)
            if spec.name in running and budget.rounds:
                one_round([*(one.name for one in ours), spec.name], cases)
            tried = {
                one.name for one in peers if one.name in running and any(entry.turns for entry in entries(one.name))
            }
            for name in tried - best_peers():
                running.pop(name).close()
        for _ in range(budget.rounds):
            if budget.left() <= 0:
                say("  no time was left for all rounds (--minutes)")
                break
            one_round(list(running), cases)
    finally:
        for lane in running.values():
            lane.close()
    return found


def fastest(entries: Sequence[Measured], side: str) -> Measured | None:
    """The lane of a side with the highest median rate; None where none was measured."""
    measured = [entry for entry in entries if entry.side == side and entry.turns]
    return max(measured, key=lambda entry: statistics.median(entry.rates()), default=None)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """(first quartile, median, third quartile), interpolated; of one value, that value three times."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    first, middle, third = statistics.quantiles(values, n=4, method="inclusive")
    return first, middle, third


def ratios(entry: Measured, other: Measured) -> list[float]:
    """The rate of `entry` over that of `other`, in each round that both took part in."""
    rounds = sorted(entry.turns.keys() & other.turns.keys())
    rate = [
        tuple(units / seconds for units, seconds in (one.turns[number] for one in (entry, other))) for number in rounds
    ]
    return [mine / theirs for mine, theirs in rate]
