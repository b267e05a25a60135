"""What the command line names: two models, and a file of prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from jslm.errors import JslmError
from jslm.files import read_utf8
from jslm.storage import is_address, tidy

_NAMES = ("best", "latest")


class Side(NamedTuple):
    """A model: path or address of a run or a file, and which of a run's checkpoints: "best", "latest" or a step."""

    name: str
    checkpoint: str


def parse_side(said: str) -> Side:
    """`RUN`, or `RUN@STEP` (also `@best`, `@latest`). Raises JslmError where a path names nothing.

    Of an address an @ with something else behind it is a part: what is there is asked when it is opened.
    """
    name, at, checkpoint = said.rpartition("@")
    named = checkpoint.isdigit() or checkpoint in _NAMES
    if not at or (not named if is_address(said) else Path(said).exists()):
        name, checkpoint = said, "best"
    elif not named:
        raise JslmError(f"{said}: expected a step, best or latest after @, found {checkpoint!r}")
    if is_address(name):
        name = tidy(name)
    elif not Path(name).exists():
        raise JslmError(f"{name}: no such run folder or model file")
    return Side(name, str(int(checkpoint)) if checkpoint.isdigit() else checkpoint)


def read_prompts(path: Path) -> list[str]:
    """A prompt a line; of `.jsonl` a JSON string, or an object with a string `prompt`. Blank lines are passed over.

    Raises JslmError, with the line, for a file that is absent, empty or not as told.
    """
    text = read_utf8(path, f"--prompts {path}")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    if path.suffix == ".jsonl":
        prompts = [_prompt(line, f"--prompts {path}:{number}") for number, line in lines]
    else:
        prompts = [line.removesuffix("\r") for _, line in lines]
    if not prompts:
        raise JslmError(f"--prompts {path}: empty; expected a prompt a line")
    return prompts


def _prompt(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JslmError(f"{where}: not JSON ({error})") from None
    prompt = found.get("prompt") if isinstance(found, dict) else found
    if not isinstance(prompt, str):
        raise JslmError(f"{where}: expected a string, or an object with a string `prompt`, found {line[:60]!r}")
    return prompt
