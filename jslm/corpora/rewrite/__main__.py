"""Prints pairs of a sentence and the same in the other voice, or writes them as JSONL or TSV; or plain English.

Without more, sentences of a grammar of its own. With --parsed or --parser, sentences that people wrote: a rule turns
them, which needs the extra `rewrite` (docs/rewriting.md).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TextIO

from jslm.cli import add_debug_argument, run_verb
from jslm.corpora.rewrite import DIRECTIONS, SPLITS, Pair, generate_pairs, plain_text
from jslm.corpora.rewrite.parsed.command import add_arguments, natural_defaults, write_pairs
from jslm.errors import JslmError
from jslm.files import whole_file

_COUNT = 10
# Options of generated pairs alone, and their defaults.
_GENERATED = {"split": "train", "direction": None, "restyle": False, "tokenized": False, "unpaired": False}


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="jslm corpora rewrite", description=__doc__)
    parser.add_argument("--count", type=int, default=_COUNT, help=f"pairs (default {_COUNT})")
    parser.add_argument("--seed", type=int, default=0, help="seed; the same pairs on every Python version")
    parser.add_argument(
        "--split", choices=SPLITS, default="train", help="verb, noun: those that train never has; wide: other words"
    )
    parser.add_argument("--direction", choices=DIRECTIONS, help="default: both, mixed")
    parser.add_argument("--restyle", action="store_true", help="prompts in any style, answers in that of the label")
    parser.add_argument("--tokenized", action="store_true", help="lower case, blanks around punctuation")
    parser.add_argument(
        "--unpaired", action="store_true", help="second sentences alone, their prompts empty: plain text to learn from"
    )
    parser.add_argument(
        "--text",
        nargs="+",
        metavar="MB",
        help="write this much plain English, for pretraining, to --out x.jsonl instead; with --parser, files of text",
    )
    parser.add_argument(
        "--out", help="file: .jsonl (prompt, completion, category, style, domain) or .tsv (two columns)"
    )
    add_arguments(parser)
    add_debug_argument(parser)
    return run_verb("corpora rewrite", parser, argv, _body)


def _check_mode(options: argparse.Namespace, *, natural: bool) -> None:
    """Raises JslmError for an option of the other kind of pairs, which would do nothing."""
    theirs = _GENERATED if natural else natural_defaults()
    for name, default in theirs.items():
        if getattr(options, name) != default:
            option = f"--{name.replace('_', '-')}"
            if natural:
                raise JslmError(f"{option} is of generated pairs, not of parsed sentences; leave it out")
            raise JslmError(f"{option} is of parsed sentences; give --parsed FILE, or --text FILE with --parser spacy")
    if natural and options.out is not None and options.count != _COUNT:
        raise JslmError("--count is of pairs that are printed, and --out gets all; --sentences N reads fewer sentences")


def _body(options: argparse.Namespace) -> int:
    natural = options.parsed is not None or options.parser is not None
    _check_mode(options, natural=natural)
    if natural:
        return write_pairs(options)
    if options.text is not None:
        return _write_text(options)
    pairs = generate_pairs(
        options.count,
        options.seed,
        split=options.split,
        direction=options.direction,
        restyle=options.restyle,
        tokenized=options.tokenized,
    )
    if options.unpaired:
        pairs = (pair._replace(source="") for pair in pairs)
    if options.out is None:
        for pair in pairs:
            _write_jsonl(pair, sys.stdout)
        return 0
    writers = {"jsonl": _write_jsonl, "tsv": _write_tsv}
    write = writers.get(options.out.rpartition(".")[2])
    if write is None:
        raise JslmError(f"--out = {options.out}: expected a name that ends in .jsonl or .tsv")
    with whole_file(Path(options.out)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            write(pair, file)
    return 0


def _write_text(options: argparse.Namespace) -> int:
    megabytes = _number(options.text)
    if not megabytes > 0 or options.out is None or not options.out.endswith(".jsonl"):
        raise JslmError(
            f"--text {' '.join(options.text)} --out {options.out}: expected a number above 0 (or files and --parser "
            "spacy) and a name that ends in .jsonl"
        )
    with whole_file(Path(options.out)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for text in plain_text(megabytes, options.seed):
            file.write(json.dumps({"text": text}) + "\n")
    return 0


def _number(words: list[str]) -> float:
    try:
        return float(words[0]) if len(words) == 1 else 0.0
    except ValueError:
        return 0.0


def _write_jsonl(pair: Pair, file: TextIO) -> None:
    file.write(json.dumps(pair.record(), ensure_ascii=False) + "\n")


def _write_tsv(pair: Pair, file: TextIO) -> None:
    file.write(f"{pair.source}\t{pair.target}\n")


if __name__ == "__main__":
    sys.exit(main())
