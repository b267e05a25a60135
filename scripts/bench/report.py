"""Figures as tables for people and as JSON."""

from __future__ import annotations

from typing import Any

from scripts.bench.parts import Case, Peaks, best_of
from scripts.bench.rounds import Measured, fastest, quartiles, ratios

_TITLES = {
    "peaks": "This machine's peaks",
    "train": "Training: whole optimizer steps",
    "decode": "Decoding: greedy text, prompt included",
    "loader": "The loader alone",
    "tokenize": "Text to ids",
    "startup": "Start-up: seconds from the start of a process",
}
_HEAD = ("", "median", "quartiles", "FLOP/s", "MFU", "bandwidth", "peak memory", "set-up", "to best peer")


def case_to_json(case: Case, peaks: Peaks) -> dict[str, Any]:
    """The figures of one comparison; what was not measured is null."""
    ours, peer = best_of(case)
    best = fastest(case.lanes, "jslm")
    return {
        "case": case.name,
        **case.about,
        "unit": case.rate_unit,
        "lanes": [_lane_to_json(lane, case, peaks, peer) for lane in case.lanes],
        "jslm": ours.name if ours else None,
        "best_jslm": best.name if best else None,
        "best_peer": peer.name if peer else None,
        "ratio": _ratio(ours, peer),
        "best_ratio": _ratio(best, peer),
    }


def table(part: str, cases: list[dict[str, Any]]) -> str:
    """The cases of a part, from `case_to_json`, as a Markdown table each; columns without a figure are left out."""
    return "\n\n".join([f"## {_TITLES[part]}", *(_one_table(case) for case in cases)])


def summary(parts: dict[str, list[dict[str, Any]]]) -> str:
    """A line for each comparison with a peer: jslm's speed over the best peer's."""
    lines = [
        f"{part} {case['case']}: {case['ratio']['median']:.2f} times {case['best_peer']}"
        + (f" ({case['best_jslm']}: {case['best_ratio']['median']:.2f})" if case["best_jslm"] != case["jslm"] else "")
        for part, cases in parts.items()
        for case in cases
        if case["ratio"] and part != "peaks"
    ]
    return "\n".join(["## jslm's speed over the best peer's", *(f"- {line}" for line in lines)]) if lines else ""


def _lane_to_json(lane: Measured, case: Case, peaks: Peaks, peer: Measured | None) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "name": lane.name,
        "side": lane.side,
        "rate": None,
        "seconds": None,
        "flops_per_second": None,
        "mfu": None,
        "bandwidth_share": None,
        "peak_memory_bytes": lane.peak_memory or None,
        "setup_seconds": lane.setup_seconds,
        "ratio": None if lane is peer else _ratio(lane, peer),
        "error": lane.error or None,
        "facts": lane.facts,
    }
    if not lane.turns:
        return figures
    first, middle, third = quartiles(lane.rates())
    figures["rate"] = {"median": middle, "first_quartile": first, "third_quartile": third, "turns": lane.rates()}
    figures["seconds"] = [seconds for _, seconds in lane.turns.values()]
    if lane.name in case.flops:
        figures["flops_per_second"] = middle * case.flops[lane.name]
        if peak := peaks.flops.get(lane.facts.get("dtype", "")):
            figures["mfu"] = figures["flops_per_second"] / peak
    if lane.name in case.bytes and peaks.bandwidth:
        figures["bandwidth_share"] = middle * case.bytes[lane.name] / peaks.bandwidth
    return figures


def _ratio(ours: Measured | None, peer: Measured | None) -> dict[str, float] | None:
    if ours is None or peer is None or not (found := ratios(ours, peer)):
        return None
    first, middle, third = quartiles(found)
    return {"median": middle, "first_quartile": first, "third_quartile": third}


def _one_table(case: dict[str, Any]) -> str:
    rows = [_row(lane, case["unit"]) for lane in case["lanes"]]
    used = [index for index in range(len(_HEAD)) if index == 0 or any(row[index] for row in rows)]
    head = [case["case"] if index == 0 else _HEAD[index] for index in used]
    cells = [[row[index] for index in used] for row in rows]
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(len(used))]

    def line(values: list[str]) -> str:
        padded = [
            value.ljust(width) if not column else value.rjust(width)
            for column, (value, width) in enumerate(zip(values, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|" + "|".join("-" * (width + 1) + ("-" if not column else ":") for column, width in enumerate(widths)) + "|"
    notes = [f"{lane['name']}: {lane['error']}" for lane in case["lanes"] if lane["error"]]
    return "\n".join([line(head), rule, *map(line, cells), *(["", *notes] if notes else [])])


def _row(lane: dict[str, Any], unit: str) -> list[str]:
    rate, ratio = lane["rate"], lane["ratio"]
    if not rate:
        return [lane["name"], "–", *[""] * (len(_HEAD) - 2)]
    if unit == "starts":
        first, middle, third = quartiles(lane["seconds"])
        median, spread = f"{middle:.2f} s", f"{first:.2f} to {third:.2f}"
    else:
        median = f"{_short(rate['median'])} {unit}/s"
        spread = f"{_short(rate['first_quartile'])} to {_short(rate['third_quartile'])}"
    return [
        lane["name"],
        median,
        spread if len(rate["turns"]) > 1 else "",
        _short(lane["flops_per_second"]) if lane["flops_per_second"] else "",
        f"{lane['mfu']:.0%}" if lane["mfu"] else "",
        f"{lane['bandwidth_share']:.0%}" if lane["bandwidth_share"] else "",
        f"{lane['peak_memory_bytes'] / 2**20:,.0f} MiB" if lane["peak_memory_bytes"] else "",
        f"{lane['setup_seconds']:.1f} s" if lane["setup_seconds"] else "",
        f"{ratio['median']:.2f}" if ratio else "",
    ]


def _short(value: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}" if value < 999.5 * size else f"{value / size:.0f}{unit}"
    return f"{value:.3g}"
