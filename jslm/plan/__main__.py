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
    from pathlib import Path

    import jax

    from jslm.formats import with_start
    from jslm.plan.show import describe_plan, describe_plans, describe_search
    from jslm.plan.topology import check_topology

    topologies = args.topology.split(",")
    for topology in topologies:
        check_topology(topology)
    if args.search and len(topologies) > 1:
        raise JslmError(f"--topology {args.topology}: --search is for one; give one of them")
    if not 0 <= args.price < float("inf"):
        raise JslmError(f"--price {args.price:g}: expected a number of 0 or more")
    if Path(config.train.init_from).exists() or not config.model.model_fields_set:
        # A config that says its whole model can be planned before there is the one to start from.
        config = with_start(config, writes=False)
    if "gpu" not in topologies:
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

    plans = [make_plan(config, name, decode_batch=args.decode_batch, price=args.price) for name in topologies]
    if len(plans) > 1:
        print(json.dumps([plan.as_dict() for plan in plans], indent=2) if args.json else describe_plans(plans))
    else:
        print(json.dumps(plans[0].as_dict(), indent=2) if args.json else describe_plan(plans[0]))
    return 0 if all(plan.fits for plan in plans) else 1


if __name__ == "__main__":
    sys.exit(main())
