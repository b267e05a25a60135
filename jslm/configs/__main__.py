"""`jslm configs [NAME]`."""

from __future__ import annotations

import argparse
import sys

from jslm.cli import add_debug_argument, run_verb
from jslm.config import describe, load_config, preset_files
from jslm.errors import JslmError

# Characters of an English corpus, where the tokenizer has what its text has.
_CHARACTERS = 96


def main(argv: list[str] | None = None) -> int:
    """Lists the configs that come with jslm, or prints one; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="jslm configs",
        description="The configs that come with jslm, for --config in any folder: presets, and recipes of corpora for "
        "jslm prepare. With a NAME, that file itself: jslm configs quickstart > mine.toml",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="print this one")
    add_debug_argument(parser)
    return run_verb("configs", parser, argv, _run)


def _run(args: argparse.Namespace) -> int:
    files = preset_files()
    if args.name is not None:
        if args.name not in files:
            raise JslmError(f"{args.name}: no such preset; there are {', '.join(files)}")
        print(files[args.name].read_text("utf-8"), end="")
        return 0
    width = max(map(len, files))
    for name, path in files.items():
        parameters = "" if name.startswith("data/") else parameter_count(name)
        print(f"{name:<{width}}  {parameters:>6}  {describe(path)}")
    return 0


def parameter_count(name: str) -> str:
    """Parameters of a preset's model as `0.23M`; with a tokenizer of characters, for English text."""
    from jslm.model import count_parameters

    config = load_config(name)
    kind = config.tokenizer.kind
    sizes = {"bpe": config.tokenizer.vocab_size, "gpt2": 50257, "byte": 257}
    model = config.model.model_copy(update={"vocab_size": sizes.get(kind, _CHARACTERS)})
    count = count_parameters(model)["total"] / 1e6
    return f"{count:.2f}M" if count < 2 else f"{count:.1f}M"


if __name__ == "__main__":
    sys.exit(main())
