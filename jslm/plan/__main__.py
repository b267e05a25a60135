"""`jslm plan --config FILE --topology v5e:2x4 [section.key=value ...]`."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_config_arguments, config_from_args, run_verb
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Plans the run that the config names; returns the exit status: 0 where it fits, 1 where it does not."""
    parser = argparse.ArgumentParser(
        prog="jslm plan",
        description="Compiles a run's train step and decode loop for TPUs or GPUs that need not be here, or for this "
        "machine, and says whether they fit and how fast they are. Reads no data.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="a TPU slice of up to 512 chips (v5e:2x4, v5p:2x2x1, v6e:16x16; needs the extra plan), GPUs (h100, "
        "a100:2, t4; needs the extra cuda13), cpu, or gpu (what is here); several with commas between",
    )
    parser.add_argument(
        "--search", action="store_true", help="try meshes, micro-batches and remat policies; print the best few"
    )
    parser.add_argument(
        "--price", type=float, default=0.0, metavar="P", help="of one device's hour, for the run's cost"
    )
    parser.add_argument("--tries", type=int, default=12, metavar="N", help="programs that --search compiles at most")
    parser.add_argument(
        "--decode-batch", type=int, default=1, metavar="N", help="rows decoded at once (default 1; 0: plan no decoding)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object; with --search a list of them")
    return run_verb("plan", parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    config = config_from_args(args)
    if config is None:
        return 0
    for flag, value, least in (("--tries", args.tries, 1), ("--decode-batch", args.decode_batch, 0)):
        if value < least:
            raise JslmError(f"{flag} {value}: expected a number of {least} or more")
    from jslm.plan.command import run

    return run(args, config)


if __name__ == "__main__":
    sys.exit(main())
