"""Prints small conversations, or writes them as JSON Lines: what a tiny model learns to chat from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, run_verb
from jslm.corpora.chat_examples import generate_examples
from jslm.errors import JslmError
from jslm.files import whole_file


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="jslm corpora chat-examples", description=__doc__)
    parser.add_argument("--count", type=int, default=10, help="conversations (default 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed; the same conversations on every Python version")
    parser.add_argument("--out", metavar="FILE.jsonl", help="file (default: stdout)")
    add_debug_argument(parser)
    return run_verb("corpora chat-examples", parser, argv, _body)


def _body(options: argparse.Namespace) -> int:
    examples = generate_examples(options.count, options.seed)
    lines = (json.dumps(example.record(), ensure_ascii=False) + "\n" for example in examples)
    if options.out is None:
        sys.stdout.writelines(lines)
        return 0
    if not options.out.endswith(".jsonl"):
        raise JslmError(f"--out {options.out}: expected a name that ends in .jsonl")
    with whole_file(Path(options.out)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
