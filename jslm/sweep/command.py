"""What `jslm sweep` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
from pathlib import Path

from jslm.sweep.runner import run_sweep
from jslm.sweep.space import grid_trials, random_trials


def run(args: argparse.Namespace) -> int:
    """Trains the trials and prints the table; returns the exit status: 1 where all failed."""
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
