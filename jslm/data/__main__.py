"""`python -m jslm.data inspect DIR [--html FILE] [--batch]`."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, run_verb
from jslm.errors import JslmError

log = logging.getLogger("jslm")


def main(argv: list[str] | None = None) -> int:
    """Shows what is in a folder of token files; returns the exit status."""
    return run_verb("data", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm data",
        description="Shows a prepared folder: documents, tokens, bytes per token, lengths, frequent tokens, sample "
        "documents, and a batch as training gets it, with what is never in the loss and where documents end.",
    )
    parser.add_argument("command", choices=["inspect"], help="what to do")
    parser.add_argument("folder", metavar="DIR", help="folder that jslm.prepare wrote, or that of a run")
    parser.add_argument("--html", metavar="FILE", help="write it all as one page, too")
    parser.add_argument("--batch", action="store_true", help="show the batch alone")
    parser.add_argument(
        "--packing", choices=["windows", "documents", "both"], default="both", help="as data.packing (default both)"
    )
    parser.add_argument("--context-length", type=int, default=256, metavar="N", help="tokens a row (default 256)")
    parser.add_argument("--rows", type=int, default=2, metavar="N", help="rows of the batch (default 2)")
    parser.add_argument("--step", type=int, default=0, metavar="N", help="which batch (default 0, the first)")
    parser.add_argument("--samples", type=int, default=3, metavar="N", help="sample documents a split (default 3)")
    parser.add_argument("--tokens", type=int, default=20, metavar="N", help="frequent tokens a split (default 20)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples and of the batch (default 0)")
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    for name, least in (("context_length", 1), ("rows", 1), ("step", 0), ("samples", 0), ("tokens", 0), ("seed", 0)):
        if (found := getattr(args, name)) < least:
            raise JslmError(f"--{name.replace('_', '-')} {found}; expected {least} or more")
    from jslm.data.inspect.facts import collect_facts

    facts = collect_facts(args.folder, frequent=args.tokens, samples=args.samples, seed=args.seed)
    # After the facts: a wrong folder is told before the loader's library is imported.
    from jslm.data.inspect.batch import show_batch
    from jslm.data.inspect.terminal import batch_lines, fact_lines

    train = facts.splits[0]
    # Pairs are never cut in windows; where that is asked for by name, the loader says so.
    shown = ("documents",) if train.file.has_completions else ("windows", "documents")
    batches = []
    if train.tokens < 2:
        log.warning("%s: %s token(s), too few for a batch: none is shown", train.file.path, train.tokens)
    else:
        batches = [
            show_batch(
                train, packing, context_length=args.context_length, rows=args.rows, seed=args.seed, step=args.step
            )
            for packing in ("windows", "documents")
            if args.packing == packing or (args.packing == "both" and packing in shown)
        ]
    if args.html:
        from jslm.data.inspect.page import page
        from jslm.files import write_text

        write_text(Path(args.html), page(facts, batches))
    # Old terminals can't show every character of a corpus; a question mark is better than an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if not args.batch:
        for line in fact_lines(facts, color=color):
            print(line)
    for batch in batches:
        for line in batch_lines(batch, facts.tokenizer, color=color):
            print(line)
    if args.html:
        print(f"\npage: {args.html}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
