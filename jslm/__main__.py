"""`jslm <verb>`; `python -m jslm.<verb>` is the same."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import cast

import jslm

VERBS = {
    "prepare": "text files to token files",
    "inspect": "what is in prepared data, or what a run was trained on",
    "train": "token files to a model, with checkpoints, metrics and a report",
    "sample": "text from a trained model",
    "plan": "what a run will take: memory, time and accelerator-hours, on machines that are not here",
    "serve": "models over HTTP, for many users at once",
    "evaluate": "loss, bits per byte, benchmarks, rewriting and samples of models, side by side",
    "judge": "which of two models people like better, blind and side by side",
    "sweep": "many runs of one config with some keys changed",
    "convert": "models in from other programs, and out to them",
    "corpora": "texts that jslm writes itself: stories, pairs for rewriting, chat examples",
    "configs": "the presets and recipes that come with jslm, for --config",
    "config": "the reference of every configuration key",
}


# Spellings of before: what the words after the verb are called now.
_FORMER = {
    ("data", "inspect"): "jslm inspect",
    ("data", "stories"): "jslm corpora stories",
    ("data", "rewrite"): "jslm corpora rewrite",
    ("data", "chat-examples"): "jslm corpora chat-examples",
}


def main(argv: list[str] | None = None) -> int:
    """Hands the arguments after the verb to `jslm.<verb>.__main__.main` and returns its exit status.

    `--help` and `--version` import nothing else. 2 for an unknown verb.
    """
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    verb, *rest = arguments
    if verb in ("-V", "--version"):
        print(f"jslm {jslm.__version__}")
        return 0
    if former := _FORMER.get((verb, rest[0] if rest else "")):
        print(f"jslm: jslm {verb} {rest[0]} is {former} now; the arguments are the same", file=sys.stderr)
        return 2
    if verb not in VERBS:
        # Only the error path needs it, and `--help` stays a few milliseconds quicker.
        import difflib

        nearest = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.0)[0]
        print(f"jslm: {verb} is not a verb; did you mean {nearest}? (jslm --help lists them)", file=sys.stderr)
        return 2
    verb_main = cast(
        Callable[[list[str] | None], int],
        importlib.import_module(f"jslm.{verb}.__main__").main,
    )
    if argv is not None:
        return verb_main(rest)
    # The process's own command line, and not a call from Python: a verb may start it again, with other settings.
    sys.argv = [f"{sys.argv[0]} {verb}", *rest]
    return verb_main(None)


def _usage() -> str:
    verbs = "\n".join(f"  {verb:<10}{summary}" for verb, summary in VERBS.items())
    return (
        f"usage: jslm <verb> [arguments]\n\n{verbs}\n\n"
        "jslm <verb> --help tells a verb's arguments; jslm --version the version."
    )


if __name__ == "__main__":
    sys.exit(main())
