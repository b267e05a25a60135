"""`--parsed` and `--parser` of `jslm corpora rewrite`: pairs from sentences that people wrote."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections.abc import Iterator
from dataclasses import fields

from jslm.corpora.rewrite.parsed.forms import inflections
from jslm.corpora.rewrite.parsed.pairs import Counts, Options, make_pairs
from jslm.corpora.rewrite.parsed.spacy_trees import parse, read_texts
from jslm.corpora.rewrite.parsed.trees import Tree, read_conllu
from jslm.errors import JslmError

_RANGES = {
    "frames": (0, 100),
    "rule_copies": (1, 100),
    "unchanged": (0.0, 0.9),
    "noise": (0.0, 1.0),
    "pronouns": (0.0, 1.0),
    "someone": (0.0, 1.0),
    "max_characters": (20, 100_000),
}
_HELP = {
    "frames": "sentences with another agent (half of them with another object too) for each natural one",
    "rule_copies": "times that a natural passive comes, each typed otherwise",
    "unchanged": "share of sentences to leave alone",
    "noise": "share of pairs that are typed otherwise: quotes, dashes, accents, numbers",
    "pronouns": "share kept of the sentences whose agent is a pronoun",
    "someone": "share of the passives without an agent that also get one, with the condition agentless = someone",
    "max_characters": "longer sentences are left out",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that sentences of people have, in a group of their own."""
    group = parser.add_argument_group("pairs from sentences that people wrote")
    group.add_argument("--parsed", nargs="+", metavar="FILE", help="treebanks: CoNLL-U, .gz too")
    group.add_argument("--parser", choices=["spacy"], help="what parses the files of --text")
    group.add_argument(
        "--pipeline", default="en_core_web_sm", metavar="NAME", help="spaCy pipeline, or its folder (%(default)s)"
    )
    group.add_argument("--sentences", type=int, metavar="N", help="read the first N sentences of each source only")
    defaults = Options()
    for name, text in _HELP.items():
        value = getattr(defaults, name)
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=type(value), default=value, metavar="N", help=f"{text} (default {value})")


def write_pairs(options: argparse.Namespace) -> int:
    """Writes the pairs to --out, or prints the first --count of them; counts go to stderr. Returns the exit status.

    Raises JslmError for arguments out of range, files that can't be read, and where the extra is not installed.
    """
    if (options.parser is None) != (options.text is None):
        what = "--text FILE ..." if options.text is None else "--parser spacy"
        raise JslmError(f"--parser and --text FILE go together; give {what} as well")
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(options, name) <= most:
            raise JslmError(
                f"--{name.replace('_', '-')} {getattr(options, name)}: expected {least} to {most}: {_HELP[name]}"
            )
    if options.out is not None and not options.out.endswith(".jsonl"):
        raise JslmError(f"--out = {options.out}: expected a name that ends in .jsonl")
    # Said at once, not after ten minutes of parsing.
    inflections("be", "VBN")
    counts = Counts()
    wanted = Options(**{field.name: getattr(options, field.name) for field in fields(Options)})
    pairs = make_pairs(_trees(options), wanted, counts)
    if options.out is None:
        for pair in itertools.islice(pairs, options.count):
            print(json.dumps(pair.record(), ensure_ascii=False))
        return 0
    with open(options.out, "w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            file.write(json.dumps(pair.record(), ensure_ascii=False) + "\n")
    print("\n".join(counts.lines()), file=sys.stderr)
    if not counts.made:
        raise JslmError(f"{options.out}: no pair could be made of {counts.sentences:,} sentences; see the counts above")
    return 0


def _trees(options: argparse.Namespace) -> Iterator[Tree]:
    for path in options.parsed or []:
        yield from itertools.islice(read_conllu(path), options.sentences)
    if options.parser:
        yield from itertools.islice(parse(read_texts(options.text), options.pipeline), options.sentences)
