"""`import_model`, `export_model` and `inspect_model`: what the command line does, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.formats.formats import choose_format, format_named, known_formats
from jslm.formats.opening import load_model
from jslm.formats.shapes import describe_decoder
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import RunFolder, is_run_folder
from jslm.runs.model import write_run
from jslm.runs.remote import opened
from jslm.storage import is_address


def import_model(source: str | Path, run_dir: str | Path, *, format: str = "auto") -> Bundle:
    """Reads a model in any known format and writes it as the run folder `run_dir`, whole or not at all.

    Raises JslmError where the source is bad or has an option that jslm's decoder lacks, and where `run_dir` holds
    something already.
    """
    if is_address(run_dir):
        raise JslmError(
            f"{run_dir}: an address, and models are imported into folders; copy the folder there afterwards"
        )
    _check_free(Path(run_dir))
    bundle = load_model(source, format=format)
    write_run(bundle, Path(run_dir))
    return bundle


def export_model(
    run: str | Path,
    target: str | Path,
    *,
    format: str,
    dtype: str = "",
    checkpoint: str = "best",
    ema: bool | None = None,
    **options: Any,
) -> Bundle:
    """Writes the model of a run folder (or of a portable file) to `target` in `format`, whole or not at all.

    `dtype` is that of the matrices, by default float32, which loses nothing (of web int8). `checkpoint` and `ema` as in
    `load_model`. `options` are keywords of single formats: of onnx `condition` (labels to build in, by name), `opset`
    and `text` (a file of held text); of web `condition`, `text` and `onnxruntime_web` (npm's package as a file). Raises
    JslmError that lists every option of the model that the format can't express, and for a format, type or keyword that
    does not exist.
    """
    chosen = format_named(format)
    if chosen.write is None:
        written = ", ".join(entry.name for entry in known_formats().values() if entry.write)
        raise JslmError(f"--format {format}: jslm reads it and does not write it; it writes {written}")
    dtype = dtype or chosen.dtypes[0]
    if dtype not in chosen.dtypes:
        raise JslmError(f"--dtype {dtype}: {format} holds {', '.join(chosen.dtypes)}")
    if unknown := [name for name in options if name not in chosen.options]:
        flag = unknown[0].replace("_", "-")
        raise JslmError(f"jslm convert export --{flag}: {format} has no such option; leave it out")
    bundle = load_model(run, checkpoint=checkpoint, ema=ema)
    chosen.write(bundle, Path(target), dtype, **options)
    return bundle


def inspect_model(path: str | Path) -> dict[str, Any]:
    """What a model file or folder is: format, architecture, parameters, tokenizer; its weights are not read.

    Raises JslmError where it is nothing known, or damaged.
    """
    path = Path(opened(path)[0])
    return _describe_run(path) if is_run_folder(path) else choose_format(path).describe(path)


def _describe_run(path: Path) -> dict[str, Any]:
    folder = RunFolder(path)
    info = folder.read_info()
    steps = CheckpointStore(folder.checkpoints).steps()
    tokenizer = (info.get("data") or {}).get("tokenizer") or {}
    return {
        "format": "run folder of jslm",
        "status": info.get("status", "unknown"),
        "checkpoints": ", ".join(map(str, steps)) or "none",
        **describe_decoder(folder.read_config().model),
        "tokenizer": f"{tokenizer.get('kind', 'unknown')}: {tokenizer.get('vocab_size', 0):,} tokens",
        **{key: value for key, value in (info.get("result") or {}).items() if key in ("val/loss", "val/bits_per_byte")},
    }


def _check_free(run_dir: Path) -> None:
    """Before a large model is read in vain."""
    if run_dir.is_file() or (run_dir.is_dir() and any(run_dir.iterdir())):
        raise JslmError(f"{run_dir}: is there already, and nothing is overwritten; choose another folder for the run")
