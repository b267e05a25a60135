"""Prints pairs of a sentence and the same in the other voice, or writes them as JSONL or TSV."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TextIO

from jslm.cli import add_debug_argument, run_verb
from jslm.data.rewrite import DIRECTIONS, SPLITS, Pair, generate_pairs
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m jslm.data.rewrite", description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="pairs (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed; the same pairs on every Python version")
    parser.add_argument("--split", choices=SPLITS, default="train", help="verb, noun: those that train never has")
    parser.add_argument("--direction", choices=DIRECTIONS, help="default: both, mixed")
    parser.add_argument("--restyle", action="store_true", help="prompts in any style, answers in that of the label")
    parser.add_argument("--tokenized", action="store_true", help="lower case, blanks around punctuation")
    parser.add_argument(
        "--out", help="file: .jsonl (prompt, completion, category, style, domain) or .tsv (two columns)"
    )
    add_debug_argument(parser)
    return run_verb("data.rewrite", parser, argv, _body)


def _body(options: argparse.Namespace) -> int:
    pairs = generate_pairs(
        options.count,
        options.seed,
        split=options.split,
        direction=options.direction,
        restyle=options.restyle,
        tokenized=options.tokenized,
    )
    if options.out is None:
        for pair in pairs:
            _write_jsonl(pair, sys.stdout)
        return 0
    writers = {"jsonl": _write_jsonl, "tsv": _write_tsv}
    write = writers.get(options.out.rpartition(".")[2])
    if write is None:
        raise JslmError(f"--out = {options.out}: expected a name that ends in .jsonl or .tsv")
    with open(options.out, "w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            write(pair, file)
    return 0


def _write_jsonl(pair: Pair, file: TextIO) -> None:
    file.write(json.dumps(pair.record(), ensure_ascii=False) + "\n")


def _write_tsv(pair: Pair, file: TextIO) -> None:
    file.write(f"{pair.source}\t{pair.target}\n")


if __name__ == "__main__":
    sys.exit(main())
