"""Line charts as inline SVG: nice ticks, thinned lines, a table of the same numbers, no script needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from jslm.train.metrics import format_count

Points = Sequence[tuple[float, float]]

MAX_POINTS = 500
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 14, 14, 28


@dataclass(frozen=True)
class Line:
    """A named series over steps; `style` is its CSS class (`train` or `val`), `dots` marks each point."""

    name: str
    points: Points
    style: str = "train"
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """What a figure shows: lines over steps, and the marks on them.

    Attributes:
        slug: letters for the ids inside the page.
        wide: whether it takes the page's whole width.
        log: whether the vertical axis is logarithmic; needs values above 0.
        from_zero: whether the vertical axis starts at 0.
        ceiling: values above it are cut off, so that a high start does not flatten the rest.
        floor: a dashed horizontal line and its label.
        bar: another one, which the curves are to get below; its label stands on the right.
        best: a ringed point and its label.
        note: a sentence under the chart.
    """

    slug: str
    title: str
    lines: Sequence[Line]
    wide: bool = False
    log: bool = False
    from_zero: bool = False
    ceiling: float | None = None
    floor: tuple[float, str] | None = None
    bar: tuple[float, str] | None = None
    best: tuple[float, float, str] | None = None
    note: str = ""


def figure(chart: Chart) -> str:
    """HTML of a chart with its legend and its numbers; nothing where no line has a point."""
    lines = [Line(line.name, thin(line.points), line.style, line.dots) for line in chart.lines if line.points]
    if not lines:
        return ""
    heading = f"<h3>{escape(chart.title)}</h3>"
    legend = ""
    if len(lines) > 1:
        keys = "".join(f'<span><i class="key {line.style}"></i>{escape(line.name)}</span>' for line in lines)
        legend = f'<p class="legend">{keys}</p>'
    if chart.wide:
        drawings = _svg(chart, lines, 880, 320, "broad") + _svg(chart, lines, 420, 300, "slim")
    else:
        drawings = _svg(chart, lines, 420, 210, "both")
    note = f'<p class="note">{escape(chart.note)}</p>' if chart.note else ""
    return (
        f'<figure class="chart{" wide" if chart.wide else ""}">{heading}{legend}{drawings}'
        f'{note}<div class="foot"><p class="readout" aria-hidden="true"></p>{_table(chart, lines)}</div></figure>'
    )


def thin(points: Points, limit: int = MAX_POINTS) -> Points:
    """At most `limit` of the points, keeping the ends and the lowest and highest of each stretch, so no spike is lost.

    Points must be in order of steps.
    """
    if len(points) <= limit:
        return points
    buckets = max(1, (limit - 2) // 2)
    inner = points[1:-1]
    kept = [points[0]]
    for bucket in range(buckets):
        stretch = inner[bucket * len(inner) // buckets : (bucket + 1) * len(inner) // buckets]
        extremes = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(extremes)
    return [*kept, points[-1]]


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten inside [low, high]: `most` at most, but two where they exist."""
    span = high - low
    if not span > 0:
        return [low]
    power = math.floor(math.log10(span / most))
    for step in (factor * 10.0 ** (power + up) for up in (0, 1, 2) for factor in (1.0, 2.0, 2.5, 5.0)):
        # A hair of tolerance, for 0.3 / 0.1 is 2.9999999999999996.
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if last - first < most:
            return [round(index * step, 12 - math.floor(math.log10(step))) for index in range(first, last + 1)]
    return [low]


