"""`jslm sweep --config FILE --dir DIR --grid section.key=V1,V2 ...`."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_debug_argument, run_verb
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Trains a config with some keys changed in every way that was asked for; returns the exit status."""
    return run_verb("sweep", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm sweep",
        description="Trains many runs of one config with some keys changed, and makes a table and a plot of what came "
        "out. The same command goes on where it was stopped.",
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="TOML file that all trials start from")
    parser.add_argument("overrides", nargs="*", default=[], metavar="section.key=value", help="settings of all trials")
    parser.add_argument("--dir", required=True, metavar="DIR", help="folder of the sweep: a run folder a trial")
    parser.add_argument(
        "--grid", action="append", default=[], metavar="KEY=V1,V2", help="every combination of these; repeatable"
    )
    parser.add_argument(
        "--random",
        action="append",
        default=[],
        metavar="KEY=RANGE",
        help="draws from log:LOW:HIGH, uniform:LOW:HIGH, int:LOW:HIGH or V1,V2; repeatable",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="draws, with --random (default 10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default 0)")
    parser.add_argument("--metric", default="val/loss", metavar="NAME", help="figure to sort by (default val/loss)")
    parser.add_argument(
        "--executor", default="", metavar="ADDRESS", help="Dask scheduler whose workers see this folder (tcp://...)"
    )
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    if bool(args.grid) == bool(args.random):
        raise JslmError("expected --grid or --random, one of the two, at least once: the keys to change")
    if args.trials is not None and not args.random:
        raise JslmError("--trials goes with --random; a grid has as many trials as combinations")
    from jslm.sweep.command import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
