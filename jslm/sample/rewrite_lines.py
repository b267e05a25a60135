"""Rewriting on the command line: lines of files or stdin to stdout, one by one."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from jslm.console import format_seconds
from jslm.errors import JslmError
from jslm.infer.language_model import LanguageModel
from jslm.infer.request import RewriteArguments


def print_rewrites(model: LanguageModel, files: Sequence[str], arguments: RewriteArguments, *, as_json: bool) -> None:
    """Prints a line for each line of the files (`-`, or none at all: stdin) as soon as it is there.

    As JSON an object with source, output, confidence, changed, reason and logprob. Then counts and speed on stderr.
    Raises JslmError for a file that is not there or not UTF-8, once the lines before it are printed.
    """
    started, count, changed, characters = time.perf_counter(), 0, 0, 0
    for name in files or ["-"]:
        shown = "stdin" if name == "-" else name
        named: RewriteArguments = {**arguments, "where": f"{shown}: line"}
        for rewrite in model.rewrite_stream(_lines(name, shown), **named):
            print(json.dumps(vars(rewrite), ensure_ascii=False) if as_json else rewrite.output, flush=True)
            count, changed = count + 1, changed + rewrite.changed
            characters += len(rewrite.output)
    seconds = time.perf_counter() - started
    print(
        f"{changed:,} of {count:,} lines changed, {characters:,} characters in {format_seconds(seconds)} "
        f"({count / seconds:,.1f} lines/s)",
        file=sys.stderr,
    )


def _lines(name: str, shown: str) -> Iterator[str]:
    with _opened(name) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8").removesuffix("\n")
            except UnicodeDecodeError as error:
                raise JslmError(f"{shown}: line {number}: not UTF-8 text (byte {error.start:,} of the line)") from None
            yield text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}") if number == 1 else text


def _opened(name: str) -> contextlib.AbstractContextManager[BinaryIO]:
    if name != "-":
        return Path(name).open("rb")
    if sys.stdin is None:
        raise JslmError("--rewrite: there is no stdin here; name a file, as in --rewrite sentences.txt")
    return contextlib.nullcontext(sys.stdin.buffer)
