"""What `jslm plan` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import jax

from jslm.config import Config
from jslm.errors import JslmError
from jslm.formats import with_start
from jslm.plan.estimate import make_plan
from jslm.plan.search import search_plans
from jslm.plan.show import describe_plan, describe_plans, describe_search
from jslm.plan.topology import check_topology


def run(args: argparse.Namespace, config: Config) -> int:
    """Plans the run for each topology and prints what was found; returns the exit status."""
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
        plans = search_plans(config, args.topology, tries=args.tries)
        print(json.dumps([plan.as_dict() for plan in plans], indent=2) if args.json else describe_search(plans))
        return 0 if plans and plans[0].fits else 1
    plans = [make_plan(config, name, decode_batch=args.decode_batch, price=args.price) for name in topologies]
    if len(plans) > 1:
        print(json.dumps([plan.as_dict() for plan in plans], indent=2) if args.json else describe_plans(plans))
    else:
        print(json.dumps(plans[0].as_dict(), indent=2) if args.json else describe_plan(plans[0]))
    return 0 if all(plan.fits for plan in plans) else 1
