"""`jslm train --config FILE [section.key=value ...]`."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_config_arguments, config_from_args, run_verb


def main(argv: list[str] | None = None) -> int:
    """Trains, or goes on with, the run that the config names; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="jslm train",
        description="Trains a model from a config file. Prepares the data where that has not been done; "
        "goes on where it was where run_dir holds a checkpoint.",
    )
    add_config_arguments(parser)
    return run_verb("train", parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    config = config_from_args(args)
    if config is None:
        return 0
    # After the arguments, so that --help and mistakes in them are quick.
    from jslm.train.loop import train

    return train(config).exit_status


if __name__ == "__main__":
    sys.exit(main())
