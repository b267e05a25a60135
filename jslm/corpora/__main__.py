"""`jslm corpora stories|rewrite|chat-examples ...`: writes a corpus that jslm makes itself."""

from __future__ import annotations

import argparse
import importlib
import sys

from jslm.cli import run_verb

# Each has arguments of its own.
_WRITERS = {"stories": "stories", "rewrite": "rewrite", "chat-examples": "chat_examples"}


def main(argv: list[str] | None = None) -> int:
    """Writes a generated corpus, or prints some of it; returns the exit status, 2 for bad input."""
    first, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    if first in _WRITERS:
        module = importlib.import_module(f"jslm.corpora.{_WRITERS[first]}.__main__")
        status: int = module.main(rest[:-1])
        return status
    parser = argparse.ArgumentParser(
        prog="jslm corpora",
        description="Writes a corpus that jslm makes itself, or prints some of it. Each has arguments of its own: "
        f"{', '.join(f'jslm corpora {name} --help' for name in _WRITERS)}.",
    )
    parser.add_argument("corpus", choices=list(_WRITERS), help="which one")
    return run_verb("corpora", parser, argv, lambda options: 0)


if __name__ == "__main__":
    sys.exit(main())
