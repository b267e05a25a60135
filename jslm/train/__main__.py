"""`jslm train FILE... [--minutes M]`, or `jslm train --config FILE [section.key=value ...]`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from jslm.cli import add_config_arguments, config_from_args, run_verb
from jslm.config import Config, preset_files, said_to_toml
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Trains, or goes on with, the run that the texts or the config name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="jslm train",
        usage="jslm train FILE_OR_FOLDER... [--minutes M] [section.key=value ...]\n"
        "       jslm train --config FILE [section.key=value ...]",
        description="Trains a model: on your own text, choosing everything for it and for this device; or from a "
        "config file. Prepares the data where that has not been done; goes on from a checkpoint in run_dir.",
    )
    add_config_arguments(parser, required=False)
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="time for all of it, preparing and compiling too (10)"
    )
    parser.add_argument("--plan", action="store_true", help="only print what would be chosen for the text, and why")
    return run_verb("train", parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    config = _config(args)
    if config is None:
        return 0
    # After the arguments, so that --help and mistakes in them are quick.
    from jslm.train.command import run

    return run(config)


def _is_source(given: str) -> bool:
    """A path or an address; one with "=" in it is none of a setting where it is there, or is an address."""
    return "://" in given.partition("=")[0] or "=" not in given or os.path.exists(given)


def _config(args: argparse.Namespace) -> Config | None:
    """The config to train; None where there is nothing to do but what has been said."""
    if args.config:
        if args.plan:
            raise JslmError(
                f"--plan is for a text; what a config will take is told by jslm plan --config {args.config}"
            )
        if args.minutes is not None:
            args.overrides.append(f"train.minutes={args.minutes}")
        return config_from_args(args)
    sources = [given for given in args.overrides if _is_source(given)]
    if not sources:
        raise JslmError(
            "nothing to train on; give a text file or a folder, as in jslm train book.txt, or --config FILE"
        )
    for source in sources:
        if source in preset_files() and not Path(source).exists():
            raise JslmError(f"{source}: no such text; it is a preset's name: jslm train --config {source}")
    from jslm.dial.command import dial

    overrides = [given for given in args.overrides if given not in sources]
    # What was asked for is on stdout: the plan, or the config alone.
    to = sys.stdout if args.plan and not args.print_config else None
    config = dial(sources, args.minutes, overrides, plan=args.plan or args.print_config, to=to)
    if args.print_config:
        print(said_to_toml(config), end="")
    return None if args.plan or args.print_config else config


if __name__ == "__main__":
    sys.exit(main())
