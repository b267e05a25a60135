"""The table of formats: each is a module of this package with a `FORMAT`."""

from __future__ import annotations

import importlib
from pathlib import Path

from jslm.convert.bundle import Format
from jslm.errors import JslmError

# In the order of detection: the most particular first.
_MODULES = ("portable", "huggingface", "gguf", "llama2c", "llama2c_checkpoint", "nanogpt", "lillm", "slms")


def formats() -> dict[str, Format]:
    """Every format by its name."""
    found = [importlib.import_module(f"jslm.convert.{module}").FORMAT for module in _MODULES]
    return {entry.name: entry for entry in found}


def detect_format(path: Path) -> Format:
    """The format of a file or folder. Raises JslmError where it is missing or nothing known."""
    if not path.exists():
        raise JslmError(f"{path}: no such file or folder")
    for entry in formats().values():
        if entry.detect(path):
            return entry
    raise JslmError(f"{path}: no format that jslm knows; there are {', '.join(formats())}: name one with --format")