def log_ticks(low: float, high: float, most: int) -> list[float]:
    """1, 2 and 5 times powers of ten inside [low, high], or powers alone, or every so many powers, to fit `most`."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        ticks = [value for decade in decades for factor in factors if low <= (value := factor * 10.0**decade) <= high]
        if len(ticks) <= most:
            return ticks if len(ticks) > 1 else nice_ticks(low, high, most)
    return ticks[:: -(-len(ticks) // most)]


def tick_label(value: float, largest: float) -> str:
    """A short label with no digit lost; `largest` is the axis's largest size, so that its labels look alike."""
    if value == 0:
        return "0"
    if largest < 0.01:
        mantissa, _, exponent = f"{value:.6e}".partition("e")
        return f"{float(mantissa):g}e{int(exponent)}"
    for least, size, unit in ((1e9, 1e9, "B"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if largest >= least:
            return f"{value / size:g}{unit}"
    return f"{value:,.6f}".rstrip("0").rstrip(".")


class _Axis:
    """Values to pixels, linear or logarithmic."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False) -> None:
        self.low, self.high, self.start, self.end, self._log = low, high, start, end, log

    def at(self, value: float) -> float:
        low, high = self.low, self.high
        if self._log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def _vertical_axis(chart: Chart, lines: Sequence[Line], height: int) -> tuple[_Axis, list[float]]:
    values = [y for line in lines for _, y in line.points]
    values += [value for value, _ in filter(None, (chart.floor, chart.bar))]
    low, high = min(values), max(values)
    if chart.ceiling is not None:
        high = min(high, max(chart.ceiling, low))
    if chart.from_zero:
        low = min(0.0, low)
    top, bottom = _TOP, height - _BOTTOM
    if chart.log:
        low, high = low / 1.15, high * 1.15
        return _Axis(low, high, bottom, top, log=True), log_ticks(low, high, 7)
    margin = 0.05 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = (low if chart.from_zero and low == 0.0 else low - margin), high + margin
    return _Axis(low, high, bottom, top), nice_ticks(low, high, 7 if height > 250 else 5)


def _svg(chart: Chart, lines: Sequence[Line], width: int, height: int, kind: str) -> str:
    vertical, y_ticks = _vertical_axis(chart, lines, height)
    last_step = max(x for line in lines for x, _ in line.points)
    first_step = min(0.0, min(x for line in lines for x, _ in line.points))
    left, right, bottom = _LEFT, width - _RIGHT, height - _BOTTOM
    across = _Axis(first_step, max(last_step, first_step + 1), left, right)
    x_ticks = [tick for tick in nice_ticks(across.low, across.high, 9 if width > 600 else 5) if tick == round(tick)]
    ids = f"{chart.slug}-{kind}"
    parts = [
        f'<svg class="{kind}" viewBox="0 0 {width} {height}" role="img" aria-labelledby="{ids}-t {ids}-d" '
        f'data-span="{left} {right} {across.low:g} {across.high:g}">',
        f'<title id="{ids}-t">{escape(chart.title)}</title><desc id="{ids}-d">{escape(_describe(chart, lines))}</desc>',
        f'<clipPath id="{ids}-c"><path d="M{left} 0H{width}V{bottom + 6}H{left}Z"/></clipPath>',
    ]
    largest = max(abs(tick) for tick in y_ticks)
    for tick in y_ticks:
        y = vertical.at(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(f'<text class="tick" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">')
        parts.append(f"{tick_label(tick, tick if chart.log else largest)}</text>")
    parts.append(f'<path class="axis" d="M{left} {bottom}H{right}"/>')
    parts += [_step_label(across, tick, bottom, right) for tick in x_ticks]
    for line in lines:
        parts.append(_draw(line, across, vertical, f"{ids}-c", width))
    parts.append(f'<path class="cursor" d="M0 {_TOP}V{bottom}" visibility="hidden"/>')
    for level, place in ((chart.floor, f'x="{left + 8}"'), (chart.bar, f'x="{right - 8}" text-anchor="end"')):
        if level:
            y = vertical.at(level[0])
            parts.append(f'<path class="floor" d="M{left} {y:.1f}H{right}"/>')
            parts.append(f'<text class="mark" {place} y="{y - 7:.1f}">{escape(level[1])}</text>')
    if chart.best and chart.best[1] <= vertical.high:
        parts.append(_mark_best(chart.best, lines, across, vertical))
    return "".join(parts) + "</svg>"


def _mark_best(best: tuple[float, float, str], lines: Sequence[Line], across: _Axis, vertical: _Axis) -> str:
    step, value, label = best
    x, y = across.at(step), vertical.at(value)
    half = 3.4 * len(label)
    centre = min(max(x, across.start + half), across.end - half)
    under = [vertical.at(v) for line in lines for at, v in line.points if abs(across.at(at) - centre) < half + 30]
    # Above every line that passes under it, but never out of the drawing.
    baseline = max(_TOP + 12.0, min([*under, y]) - 20)
    return (
        f'<path class="leader" d="M{x:.1f} {y - 6:.1f}V{baseline + 5:.1f}"/>'
        f'<circle class="best" cx="{x:.1f}" cy="{y:.1f}" r="6"/>'
        f'<text class="mark" x="{centre:.1f}" y="{baseline:.1f}" text-anchor="middle">{escape(label)}</text>'
    )


def _step_label(across: _Axis, tick: float, bottom: float, right: float) -> str:
    x = across.at(tick)
    text = f"{tick:,.6g}" if tick < 1e6 else format_count(tick)
    if tick == 0:
        text = "step 0"
    # A label centred on the last tick could leave the drawing.
    anchor = "end" if x > right - 14 else "middle"
    return (
        f'<path class="axis" d="M{x:.1f} {bottom}v4"/>'
        f'<text class="tick" x="{x:.1f}" y="{bottom + 19}" text-anchor="{anchor}">{text}</text>'
    )


def _draw(line: Line, across: _Axis, vertical: _Axis, clip: str, width: int) -> str:
    pixels = [(across.at(x), vertical.at(y)) for x, y in line.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in pixels)
    drawn = f'<path class="line {line.style}" d="{path}"/>'
    if line.dots or len(pixels) == 1:
        # Dots closer than two diameters would merge into a thick line.
        radius = min(3.0, max(1.0, (width - _LEFT) / len(pixels) / 4))
        drawn += "".join(
            f'<circle class="{line.style}" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"/>' for x, y in pixels
        )
    return f'<g clip-path="url(#{clip})">{drawn}</g>'


def _describe(chart: Chart, lines: Sequence[Line]) -> str:
    said = [
        f"{line.name}: from {line.points[0][1]:.4g} at step {line.points[0][0]:,.0f} to {line.points[-1][1]:.4g} "
        f"at step {line.points[-1][0]:,.0f}"
        for line in lines
    ]
    marks = [label for _, label in filter(None, (chart.floor, chart.bar))]
    return "; ".join(said + marks + ([chart.best[2]] if chart.best else [])) + "."


def _table(chart: Chart, lines: Sequence[Line]) -> str:
    rows: dict[float, list[str]] = {}
    for column, line in enumerate(lines):
        for x, y in line.points:
            rows.setdefault(x, [""] * len(lines))[column] = f"{y:.4g}" if abs(y) < 1e4 else f"{y:,.0f}"
    head = "".join(f'<th scope="col">{escape(line.name)}</th>' for line in lines)
    body = "".join(
        f"<tr><td>{x:,.0f}</td>" + "".join(f"<td>{cell}</td>" for cell in rows[x]) + "</tr>" for x in sorted(rows)
    )
    return (
        '<details class="numbers"><summary>Numbers</summary><div class="scroll" tabindex="0"><table>'
        f"<caption>{escape(chart.title)}</caption>"
        f'<thead><tr><th scope="col">step</th>{head}</tr></thead><tbody>{body}</tbody></table></div></details>'
    )
