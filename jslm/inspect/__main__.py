"""verb: `jslm inspect FOLDER [--html FILE] [--batch]`: what is in prepared data."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jslm.cli import add_debug_argument, run_verb
from jslm.config import Config
from jslm.errors import JslmError

if TYPE_CHECKING:
    from jslm.inspect.facts import FolderFacts

log = logging.getLogger("jslm")


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
    for name, least in (("context_length", 1), ("rows", 1), ("step", 0), ("samples", 0), ("tokens", 0), ("seed", 0)):
        if (found := getattr(args, name)) is not None and found < least:
            raise JslmError(f"--{name.replace('_', '-')} {found}; expected {least} or more")
    from jslm.inspect.facts import collect_facts, prepared_folders

    folders, config = prepared_folders(args.folder)
    if args.html and len(folders) > 1:
        raise JslmError(
            f"--html: a page shows one corpus, and {args.folder} was trained on {len(folders)}; give one of their "
            f"folders: {', '.join(map(str, folders))}"
        )
    _choose(args, config)
    # Old terminals can't show every character of a corpus; a question mark is better than an error.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    for number, folder in enumerate(folders):
        facts = collect_facts(folder, frequent=args.tokens, samples=args.samples, seed=args.seed)
        if number:
            print()
        _show(facts, args)
    return 0


def _choose(args: argparse.Namespace, config: Config | None) -> None:
    """Fills in what was not given: from the run's config, where there is one."""
    defaults = ("both", 256, 0) if config is None else (config.data.packing, config.model.context_length, config.seed)
    for name, default in zip(("packing", "context_length", "seed"), defaults, strict=True):
        if getattr(args, name) is None:
            setattr(args, name, default)


def _show(facts: FolderFacts, args: argparse.Namespace) -> None:
    # After the facts: a wrong folder is told before the loader's library is imported.
    from jslm.inspect.batch import show_batch
    from jslm.inspect.terminal import batch_lines, fact_lines

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
        from jslm.files import write_text
        from jslm.inspect.page import page

        write_text(Path(args.html), page(facts, batches))
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if not args.batch:
        for line in fact_lines(facts, color=color):
            print(line)
    for batch in batches:
        for line in batch_lines(batch, facts.tokenizer, color=color):
            print(line)
    if args.html:
        print(f"\npage: {args.html}")


if __name__ == "__main__":
    sys.exit(main())
