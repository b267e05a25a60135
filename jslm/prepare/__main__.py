"""`jslm prepare --config configs/mine.toml [section.key=value ...] [--force | --check | --preview N]`."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_config_arguments, config_from_args, run_verb
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Prepares the token files of a config and prints what is in them; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="jslm prepare",
        description="Turn the text of data.source into a tokenizer and token files in data.dir.",
    )
    add_config_arguments(parser)
    parser.add_argument("--force", action="store_true", help="make the files again even if they are there")
    parser.add_argument(
        "--check",
        action="store_true",
        help="make nothing: read the files that are there, and data.source, and say whether all is as it was",
    )
    parser.add_argument(
        "--preview",
        type=int,
        metavar="N",
        help="show the first N documents before and after data.cleaners side by side, and make no files",
    )
    return run_verb("prepare", parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    config = config_from_args(args)
    if config is None:
        return 0
    if args.check and args.force:
        raise JslmError("--check makes nothing, and --force makes all again; leave out one of the two")
    # After the arguments, so that --help and mistakes in them are quick.
    from jslm.prepare.command import run

    return run(args, config)


if __name__ == "__main__":
    sys.exit(main())
