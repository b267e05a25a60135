"""`jslm judge RUN_A RUN_B --prompts FILE [--people N] [--scales]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, check_least, run_verb
from jslm.errors import JslmError
from jslm.judge.prompts import Side, parse_side, read_prompts


def main(argv: list[str] | None = None) -> int:
    """Serves the page, or prints the result; returns the exit status."""
    return run_verb("judge", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm judge",
        description="Asks people which of two continuations is better: a page shows them side by side, and nobody "
        "knows which model wrote which. The same command goes on where each person was. The result is shown when all "
        "have answered, and not before.",
    )
    parser.add_argument(
        "run_a", metavar="RUN_A", help="run or model file, a path or an address; RUN@STEP is a run's checkpoint"
    )
    parser.add_argument("run_b", metavar="RUN_B", help="the other one: two checkpoints of a run do as well")
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="for both, such as sample.temperature=0.7"
    )
    parser.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help="text, a prompt a line; or .jsonl, strings or {prompt: ...}",
    )
    parser.add_argument("--people", type=int, default=1, metavar="N", help="how many are to answer (default 1)")
    parser.add_argument(
        "--scales", action="store_true", help="coherence and quality apart, five grades each, in place of one question"
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="longest continuation (default: the run's)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the continuations (default 0)")
    parser.add_argument(
        "--out",
        default="",
        metavar="DIR",
        help="where texts and answers are kept (default RUN_A/judge/..., of an address judge/... here)",
    )
    parser.add_argument("--result", action="store_true", help="print the result, and serve nothing")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8100, metavar="N", help="port; 0 is any free one (default 8100)")
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    check_least(args, people=1, seed=0, max_new_tokens=1, port=0)
    if args.port > 65535:
        raise JslmError(f"--port {args.port}: expected 0 to 65535")
    sides: tuple[Side, Side] = (parse_side(args.run_a), parse_side(args.run_b))
    prompts = read_prompts(Path(args.prompts))
    # After the arguments and files, so that --help and mistakes in them are quick.
    from jslm.judge.command import run

    return run(args, sides, prompts)


if __name__ == "__main__":
    sys.exit(main())
