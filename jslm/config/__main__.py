"""`jslm config`: the reference of every configuration key, as Markdown."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, run_verb
from jslm.config.document import render_reference
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Prints the reference, writes it (`--write FILE`), or compares a file with it (`--check FILE`).

    Returns 0, or 2 after one line on stderr when the file is out of date or can't be read or written.
    """
    parser = argparse.ArgumentParser(prog="jslm config", description="The reference of every configuration key.")
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--write", metavar="FILE", type=Path, help="write it there")
    action.add_argument("--check", metavar="FILE", type=Path, help="fail if the file there is not up to date")
    add_debug_argument(parser)
    return run_verb("config", parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    text = render_reference()
    if args.write is not None:
        args.write.write_text(text, "utf-8")
    elif args.check is not None:
        if args.check.read_text("utf-8") != text:
            raise JslmError(f"{args.check}: not what the schema says; run jslm config --write {args.check}")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
