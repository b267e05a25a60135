"""What `jslm sample` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from jslm.infer.language_model import LanguageModel
from jslm.infer.loading import load
from jslm.infer.request import Arguments, RewriteArguments
from jslm.parallel import start_jax
from jslm.sample import terminal
from jslm.sample.conversation import converse
from jslm.sample.rewrite_lines import print_rewrites


def run(
    args: argparse.Namespace,
    arguments: Arguments,
    rewriting: RewriteArguments,
    prompts: list[str] | None,
    conditions: Mapping[str, str],
) -> int:
    """Writes, rewrites or talks; returns the exit status. Without `prompts` they are asked for at the terminal."""
    start_jax()
    model: LanguageModel = load(args.run, checkpoint=args.checkpoint, overrides=args.overrides)
    # A conversation forgets its beginning instead.
    model.sliding_name = "" if args.chat else "--sliding-window"
    if conditions:
        model = model.with_conditions(conditions)
    if args.rewrite is not None:
        print_rewrites(model, args.rewrite, rewriting, as_json=args.json)
    elif args.chat:
        converse(model, arguments, as_json=args.json)
    elif prompts is None:
        terminal.converse(model, arguments, as_json=args.json)
    elif args.json:
        terminal.print_json(model, prompts, arguments)
    elif len(prompts) == 1 and arguments["num_samples"] == 1:
        terminal.print_stream(model, prompts[0], arguments)
    else:
        terminal.print_samples(model, prompts, arguments)
    terminal.print_speed(model)
    return 0
