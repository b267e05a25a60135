"""`load_model`, by which every verb opens a model."""

from __future__ import annotations

from pathlib import Path

from jslm.errors import JslmError
from jslm.formats.formats import choose_format
from jslm.runs.bundle import Bundle
from jslm.runs.folder import is_run_folder
from jslm.runs.model import read_run
from jslm.runs.remote import opened


def load_model(path: str | Path, *, checkpoint: str = "best", ema: bool | None = None, format: str = "auto") -> Bundle:
    """The model of a run folder, or of a file or folder in any format that jslm reads; at an address too.

    `checkpoint` ("best", "latest" or a step) and `ema` choose among what a run has saved; by default the averaged
    parameters where there are some. Raises JslmError where there is nothing at `path`, it is damaged, or has no such
    checkpoint.
    """
    name, checkpoint = opened(path, checkpoint)
    path = Path(name)
    if format == "auto" and is_run_folder(path):
        return read_run(path, checkpoint=checkpoint, ema=ema)
    if not path.exists():
        raise JslmError(f"{path}: no such run folder or model file; train one with jslm train --config FILE")
    if format == "auto" and path.is_dir() and not (path / "config.json").is_file():
        raise JslmError(f"{path}: not a run folder: it has no config.toml; nor a Hugging Face one: no config.json")
    if checkpoint not in ("best", "latest"):
        raise JslmError(f"checkpoint {checkpoint}: {path} holds one set of weights; leave it out")
    if ema:
        raise JslmError(f"ema: {path} holds one set of weights; leave it out")
    chosen = choose_format(path, format)
    if chosen.read is None:
        raise JslmError(
            f"{path}: jslm writes {chosen.name} and does not read it; import the model from where it was exported, or "
            "from its Hugging Face folder"
        )
    return chosen.read(path)
