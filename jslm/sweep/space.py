"""What a sweep tries: a grid of values, or draws from ranges."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from jslm.errors import JslmError


@dataclass(frozen=True)
class Trial:
    """One run: its folder's name, and the overrides that make it."""

    name: str
    overrides: tuple[str, ...]


def grid_trials(axes: Sequence[str]) -> list[Trial]:
    """Every combination of axes such as `optimizer.learning_rate=1e-3,3e-3`; the last axis changes fastest.

    Values are split at commas outside brackets and quotes. Raises JslmError for an axis without values, or a key that
    comes twice.
    """
    parsed = [_parse_axis("--grid", axis) for axis in axes]
    _check_distinct([key for key, _ in parsed])
    choices = [[f"{key}={value}" for value in _split(text)] for key, text in parsed]
    return _named(list(itertools.product(*choices)))


def random_trials(axes: Sequence[str], count: int, seed: int = 0) -> list[Trial]:
    """`count` draws from axes such as `optimizer.learning_rate=log:1e-4:1e-2`.

    `uniform:LOW:HIGH`, `log:LOW:HIGH` (uniform in the logarithm), `int:LOW:HIGH` (both ends count), or values with
    commas between them, of which one is chosen. The same seed draws the same; the first n of a longer sweep are those
    of a shorter one. Raises JslmError for a range that is none.
    """
    if count < 1:
        raise JslmError(f"--trials = {count}; expected 1 or more")
    parsed = [_parse_axis("--random", axis) for axis in axes]
    _check_distinct([key for key, _ in parsed])
    draws = random.Random(seed)
    return _named([tuple(f"{key}={_draw(key, text, draws)}" for key, text in parsed) for _ in range(count)])


def _named(combinations: Sequence[tuple[str, ...]]) -> list[Trial]:
    return [Trial(f"trial-{number:04d}", overrides) for number, overrides in enumerate(combinations, 1)]


def _parse_axis(flag: str, axis: str) -> tuple[str, str]:
    key, separator, text = axis.partition("=")
    if not separator or not key.strip() or not text.strip():
        raise JslmError(f"{flag} {axis!r}: expected section.key=VALUES, as in optimizer.learning_rate=1e-3,3e-3")
    return key.strip(), text.strip()


def _check_distinct(keys: Sequence[str]) -> None:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise JslmError(f"{key} is swept twice; give all of its values at once")


def _split(text: str) -> list[str]:
    """At the commas that no bracket or quote encloses."""
    parts, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and not depth:
            parts.append("")
            continue
        parts[-1] += char
    return [part.strip() for part in parts]


def _draw(key: str, text: str, draws: random.Random) -> str:
    kind, *bounds = text.split(":")
    if kind not in ("uniform", "log", "int") or len(bounds) != 2:
        return draws.choice(_split(text))
    try:
        low, high = (float(bound) for bound in bounds)
    except ValueError:
        raise JslmError(f"--random {key}={text}: {bounds} are not two numbers") from None
    if not low < high or not (math.isfinite(low) and math.isfinite(high)) or (kind == "log" and low <= 0):
        raise JslmError(
            f"--random {key}={text}: expected LOW:HIGH with LOW under HIGH"
            + (", both above 0" if kind == "log" else "")
        )
    if kind == "int":
        return str(draws.randint(round(low), round(high)))
    value = draws.uniform(low, high) if kind == "uniform" else math.exp(draws.uniform(math.log(low), math.log(high)))
    return f"{value:.6g}"
