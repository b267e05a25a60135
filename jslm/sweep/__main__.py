"""`jslm sweep --config FILE --dir DIR --grid section.key=V1,V2 ...`."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_debug_argument, run_verb


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
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of all trials")
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
    from pathlib import Path

    from jslm.errors import JslmError
    from jslm.sweep.runner import run_sweep
    from jslm.sweep.space import grid_trials, random_trials

    if bool(args.grid) == bool(args.random):
        raise JslmError("expected --grid or --random, one of the two, at least once: the keys to change")
    if args.trials is not None and not args.random:
        raise JslmError("--trials goes with --random; a grid has as many trials as combinations")
    trials = (
        grid_trials(args.grid)
        if args.grid
        else random_trials(args.random, 10 if args.trials is None else args.trials, args.seed)
    )
    results = run_sweep(
        args.config,
        args.dir,
        trials,
        overrides=args.overrides,
        metric=args.metric,
        executor=args.executor,
        log=lambda line: print(line, flush=True),
    )
    print(Path(args.dir, "sweep.md").read_text("utf-8"), end="")
    print(f"The same as a page, with plots: {Path(args.dir, 'sweep.html')}")
    return 1 if all(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
