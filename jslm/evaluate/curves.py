"""What a rewriter's confidence is worth, drawn: precision at each coverage, and how often rewrites are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

_SIZE, _LEFT, _TOP, _GAP, _ROW = 260, 60, 56, 110, 380
_TICKS = (0.0, 0.25, 0.5, 0.75, 1.0)


def curves(runs: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of two plots for each model and each file of `answers`; nothing where there are none with a rewrite."""
    rows = [
        (f"{run['name']} on {Path(file).name}", record)
        for run in runs
        for file, record in run.get("answers", {}).items()
        if record["reliability"]
    ]
    if not rows:
        return ""
    width, height = 2 * (_LEFT + _SIZE) + _GAP, _ROW * len(rows)
    drawn = []
    for number, (title, record) in enumerate(rows):
        top = _ROW * number + _TOP
        drawn.append(f'<text x="{_LEFT}" y="{top - 32}" font-weight="600">{escape(title)}</text>')
        points = [(point["coverage"], point["precision"]) for point in record["curve"]]
        drawn.append(_plot(_LEFT, top, "answered, of the sentences to change", "precision", points, diagonal=False))
        points = [(part["confidence"], part["right"]) for part in record["reliability"]]
        drawn.append(_plot(2 * _LEFT + _SIZE + _GAP // 2, top, "confidence", "right", points, diagonal=True))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, Segoe UI, Roboto, Arial, sans-serif" font-size="12">'
        "<title>Precision at coverage, and reliability of the confidence</title>"
        f'<rect width="{width}" height="{height}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def _plot(
    left: int, top: int, x_name: str, y_name: str, points: Sequence[tuple[float, float]], *, diagonal: bool
) -> str:
    def place(x: float, y: float) -> str:
        return f"{left + _SIZE * x:.1f} {top + _SIZE * (1 - y):.1f}"

    parts = [f'<rect x="{left}" y="{top}" width="{_SIZE}" height="{_SIZE}" fill="none" stroke="#63635e"/>']
    for tick in _TICKS:
        x, y = place(tick, tick).split()
        parts.append(f'<text x="{x}" y="{top + _SIZE + 16}" text-anchor="middle" fill="#63635e">{tick:g}</text>')
        parts.append(f'<text x="{left - 6}" y="{float(y) + 4:.1f}" text-anchor="end" fill="#63635e">{tick:g}</text>')
    parts.append(f'<text x="{left + _SIZE / 2}" y="{top + _SIZE + 34}" text-anchor="middle">{escape(x_name)}</text>')
    parts.append(f'<text x="{left}" y="{top - 8}">{escape(y_name)}</text>')
    if diagonal:
        parts.append(f'<path d="M{place(0, 0)}L{place(1, 1)}" stroke="#63635e" stroke-dasharray="4 3"/>')
    if points:
        line = "L".join(place(*point) for point in points)
        parts.append(f'<path d="M{line}" fill="none" stroke="#0072b2" stroke-width="2"/>')
    for point in points:
        at = place(*point).split()
        parts.append(f'<circle cx="{at[0]}" cy="{at[1]}" r="4" fill="#0072b2"/>')
    return "".join(parts)
