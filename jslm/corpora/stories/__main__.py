"""Prints stories, or writes a corpus of them as JSONL."""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, run_verb
from jslm.corpora.stories import generate_stories, generate_story
from jslm.errors import JslmError
from jslm.files import whole_file


def main(argv: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="jslm corpora stories", description=__doc__)
    parser.add_argument("--count", type=int, default=3, help="stories to print (default 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed; the same stories on every Python version")
    parser.add_argument("--megabytes", type=float, help="write this much text (10**6 bytes each) to --out instead")
    parser.add_argument("--out", help='JSONL file: {"text": ..., "bits": ...} a line')
    add_debug_argument(parser)
    return run_verb("corpora stories", parser, argv, _body)


def _body(options: argparse.Namespace) -> int:
    if (options.megabytes is None) != (options.out is None):
        raise JslmError("--megabytes and --out: found one without the other; give both to write a corpus")
    if options.seed < 0:
        raise JslmError(f"--seed = {options.seed}; expected 0 or more")
    if options.count < 1:
        raise JslmError(f"--count = {options.count}; expected 1 or more")
    if options.out is None:
        rng = random.Random(options.seed)
        print("\n\n* * *\n\n".join(generate_story(rng).text for _ in range(options.count)))
    else:
        _write(options.megabytes, options.seed, options.out)
    return 0


def _write(megabytes: float, seed: int, path: str) -> None:
    stories = generate_stories(megabytes, seed)
    with whole_file(Path(path)) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for story in stories:
            file.write(json.dumps({"text": story.text, "bits": round(story.bits, 9)}) + "\n")


if __name__ == "__main__":
    sys.exit(main())
