"""The table of formats: each is a module under this package with a `FORMAT`."""

from __future__ import annotations

import importlib
from pathlib import Path

from jslm.errors import JslmError
from jslm.runs.bundle import Format

# In the order of detection: the most particular first.
_MODULES = (
    "portable", "onnx.model", "web.model", "huggingface.model", "gguf.model", "llama2c.model", "llama2c.checkpoint",
    "checkpoints.nanogpt", "checkpoints.lillm", "checkpoints.slms",
)  # fmt: skip


def known_formats() -> dict[str, Format]:
    """Every format by its name."""
    found = [importlib.import_module(f"jslm.formats.{module}").FORMAT for module in _MODULES]
    return {entry.name: entry for entry in found}


def choose_format(path: Path, name: str = "auto") -> Format:
    """The format called `name`, or what the file or folder is by its first bytes and names.

    Raises JslmError where there is no such format, or `path` is missing or nothing known.
    """
    known = known_formats()
    if name != "auto":
        return format_named(name)
    if not path.exists():
        raise JslmError(f"{path}: no such file or folder")
    for entry in known.values():
        if entry.detect(path):
            return entry
    raise JslmError(
        f"{path}: nothing that jslm knows by its names and first bytes; if it is one of "
        f"{', '.join(known)}, jslm convert takes it with --format"
    )


def format_named(name: str) -> Format:
    """The format called `name`. Raises JslmError listing them where there is none."""
    known = known_formats()
    if name not in known:
        raise JslmError(f"--format {name}: no such format; there are {', '.join(known)}")
    return known[name]
