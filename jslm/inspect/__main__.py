"""verb: `jslm inspect FOLDER [--html FILE] [--batch]`: what is in prepared data."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_debug_argument, check_least, run_verb


def main(argv: list[str] | None = None) -> int:
    """Shows what is in a folder of token files; returns the exit status."""
    return run_verb("inspect", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm inspect",
        description="Shows a prepared folder, or what a run was trained on: documents, tokens, bytes per token, "
        "lengths, frequent tokens, sample documents, and a batch as training gets it, with what is never in the loss "
        "and where documents end. Packing, context and seed are those of the run, unless given here.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="folder that jslm prepare wrote, or that of a run")
    parser.add_argument("--html", metavar="FILE", help="write it all as one page, too")
    parser.add_argument("--batch", action="store_true", help="show the batch alone")
    parser.add_argument(
        "--packing", choices=["windows", "documents", "both"], help="as data.packing (default: the run's, or both)"
    )
    parser.add_argument("--context-length", type=int, metavar="N", help="tokens a row (default: the run's, or 256)")
    parser.add_argument("--rows", type=int, default=2, metavar="N", help="rows of the batch (default 2)")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="which batch (default 0, the first)")
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="sample documents a split (default 3)")
    parser.add_argument("--tokens", type=int, default=20, metavar="N", help="frequent tokens a split (default 20)")
    parser.add_argument("--seed", type=int, metavar="N", help="of samples and batch (default: the run's, or 0)")
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    check_least(args, context_length=1, rows=1, step=0, samples=0, tokens=0, seed=0)
    from jslm.inspect.command import run

    return run(args)


if __name__ == "__main__":
    sys.exit(main())
