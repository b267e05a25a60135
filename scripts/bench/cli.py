"""`python scripts/bench.py train|decode|loader|tokenize|startup|all`."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jslm.cli import add_debug_argument, run_verb
from jslm.errors import JslmError
from scripts.bench.machine import describe_machine
from scripts.bench.parts import (
    Case,
    Peaks,
    measure_decode,
    measure_loader,
    measure_peaks,
    measure_tokenize,
    measure_train,
)
from scripts.bench.process import ROOT
from scripts.bench.report import case_to_json, summary, table
from scripts.bench.settings import Settings
from scripts.bench.sizes import SIZES
from scripts.bench.startup import measure_startup

# The quick ones first: what the time does not suffice for is the longest decoding.
PARTS: dict[str, Callable[[Settings], list[Case]]] = {
    "startup": measure_startup,
    "loader": measure_loader,
    "tokenize": measure_tokenize,
    "train": measure_train,
    "decode": measure_decode,
}
_NEEDS_PEAKS = {"train", "decode"}
# Of a part whose sizes were not chosen.
_SIZES = {
    "startup": ("small",),
    "loader": ("small", "124m"),
    "decode": ("tiny", "15m", "124m"),
}


def main(argv: list[str] | None = None) -> int:
    """Measures, prints tables, writes the JSON; returns the exit status."""
    return run_verb("bench", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python scripts/bench.py",
        description="Speed of jslm on this machine, and beside PyTorch (transformers) and llama.cpp. Use it while the "
        "machine does nothing else. The first run compiles more than later ones; --rounds 0 does only that.",
    )
    parser.add_argument("part", choices=[*PARTS, "all"])
    parser.add_argument("--sizes", metavar="A,B", help=f"of {', '.join(SIZES)} (default: those that tell most)")
    parser.add_argument(
        "--peer", choices=["torch", "none"], default="none", help="what to measure beside (default none)"
    )
    parser.add_argument(
        "--peer-python",
        metavar="PATH",
        help="interpreter that has PyTorch (default: .venv-peers/bin/python, from make test-peers)",
    )
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each lane (default 5)")
    parser.add_argument("--seconds", type=float, default=2.0, metavar="S", help="length of a turn (default 2)")
    parser.add_argument("--minutes", type=float, default=28.0, metavar="M", help="stop measuring by then (default 28)")
    parser.add_argument("--json", metavar="FILE", help="write all figures there")
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    deadline = time.monotonic() + 60 * args.minutes
    chosen = _sizes(args.sizes)
    for name, value, least in (("rounds", args.rounds, 0), ("seconds", args.seconds, 0), ("minutes", args.minutes, 0)):
        if not value >= least:
            raise JslmError(f"--{name} {value}: expected {least} or more")
    target = Path(args.json) if args.json else None
    if target and not target.absolute().parent.is_dir():
        raise JslmError(f"--json {target}: there is no folder {target.absolute().parent}; make it first")
    parts: dict[str, list[dict[str, Any]]] = {}
    failed: list[str] = []
    figures = {"machine": describe_machine(), "arguments": vars(args), "parts": parts}
    with tempfile.TemporaryDirectory(prefix="jslm-bench-") as folder:

        def settings(part: str) -> Settings:
            sizes = chosen or _SIZES.get(part, tuple(SIZES))
            own = Path(folder, part)
            own.mkdir()
            return Settings(
                sizes,
                args.peer != "none",
                _peer_python(args.peer_python),
                args.rounds,
                args.seconds,
                deadline,
                own,
                _say,
            )

        chosen_parts = list(PARTS) if args.part == "all" else [args.part]
        peaks = Peaks({}, None, [])
        if _NEEDS_PEAKS.intersection(chosen_parts):
            peaks = measure_peaks(settings("peaks"))
            _finish("peaks", [case_to_json(case, peaks) for case in peaks.cases], figures, target)
        for part in chosen_parts:
            try:
                cases = PARTS[part](settings(part))
            except RuntimeError as error:
                # What the other parts give is not lost by it.
                failed.append(part)
                _say(f"{part}: failed: {error}")
                continue
            _finish(part, [case_to_json(case, peaks) for case in cases], figures, target)
    if text := summary(parts):
        print(text)
    return 1 if failed else 0


def _finish(part: str, cases: list[dict[str, Any]], figures: dict[str, Any], target: Path | None) -> None:
    """Prints and writes at once what a part gave: a later one may be interrupted."""
    figures["parts"][part] = cases
    print(table(part, cases) + "\n", flush=True)
    if target:
        target.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")


def _sizes(text: str | None) -> tuple[str, ...]:
    names = tuple(text.split(",")) if text else ()
    for name in names:
        if name not in SIZES:
            raise JslmError(f"--sizes {text}: there is no size {name!r}; use {', '.join(SIZES)}")
    return names


def _peer_python(chosen: str | None) -> str:
    if chosen:
        if not Path(chosen).is_file():
            raise JslmError(f"--peer-python {chosen}: no such file; make test-peers makes .venv-peers/bin/python")
        return chosen
    made = ROOT / ".venv-peers" / "bin" / "python"
    return str(made) if made.is_file() else sys.executable


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
