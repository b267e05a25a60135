"""What `jslm evaluate` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
import datetime
import os
import sys
from pathlib import Path
from typing import Any

import jax

import jslm
from jslm.evaluate.plan import Plan
from jslm.evaluate.report import as_json, markdown, write_reports
from jslm.evaluate.runner import evaluate_run
from jslm.evaluate.suite import check_suite
from jslm.parallel import start_jax


def run(args: argparse.Namespace, plan: Plan) -> int:
    """Measures the runs and prints the report; returns the exit status."""
    if plan.suite:
        check_suite(plan.suite)
    start_jax()
    names = _names(args.run)
    report: dict[str, Any] = {
        "jslm": jslm.__version__,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": _device(),
        "runs": [
            evaluate_run(run, plan, checkpoint=args.checkpoint, overrides=args.overrides, name=name)
            for run, name in zip(args.run, names, strict=True)
        ],
    }
    print(as_json(report) if args.json else markdown(report), end="")
    if args.out:
        for path in write_reports(report, args.out):
            print(f"wrote {path}", file=sys.stderr)
    return 0


def _names(runs: list[str]) -> list[str]:
    """The last parts of the paths, or the paths where those are the same."""
    short = [Path(os.path.abspath(run)).name for run in runs]
    return short if len(set(short)) == len(short) else runs


def _device() -> str:
    device = jax.local_devices()[0]
    return f"{device.device_kind} ({device.platform}), jax {jax.__version__}"
