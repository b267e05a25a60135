"""`jslm sample --run DIR [--prompt TEXT]`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jslm.cli import add_debug_argument, conditions_from, run_verb, split_overrides
from jslm.config import SampleConfig
from jslm.errors import JslmError
from jslm.infer.request import Arguments, RewriteArguments, make_request, resolve_rewriting
from jslm.runs.folder import RunFolder
from jslm.runs.remote import opened

# Options that say how samples are drawn or shown, and those that say how sentences are rewritten.
_SAMPLING = (
    "temperature", "top_k", "top_p", "min_p", "repetition_penalty",
    "presence_penalty", "frequency_penalty", "seed", "num_samples", "stop", "greedy",
    "sliding_window", "no_document_start",
)  # fmt: skip
_ALONE = ("num_samples", "sliding_window", "no_document_start")
_REWRITING = ("threshold", "beams", "alpha", "no_lookup", "batch_size")


def main(argv: list[str] | None = None) -> int:
    """Writes text from a run's model to stdout, and its speed to stderr; returns the exit status."""
    return run_verb("sample", _parser(), argv, _run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jslm sample",
        description="Writes text with a trained model. Without --prompt, --prompt-file and --num-samples, the prompt "
        "is what stdin gives: line by line at a terminal, else all of it. Defaults are those of the run's [sample].",
    )
    parser.add_argument(
        "--run", required=True, metavar="DIR", help="folder of the run, or a model file; or its address"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="such as model.context_length=1024"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--prompt", action="append", metavar="TEXT", help="text to continue; may be given several times"
    )
    source.add_argument(
        "--prompt-file", metavar="FILE", help="file to continue, without its last line break; - is stdin"
    )
    source.add_argument(
        "--rewrite",
        nargs="*",
        metavar="FILE",
        help="rewrite each line of these files, or of stdin, with a model that learned it from pairs",
    )
    source.add_argument(
        "--chat",
        action="store_true",
        help="a conversation, a line each, at a terminal or from stdin, with a model that has a chat template",
    )
    parser.add_argument("--max-new-tokens", type=int, metavar="N", help="tokens a sample (or a rewrite) at most")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy")
    parser.add_argument("--top-k", type=int, metavar="K", help="keep the K likeliest tokens; 0: all")
    parser.add_argument("--top-p", type=float, metavar="P", help="keep the likeliest tokens that reach probability P")
    parser.add_argument("--min-p", type=float, metavar="P", help="drop tokens under this share of the likeliest one's")
    parser.add_argument(
        "--repetition-penalty", type=float, metavar="R", help="above 1: tokens already there are less likely"
    )
    parser.add_argument(
        "--presence-penalty",
        type=float,
        default=0.0,
        metavar="P",
        help="taken from the logits of tokens written before",
    )
    parser.add_argument(
        "--frequency-penalty", type=float, default=0.0, metavar="P", help="the same, for each time they were written"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="the same seed writes the same text (default 0)"
    )
    parser.add_argument("--num-samples", type=int, metavar="N", help="samples a prompt (default 1)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text; repeatable")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest token")
    parser.add_argument("--sliding-window", action="store_true", help="go on past the context with its last half")
    parser.add_argument(
        "--no-document-start", action="store_true", help="do not begin with the token that begins a document"
    )
    parser.add_argument(
        "--condition",
        action="append",
        default=[],
        metavar="NAME=LABEL",
        help="what the text is to be, such as style=formal, for a model trained with conditions; repeatable",
    )
    rewriting = parser.add_argument_group("rewriting", "for --rewrite alone")
    rewriting.add_argument(
        "--threshold",
        type=float,
        metavar="X",
        help="leave a line as it is where the confidence in its rewrite is under X, from 0 to 1 (default: the model's)",
    )
    rewriting.add_argument(
        "--beams", type=int, metavar="N", help="search with N beams; 1 is greedy (default: the model's own, mostly 1)"
    )
    rewriting.add_argument(
        "--alpha", type=float, default=1.0, metavar="A", help="rank beams by log-probability / length**A (default 1)"
    )
    rewriting.add_argument(
        "--no-lookup", action="store_true", help="token by token: the same output, slower where it copies its line"
    )
    rewriting.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="lines at once (default 1: each line as it comes)"
    )
    parser.add_argument("--checkpoint", default="best", metavar="WHICH", help="best (default), latest, or a step")
    parser.add_argument("--json", action="store_true", help="one JSON object a sample and line")
    add_debug_argument(parser)
    return parser


