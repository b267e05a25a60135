"""What the command line prints."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

from jslm.console import format_seconds, unbroken
from jslm.errors import JslmError
from jslm.infer.language_model import LanguageModel
from jslm.infer.request import Arguments

_RULE_WIDTH = 72


def print_stream(model: LanguageModel, prompt: str, arguments: Arguments) -> None:
    """Prints one sample as it is written, after its prompt. Ctrl-C ends it."""
    pieces = model.stream(prompt, **arguments)
    print(_emphasised(prompt), end="", flush=True)
    print_pieces(pieces)


def print_pieces(pieces: Iterator[str], *, silent: bool = False) -> str:
    """Prints a text as it is written, and the end of its line; returns it, as far as Ctrl-C let it come."""
    text = ""
    with unbroken():
        try:
            for piece in pieces:
                text += piece
                if not silent:
                    print(piece, end="", flush=True)
        except KeyboardInterrupt:
            pass
        if not silent:
            print(flush=True)
    return text


def print_samples(model: LanguageModel, prompts: list[str], arguments: Arguments) -> None:
    """Prints several samples, each under a rule with its number."""
    results = model.generate_results(prompts, **arguments)
    for number, result in enumerate(results, 1):
        print(f"--- sample {number} of {len(results)} ".ljust(_RULE_WIDTH, "-"))
        print(_emphasised(result.prompt) + result.text)


def print_json(model: LanguageModel, prompts: list[str], arguments: Arguments) -> None:
    """Prints a JSON object a line for each sample: prompt, text, tokens, logprobs, finish_reason, seed.

    `top_logprobs` stands there too where `arguments` ask for some.
    """
    for result in model.generate_results(prompts, **arguments):
        fields = {**vars(result), "seed": arguments["seed"]}
        if not fields["top_logprobs"]:
            del fields["top_logprobs"]
        print(json.dumps(fields, ensure_ascii=False), flush=True)


def converse(model: LanguageModel, arguments: Arguments, *, as_json: bool) -> None:
    """Reads prompts from the terminal and prints a sample for each, until Ctrl-D. Ctrl-C ends a sample, then the whole.

    Each prompt takes the next seed, so that asking again writes something else.
    """
    first_seed, turn = arguments["seed"], 0
    while True:
        try:
            prompt = input("> ")
        except (EOFError, KeyboardInterrupt):
            print(file=sys.stderr)
            return
        turn_arguments: Arguments = {**arguments, "seed": first_seed + turn}
        turn += 1
        try:
            if as_json:
                print_json(model, [prompt], turn_arguments)
            else:
                print_stream(model, prompt, turn_arguments)
        except JslmError as error:
            print(f"jslm sample: {error}", file=sys.stderr)
        except KeyboardInterrupt:
            print(file=sys.stderr)


def print_speed(model: LanguageModel) -> None:
    """Prints tokens a second of decoding to stderr; compiling and reading prompts do not count."""
    if model.decode_seconds:
        rate = model.decode_tokens / model.decode_seconds
        seconds = format_seconds(model.decode_seconds)
        print(f"{model.decode_tokens:,} tokens in {seconds} ({rate:,.0f} tokens/s)", file=sys.stderr)


def _emphasised(prompt: str) -> str:
    return f"\033[1m{prompt}\033[0m" if prompt and sys.stdout.isatty() else prompt
