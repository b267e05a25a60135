"""What the page shows of a model: its facts, and its run's losses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from jslm.formats import inspect_model

_MAX_POINTS = 400


def run_card(path: Path) -> dict[str, Any]:
    """`card`, names to values, and `curves`: `train` and `val`, each a list of (step, nats a token).

    A model file has no curves. Raises JslmError where the file has gone or is damaged since it was opened.
    """
    return {"card": inspect_model(path), "curves": read_curves(path / "metrics.jsonl")}


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """The losses of a run's `metrics.jsonl`, thinned to some hundred points; empty where there is none."""
    curves: dict[str, dict[int, float]] = {"train": {}, "val": {}}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        lines = []
    for line in lines:
        try:
            found = json.loads(line)
        except (ValueError, RecursionError):
            # The last line of a run that is being written, or one that a crash spoilt.
            continue
        if not isinstance(found, dict) or not isinstance(found.get("step"), int):
            continue
        for name, points in curves.items():
            loss = found.get(f"{name}/loss")
            if isinstance(loss, int | float) and math.isfinite(loss):
                # A resumed run writes some steps again: the later ones count.
                points[int(found["step"])] = float(loss)
    return {name: _thinned(sorted(points.items())) for name, points in curves.items()}


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Means over blocks of neighbours, so that noise does not hide the course."""
    if len(points) <= _MAX_POINTS:
        return points
    size = -(-len(points) // _MAX_POINTS)
    blocks = [points[at : at + size] for at in range(0, len(points), size)]
    return [(block[-1][0], sum(loss for _, loss in block) / len(block)) for block in blocks]
