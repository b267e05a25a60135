"""A run's report: one HTML file that needs nothing else. `python -m jslm.train.report RUN_DIR` writes it again."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from jslm.cli import add_debug_argument, run_verb
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.runs.remote import opened
from jslm.runs.samples import SAMPLES_FILE, append_samples, drop_samples_after, read_samples
from jslm.train import report_next, report_people, report_sections
from jslm.train.metrics import METRICS_FILE, read_metrics
from jslm.train.report_people import read_judgements
from jslm.train.report_sections import Run
from jslm.train.report_style import SCRIPT, STYLE
from jslm.train.report_summary import summary_lines

__all__ = ["append_samples", "drop_samples_after", "main", "read_samples", "summary_lines", "write_report"]

REPORT_FILE = "report.html"
RUN_FILE = "run.json"
CONFIG_FILE = "config.toml"

# Nothing in the page can reach out, even if a text in it were taken for markup.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def write_report(run_dir: Path) -> Path:
    """Writes `run_dir/report.html` from the folder's files, and returns its path.

    Reads `metrics.jsonl`, `run.json`, `config.toml`, `samples.md` and the results of `jslm judge`; what is absent
    leaves its sections out.

    Raises:
        JslmError: the folder or all of its files are absent, or one can't be read.
    """
    page = _page(_load(run_dir))
    path = run_dir / REPORT_FILE
    write_text(path, page)
    return path


def main(argv: list[str] | None = None) -> int:
    """`python -m jslm.train.report RUN_DIR`: writes the report and prints its path; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m jslm.train.report", description="Write a run's report.html again.")
    parser.add_argument("run_dir", metavar="RUN_DIR", help="folder of the run, or its address")
    add_debug_argument(parser)

    def body(args: argparse.Namespace) -> int:
        print(write_report(Path(opened(args.run_dir, "latest")[0])))
        return 0

    return run_verb("train.report", parser, argv, body)


def _load(run_dir: Path) -> Run:
    files = (METRICS_FILE, RUN_FILE, CONFIG_FILE)
    if not any((run_dir / name).exists() for name in files):
        raise JslmError(f"{run_dir}: found none of {', '.join(files)}; expected the folder of a run")
    metrics, config = run_dir / METRICS_FILE, run_dir / CONFIG_FILE
    lines = read_metrics(metrics) if metrics.exists() else []
    series = _series(lines)
    return Run(
        folder=run_dir,
        info=_with_results(_read_info(run_dir / RUN_FILE), series),
        series=series,
        config=config.read_text(encoding="utf-8") if config.exists() else "",
        samples=read_samples(run_dir / SAMPLES_FILE),
        judgements=read_judgements(run_dir),
    )


def _read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise JslmError(f"{path}: found no valid JSON ({error}); delete the file to go without it") from None
    if not isinstance(info, dict):
        raise JslmError(f"{path}: found {type(info).__name__}, expected a JSON object; delete the file to go without")
    return info


def _series(lines: Sequence[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Points by metric, in order of steps; of two values at a step the later written stands."""
    series: dict[str, dict[int, float]] = {}
    for line in lines:
        for key, value in line.items():
            if key not in ("step", "time") and isinstance(value, int | float):
                series.setdefault(key, {})[line["step"]] = value
    return {key: sorted(points.items()) for key, points in series.items()}


def _with_results(info: dict[str, Any], series: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """`info` with the results that a killed or running run had no time to write."""
    result: dict[str, Any] = {}
    for key in ("val/loss", "val/bits_per_byte", "val/perplexity", "val/accuracy", "val/margin", "train/loss"):
        if key in series:
            result[key] = series[key][-1][1]
    if series:
        result["step"] = max(points[-1][0] for points in series.values())
    if "tokens" in series:
        result["tokens_seen"] = series["tokens"][-1][1]
    if "val/loss" in series:
        result["best_step"], result["best_val/loss"] = min(series["val/loss"], key=lambda point: point[1])
    said = {key: value for key, value in (info.get("result") or {}).items() if value is not None}
    return info | {"result": result | said}


def _page(run: Run) -> str:
    sections = (
        report_sections.head,
        report_sections.charts,
        report_sections.samples,
        report_sections.story_check,
        report_people.people,
        report_next.limits,
        report_next.next_commands,
        report_sections.data,
        report_sections.parameters,
        report_sections.settings,
    )
    body = "\n".join(filter(None, (section(run) for section in sections)))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{escape(run.folder.resolve().name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}\n</main>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


if __name__ == "__main__":
    sys.exit(main())
