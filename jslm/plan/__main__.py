"""`jslm plan --config FILE --topology v5e:2x4 [section.key=value ...]`."""

from __future__ import annotations

import argparse
import json
import sys

from jslm.cli import add_config_arguments, config_from_args, run_verb
from jslm.errors import JslmError


def main(argv: list[str] | None = None) -> int:
    """Plans the run that the config names; returns the exit status: 0 where it fits, 1 where it does not."""
    parser = argparse.ArgumentParser(
        prog="jslm plan",
        description="Compiles a run's train step and decode loop for a TPU slice that need not be here, or for this "
        "machine, and says whether they fit and how fast they can be at best. Reads no data.",
    )
    add_config_arguments(parser)
    parser.add_argument(
        "--topology",
        required=True,
        metavar="NAME",
        help="a TPU slice of up to 512 chips (v5e:2x4, v5p:2x2x1, v6e:16x16; needs the extra plan), or cpu, or gpu",
    )
    parser.add_argument(
        "--search", action="store_true", help="try meshes, micro-batches and remat policies; print the best few"
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
    from pathlib import Path

    import jax

    from jslm.formats import with_start
    from jslm.plan.show import describe_plan, describe_search
    from jslm.plan.topology import check_topology

    check_topology(args.topology)
    if Path(config.train.init_from).exists() or not config.model.model_fields_set:
        # A config that says its whole model can be planned before there is the one to start from.
        config = with_start(config, writes=False)
    if args.topology != "gpu":
        # Whatever accelerators are here may be at work, and opening one takes its memory.
        jax.config.update("jax_platforms", "cpu")
    # A program from the cache does not know how its buffers share memory.
    jax.config.update("jax_enable_compilation_cache", False)
    if args.search:
        from jslm.plan.search import search_plans

        plans = search_plans(config, args.topology, tries=args.tries)
        print(json.dumps([plan.as_dict() for plan in plans], indent=2) if args.json else describe_search(plans))
        return 0 if plans and plans[0].fits else 1
    from jslm.plan.estimate import make_plan

    plan = make_plan(config, args.topology, decode_batch=args.decode_batch)
    print(json.dumps(plan.as_dict(), indent=2) if args.json else describe_plan(plan))
    return 0 if plan.fits else 1


if __name__ == "__main__":
    sys.exit(main())
