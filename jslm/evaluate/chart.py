"""Bars of several models, a panel a figure, as one SVG that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

# Okabe and Ito's colours, which stay apart for every kind of colour vision.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#63635e", "#1c1c1a")
_WIDTH, _MARGIN, _GAP = 880, 16, 32
_BAR, _STEP, _HEAD, _FOOT = 14, 22, 44, 16
_VALUE_ROOM = 64
_NAME_CHARACTERS, _TITLE_CHARACTERS = 22, 52


@dataclass(frozen=True)
class Panel:
    """One figure of all models: values (NaN for none) with their labels and standard errors; `line` is a dashed mark,
    0 for none."""

    title: str
    hint: str
    values: Sequence[float]
    labels: Sequence[str]
    errors: Sequence[float]
    line: float = 0.0


def bars(names: Sequence[str], panels: Sequence[Panel]) -> str:
    """The panels in two columns, each with a bar a name, from zero; nothing without panels."""
    if not panels:
        return ""
    width = (_WIDTH - 2 * _MARGIN - _GAP) / 2
    height = _HEAD + _STEP * len(names) + _FOOT
    rows = -(-len(panels) // 2)
    total = 2 * _MARGIN + rows * height
    drawn = [
        _panel(panel, names, _MARGIN + index % 2 * (width + _GAP), _MARGIN + index // 2 * height, width)
        for index, panel in enumerate(panels)
    ]
    description = "; ".join(
        f"{panel.title}: "
        + ", ".join(f"{name} {label or 'none'}" for name, label in zip(names, panel.labels, strict=True))
        for panel in panels
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {total}" width="{_WIDTH}" height="{total}" '
        'role="img" aria-labelledby="t d" font-family="system-ui, Segoe UI, Roboto, Arial, sans-serif" font-size="12">'
        f'<title id="t">Models side by side</title><desc id="d">{escape(description)}</desc>'
        f'<rect width="{_WIDTH}" height="{total}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def _panel(panel: Panel, names: Sequence[str], left: float, top: float, width: float) -> str:
    longest = max(min(len(name), _NAME_CHARACTERS) for name in names)
    start = left + 8 + 7 * longest
    room = left + width - _VALUE_ROOM - start
    ends = [value + error for value, error in zip(panel.values, panel.errors, strict=True) if math.isfinite(value)]
    largest = max([*ends, panel.line]) or 1.0
    bottom = top + _HEAD + _STEP * len(names)
    title = escape(_short(panel.title, _TITLE_CHARACTERS))
    parts = [
        f'<text x="{left:.1f}" y="{top + 14:.1f}" font-weight="600" fill="#1c1c1a">{title}</text>'
        f'<text x="{left:.1f}" y="{top + 30:.1f}" fill="#63635e">{escape(panel.hint)}</text>'
        f'<path d="M{start:.1f} {top + _HEAD - 6:.1f}V{bottom:.1f}" stroke="#63635e"/>'
    ]
    for index, (name, value, label, error) in enumerate(
        zip(names, panel.values, panel.labels, panel.errors, strict=True)
    ):
        y = top + _HEAD + _STEP * index
        middle = y + _BAR / 2
        parts.append(
            f'<text x="{start - 6:.1f}" y="{middle + 4:.1f}" text-anchor="end" fill="#1c1c1a">'
            f"{escape(_short(name))}</text>"
        )
        if not math.isfinite(value):
            continue
        length = room * value / largest
        parts.append(
            f'<rect x="{start:.1f}" y="{y:.1f}" width="{length:.1f}" height="{_BAR}" '
            f'fill="{_COLOURS[index % len(_COLOURS)]}"/>'
        )
        end = start + length
        if error:
            reach = room * error / largest
            parts.append(f'<path d="M{end - reach:.1f} {middle:.1f}H{end + reach:.1f}" stroke="#1c1c1a"/>')
            end += reach
        parts.append(f'<text x="{end + 6:.1f}" y="{middle + 4:.1f}" fill="#1c1c1a">{escape(label)}</text>')
    if panel.line:
        x = start + room * panel.line / largest
        parts.append(
            f'<path d="M{x:.1f} {top + _HEAD - 6:.1f}V{bottom:.1f}" stroke="#63635e" stroke-dasharray="4 3"/>'
            f'<text x="{x + 4:.1f}" y="{bottom + 8:.1f}" fill="#63635e" font-size="10">chance</text>'
        )
    return "".join(parts)


def _short(name: str, limit: int = _NAME_CHARACTERS) -> str:
    """Paths differ at their ends."""
    return name if len(name) <= limit else "…" + name[1 - limit :]
