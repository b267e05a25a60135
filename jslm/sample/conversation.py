"""`jslm sample --chat`: a conversation with a chat model, at the terminal or line by line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import TextIO

from jslm.errors import JslmError
from jslm.infer.chat import Chat
from jslm.infer.language_model import LanguageModel
from jslm.infer.request import Arguments
from jslm.sample.terminal import print_pieces


def converse(model: LanguageModel, arguments: Arguments, *, as_json: bool) -> None:
    """Reads what is said line by line, from the terminal or stdin, and prints each answer as it is written.

    As JSON an object a line: the messages so far, the answer last. Where the context is full, the oldest turns are
    forgotten. Ctrl-C ends an answer, then the whole; Ctrl-D ends it. Raises JslmError as `Chat`.
    """
    chat = Chat(model)
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    messages: list[Mapping[str, str]] = []
    first_seed = arguments["seed"]
    for turn, said in enumerate(_said(sys.stdin, is_terminal)):
        asked = [*messages, {"role": "user", "content": said}]
        seeded: Arguments = {**arguments, "seed": first_seed + turn}
        kept = chat.fitting(asked, **seeded)
        if len(kept) < len(asked):
            print(f"(forgotten: the first {len(asked) - len(kept)} messages)", file=sys.stderr)
        try:
            pieces = chat.stream(kept, **seeded)
        except JslmError as error:
            if not is_terminal:
                raise
            print(f"jslm sample: {error}", file=sys.stderr)
            continue
        answer = print_pieces(pieces, silent=as_json).strip()
        messages = [*kept, {"role": "assistant", "content": answer}]
        if as_json:
            print(json.dumps({"messages": messages, "seed": seeded["seed"]}, ensure_ascii=False), flush=True)


def _said(source: TextIO, is_terminal: bool) -> Iterator[str]:
    while True:
        try:
            line = input("> ") if is_terminal else source.readline()
        except UnicodeDecodeError as error:
            raise JslmError(f"stdin: not UTF-8 text (byte {error.start:,})") from None
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        if not line and not is_terminal:
            return
        if said := line.strip():
            yield said
