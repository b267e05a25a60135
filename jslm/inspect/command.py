"""What `jslm inspect` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
from pathlib import Path

from jslm.config import Config
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.inspect.batch import show_batch
from jslm.inspect.facts import FolderFacts, collect_facts, prepared_folders
from jslm.inspect.page import page
from jslm.inspect.terminal import batch_lines, fact_lines

log = logging.getLogger("jslm")


def run(args: argparse.Namespace) -> int:
    """Shows what is in the folder, or in those of the run; returns the exit status."""
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
