"""A sweep as a table and a plot: `sweep.md` and one page that needs nothing else, `sweep.html`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from jslm.files import write_text

if TYPE_CHECKING:
    from jslm.sweep.runner import Result

_BESIDE = ("val/loss", "val/bits_per_byte", "train_seconds", "tokens_per_s")
_MORE_IS_BETTER = frozenset(("val/accuracy", "val/margin", "val/chosen_reward", "tokens_per_s", "mfu"))
_WIDTH, _HEIGHT, _MARGIN = 420, 260, 48
_STYLE = """
:root { color-scheme: light dark; --ink: #1c1c1a; --paper: #fcfcfa; --faint: #8b8b84; --mark: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececea; --paper: #181816; --mark: #56b4e9; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { text-align: right; padding: .2rem .7rem; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; } text { fill: var(--ink); font-size: 12px; } circle { fill: var(--mark); }
line { stroke: var(--faint); }
"""


def write_report(folder: Path, results: Sequence[Result], metric: str) -> None:
    """Writes `sweep.md` and `sweep.html`: the trials, best first, and the metric over each swept number."""
    header, rows = table(results, metric)
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    write_text(folder / "sweep.md", "\n".join(lines) + "\n")
    head = "".join(f"<th scope='col'>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    plots = "".join(scatter(results, key, metric) for key in _keys(results))
    write_text(
        folder / "sweep.html",
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>Sweep: {escape(folder.name)}</title><style>{_STYLE}</style><h1>{escape(folder.name)}</h1>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{plots}</html>\n",
    )


def table(results: Sequence[Result], metric: str) -> tuple[list[str], list[list[str]]]:
    """(header, rows) of text: the trials with the best `metric` first, those without one last."""
    keys = _keys(results)
    figures = [metric, *(name for name in _BESIDE if name != metric)]
    ordered = sorted(results, key=lambda result: (_rank(result, metric), result.trial.name))
    rows = []
    for result in ordered:
        given = dict(item.partition("=")[::2] for item in result.trial.overrides)
        cells = [_number(result.figures.get(name)) for name in figures]
        if result.error:
            cells[0] = result.error
        rows.append([result.trial.name, *(given.get(key, "") for key in keys), *cells])
    return ["trial", *keys, *figures], rows


def scatter(results: Sequence[Result], key: str, metric: str) -> str:
    """The metric over one swept key as SVG; nothing where the key is no number or fewer than two trials have ended."""
    points = []
    for result in results:
        given = dict(item.partition("=")[::2] for item in result.trial.overrides)
        try:
            x = float(given[key])
        except (KeyError, ValueError):
            return ""
        y = _value(result, metric)
        if math.isfinite(y) and math.isfinite(x):
            points.append((x, y, result.trial.name))
    if len({x for x, _, _ in points}) < 2:
        return ""
    xs, ys = [x for x, _, _ in points], [y for _, y, _ in points]
    by_log = min(xs) > 0 and max(xs) / min(xs) >= 8

    def across(x: float) -> float:
        low, high, at = (math.log(v) if by_log else v for v in (min(xs), max(xs), x))
        return _MARGIN + (at - low) / (high - low) * (_WIDTH - 2 * _MARGIN)

    def down(y: float) -> float:
        spread = max(ys) - min(ys) or 1.0
        return _MARGIN + (max(ys) - y) / spread * (_HEIGHT - 2 * _MARGIN)

    marks = "".join(
        f"<circle cx='{across(x):.1f}' cy='{down(y):.1f}' r='4'><title>{escape(name)}: {x:g}, {y:.4f}</title></circle>"
        for x, y, name in points
    )
    bottom, right = _HEIGHT - _MARGIN, _WIDTH - _MARGIN
    return (
        f"<h2>{escape(key)}</h2><svg viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' role='img' "
        f"aria-label='{escape(metric)} over {escape(key)}{', logarithmic' if by_log else ''}'>"
        f"<line x1='{_MARGIN}' y1='{bottom}' x2='{right}' y2='{bottom}'/>"
        f"<line x1='{_MARGIN}' y1='{_MARGIN}' x2='{_MARGIN}' y2='{bottom}'/>"
        f"<text x='{_MARGIN}' y='{bottom + 18}'>{min(xs):g}</text>"
        f"<text x='{right}' y='{bottom + 18}' text-anchor='end'>{max(xs):g}</text>"
        f"<text x='{_MARGIN}' y='{_MARGIN - 8}'>{escape(metric)} {max(ys):.4f}</text>"
        f"<text x='{_MARGIN + 4}' y='{bottom - 4}'>{min(ys):.4f}</text>{marks}</svg>"
    )


def _keys(results: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(item.partition("=")[0] for result in results for item in result.trial.overrides))


def _rank(result: Result, metric: str) -> float:
    value = _value(result, metric)
    return -value if metric in _MORE_IS_BETTER and value < math.inf else value


def _value(result: Result, metric: str) -> float:
    value = result.figures.get(metric)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else math.inf


def _number(value: object) -> str:
    if not isinstance(value, int | float) or not math.isfinite(value):
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