def _run(args: argparse.Namespace) -> int:
    if args.rewrite:
        args.rewrite, behind = split_overrides(args.rewrite)
        args.overrides += behind
    _check_mode(args)
    arguments, rewriting = _arguments(args), _rewrite_arguments(args)
    # Before JAX is imported: a mistake on the command line is told at once.
    args.run, args.checkpoint = opened(args.run, args.checkpoint)
    run = RunFolder(args.run)
    is_file = run.path.exists() and not run.config.exists()
    make_request(SampleConfig() if is_file else run.read_config().sample, **arguments)
    resolve_rewriting(**rewriting)
    prompts = _prompts(args) if args.rewrite is None and not args.chat else None

    from jslm.sample.command import run as write

    return write(args, arguments, rewriting, prompts, conditions_from(args.condition))


def _arguments(args: argparse.Namespace) -> Arguments:
    return {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "presence_penalty": args.presence_penalty,
        "frequency_penalty": args.frequency_penalty,
        "seed": args.seed,
        "num_samples": 1 if args.num_samples is None else args.num_samples,
        "stop": args.stop,
        "greedy": args.greedy,
        "sliding_window": args.sliding_window,
        "document_start": not args.no_document_start,
    }


def _rewrite_arguments(args: argparse.Namespace) -> RewriteArguments:
    return {
        "threshold": args.threshold,
        "beams": args.beams,
        "alpha": args.alpha,
        "lookup": not args.no_lookup,
        "max_new_tokens": args.max_new_tokens,
        "batch_size": args.batch_size,
    }


def _check_mode(args: argparse.Namespace) -> None:
    """Raises JslmError for an option that would be passed over."""
    defaults = _parser()
    idle, what = (_REWRITING, "without") if args.rewrite is None else (_SAMPLING, "with")
    for name in idle:
        if getattr(args, name) != defaults.get_default(name):
            option = "--" + name.replace("_", "-")
            raise JslmError(f"{option} has no meaning {what} --rewrite; leave it out")
    for name in _ALONE if args.chat else ():
        if getattr(args, name) != defaults.get_default(name):
            raise JslmError(f"--{name.replace('_', '-')} has no meaning with --chat; leave it out")


def _prompts(args: argparse.Namespace) -> list[str] | None:
    """The prompts; None for a conversation at the terminal."""
    if args.prompt is not None:
        for prompt in args.prompt:
            # argv that is not UTF-8 arrives as lone surrogates, which nothing could print.
            if any("\ud800" <= char <= "\udfff" for char in prompt):
                raise JslmError(f"--prompt: {prompt!r} is not UTF-8 text; check the terminal's encoding")
        return list(args.prompt)
    if args.prompt_file is not None:
        text = _read_stdin() if args.prompt_file == "-" else _read_file(args.prompt_file)
        if not text:
            raise JslmError(f"--prompt-file {args.prompt_file}: empty; for a sample without a prompt use --prompt ''")
        return [text]
    # Samples from nothing were asked for: waiting for a pipe that nobody writes to would hang a script.
    if args.num_samples is not None:
        return [""]
    if sys.stdin is not None and sys.stdin.isatty():
        return None
    return [_read_stdin()]


def _read_file(name: str) -> str:
    try:
        return Path(name).read_text("utf-8").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise JslmError(f"--prompt-file {name}: not UTF-8 text (byte {error.start:,})") from None


def _read_stdin() -> str:
    if sys.stdin is None:
        return ""
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise JslmError(f"stdin: not UTF-8 text (byte {error.start:,}); give the prompt with --prompt") from None


if __name__ == "__main__":
    sys.exit(main())
