"""`jslm evaluate --run DIR [--split val] [--text FILE] [--tasks ...] [--json]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, check_least, run_verb
from jslm.errors import JslmError
from jslm.evaluate.plan import TASKS, Plan, plan_tasks
from jslm.evaluate.suite_data import SUITE, plan_suite
from jslm.storage import is_address


def main(argv: list[str] | None = None) -> int:
    """Writes a report of one or several models to stdout; returns the exit status."""
    return run_verb("evaluate", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    tasks = "\n".join(f"  {name:<11}{summary}" for name, summary in TASKS.items())
    parser = argparse.ArgumentParser(
        prog="jslm evaluate",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures models: loss, perplexity and bits per byte over a split or a text, benchmarks from\n"
        "files, rewriting, and what they write by themselves. Without --split, --text, --tasks and --suite: the val\n"
        "split.",
        epilog=f"tasks:\n{tasks}",
    )
    parser.add_argument(
        "--run", required=True, action="append", metavar="DIR|FILE", help="folder of a run, or a model; several compare"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="such as model.dtype=float32"
    )
    parser.add_argument("--split", metavar="NAME", help="loss over train or val of the run's prepared data")
    parser.add_argument("--data", default="", metavar="DIR", help="folder of the prepared data (default: the run's)")
    parser.add_argument(
        "--text", action="append", default=[], metavar="FILE", help="loss over a text, read as in training; repeatable"
    )
    parser.add_argument(
        "--tasks", action="append", default=[], metavar="NAME[=FILE]", help="tasks, with commas; repeatable (see below)"
    )
    parser.add_argument(
        "--task-dir", default="data/eval", metavar="DIR", help="where tasks without =FILE look (default data/eval)"
    )
    parser.add_argument(
        "--suite",
        action="append",
        default=[],
        metavar="NAME",
        help=f"{', '.join(SUITE)}: as lm-evaluation-harness measures them, zero-shot; with commas; repeatable",
    )
    parser.add_argument(
        "--suite-data", default="data/suite", metavar="DIR", help="where their data is (default data/suite)"
    )
    parser.add_argument(
        "--stride", type=int, default=0, metavar="N", help="new tokens a window (default half a context)"
    )
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="the first N items of each file only")
    parser.add_argument("--num-samples", type=int, default=100, metavar="N", help="samples or stories (default 100)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default 0)")
    parser.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="tokens computed at once (default 8192)"
    )
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument("--json", action="store_true", help="JSON on stdout in place of Markdown")
    parser.add_argument("--out", metavar="DIR", help="write evaluation.md, evaluation.json and comparison.svg there")
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    # Before JAX is imported: a mistake on the command line, or in a file, is told at once.
    plan = _plan(args)
    for run in args.run:
        if not is_address(run) and not Path(run).exists():
            raise JslmError(f"--run {run}: no such run folder or model file")

    from jslm.evaluate.command import run

    return run(args, plan)


def _plan(args: argparse.Namespace) -> Plan:
    check_least(args, stride=0, limit=0, num_samples=1, seed=0, batch_tokens=1)
    if args.split not in (None, "train", "val"):
        raise JslmError(f"--split {args.split}: expected train or val")
    tasks = plan_tasks(args.tasks, args.task_dir, limit=args.limit)
    return Plan(
        split=args.split or (None if args.text or args.tasks or args.suite else "val"),
        data=args.data,
        texts=tuple(_text_file(name) for name in args.text),
        tasks=tasks.questions,
        pairs=tasks.pairs,
        items=tasks.items,
        suite=plan_suite(args.suite, args.suite_data, limit=args.limit),
        samples=args.num_samples if "samples" in tasks.drawing else 0,
        stories=args.num_samples if "stories" in tasks.drawing else 0,
        stride=args.stride,
        batch_tokens=args.batch_tokens,
        seed=args.seed,
    )


def _text_file(name: str) -> Path:
    path = Path(name)
    if not path.is_file():
        raise JslmError(
            f"--text {name}: {'not a file' if path.exists() else 'no such file'}; expected a UTF-8 text file"
        )
    if not path.stat().st_size:
        raise JslmError(f"--text {name}: empty; expected text")
    return path


if __name__ == "__main__":
    sys.exit(main())
