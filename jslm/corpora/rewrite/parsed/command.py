"""`--parsed` and `--parser` of `jslm corpora rewrite`: pairs from sentences that people wrote."""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from jslm.corpora.rewrite.parsed.forms import inflections
from jslm.corpora.rewrite.parsed.pairs import Counts, Options, Pair, make_pairs
from jslm.corpora.rewrite.parsed.spacy_trees import parse, read_texts
from jslm.corpora.rewrite.parsed.to_active import passive_with_agent
from jslm.corpora.rewrite.parsed.trees import Tree, read_conllu
from jslm.errors import JslmError
from jslm.files import whole_file

# Of a hundred sentences, and of a hundred passives with an agent as people wrote them: a confidence is of these.
_HELD_OUT_PERCENT, _HELD_OUT_PASSIVES = 5, 33
_PIPELINE = "en_core_web_sm"
_RANGES = {
    "frames": (0, 100),
    "rule_copies": (1, 100),
    "unchanged": (0.0, 0.9),
    "noise": (0.0, 1.0),
    "pronouns": (0.0, 1.0),
    "someone": (0.0, 1.0),
    "by": (0.0, 1.0),
    "clauses": (0, 1),
    "parts": (0.0, 1.0),
    "max_characters": (20, 100_000),
}
_HELP = {
    "frames": "sentences with another agent (half of them with another object too) for each natural one of 60 "
    "characters, more for longer ones",
    "rule_copies": "times that a natural passive comes, each typed otherwise",
    "unchanged": "share of sentences to leave alone",
    "noise": "share of pairs that are typed otherwise: quotes, dashes, accents, numbers",
    "pronouns": "share kept of the sentences whose agent is a pronoun",
    "someone": "share of the passives without an agent that also get one, with the condition agentless = someone",
    "by": 'share of the passives without an agent that also come with a "by" that names none: by Friday, by post',
    "clauses": "1: clauses of longer sentences are sentences too; 0: only what is written as a sentence",
    "parts": "share of the pairs of long sentences that are cut to a run of their clauses",
    "max_characters": "longer sentences are left out",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that sentences of people have, in a group of their own."""
    group = parser.add_argument_group("pairs from sentences that people wrote")
    group.add_argument("--parsed", nargs="+", metavar="FILE", help="treebanks: CoNLL-U, .gz too")
    group.add_argument("--parser", choices=["spacy"], help="what parses the files of --text")
    group.add_argument(
        "--pipeline", default=_PIPELINE, metavar="NAME", help="spaCy pipeline, or its folder (%(default)s)"
    )
    group.add_argument(
        "--held-out",
        metavar="FILE",
        help="write pairs of five sentences in a hundred here, and of a third of the passives, and none to --out",
    )
    group.add_argument("--sentences", type=int, metavar="N", help="read the first N sentences of each source only")
    defaults = Options()
    for name, text in _HELP.items():
        value = getattr(defaults, name)
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=type(value), default=value, metavar="N", help=f"{text} (default {value})")


def natural_defaults() -> dict[str, Any]:
    """The options that only pairs from parsed sentences have, by their names in Python, with their defaults."""
    own = {"held_out": None, "sentences": None, "pipeline": _PIPELINE}
    return own | {name: getattr(Options(), name) for name in _HELP}


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
    for name in ("out", "held_out"):
        path = getattr(options, name)
        if path is not None and not path.endswith(".jsonl"):
            raise JslmError(f"--{name.replace('_', '-')} = {path}: expected a name that ends in .jsonl")
    if options.held_out is not None and options.out is None:
        raise JslmError("--held-out goes with --out, which gets all other pairs; give both")
    # Said at once, not after ten minutes of parsing.
    inflections("be", "VBN")
    counts = Counts()
    wanted = Options(**{field.name: getattr(options, field.name) for field in fields(Options)})
    held: list[Tree] = []
    pairs = make_pairs(_without(_trees(options), held) if options.held_out else _trees(options), wanted, counts)
    if options.out is None:
        for pair in itertools.islice(pairs, options.count):
            print(json.dumps(pair.record(), ensure_ascii=False))
        return 0
    _write(options.out, pairs)
    print("\n".join(counts.lines()), file=sys.stderr)
    if options.held_out is not None:
        # A "by" without an agent is made up: it is not to be what a confidence is mostly of.
        few = dataclasses.replace(
            wanted, frames=0, rule_copies=1, unchanged=0.3, someone=0.0, by=wanted.by / 10, parts=0.0
        )
        _write(options.held_out, make_pairs(held, few, Counts()))
    if not counts.made:
        raise JslmError(f"{options.out}: no pair could be made of {counts.sentences:,} sentences; see the counts above")
    return 0


def _write(path: str, pairs: Iterable[Pair]) -> None:
    with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            file.write(json.dumps(pair.record(), ensure_ascii=False) + "\n")


def _without(trees: Iterable[Tree], held: list[Tree]) -> Iterator[Tree]:
    """The sentences but for those that are held out by their text, wherever it comes from; these go to `held`."""
    for tree in trees:
        percent = _HELD_OUT_PERCENT if passive_with_agent(tree) is None else _HELD_OUT_PASSIVES
        if zlib.crc32(tree.text.encode()) % 100 < percent:
            held.append(tree)
        else:
            yield tree


def _trees(options: argparse.Namespace) -> Iterator[Tree]:
    for path in options.parsed or []:
        yield from itertools.islice(read_conllu(path), options.sentences)
    if options.parser:
        yield from itertools.islice(parse(read_texts(options.text), options.pipeline), options.sentences)
