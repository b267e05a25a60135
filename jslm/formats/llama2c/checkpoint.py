"""`ckpt.pt` of llama2.c's training (`train.py`), read only: `model_args` and the state of `Transformer` (`model.py`).

The rotary tables are no weights there; some versions save them all the same, as `freqs_cos` and `freqs_sin`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.formats.llama2c.tokenizer import NAME, find_tokenizer
from jslm.formats.llama2c.weights import LAYER_TENSORS, TABLES, rotary_tables
from jslm.formats.pickles.reader import read_torch_file
from jslm.formats.shapes import describe_model
from jslm.formats.trees import Names, read_tree
from jslm.formats.weights import TensorReader, tied_by_its_tensors
from jslm.model import count_parameters
from jslm.runs.bundle import Bundle, Format

_PREFIX = "_orig_mod."
_TOKENS = "tok_embeddings.weight"
_PARTS = {path[-2]: name for name, path in LAYER_TENSORS.items()}
_NAMES = Names(_TOKENS, "output.weight", "norm", "layers.{}", _PARTS, neighbours=True)
# PyTorch writes the names of the weights first, both in its zip files and in the older ones.
_START = 2**20
_ARGUMENTS = {"dim": "d_model", "n_layers": "n_layers", "n_heads": "n_heads", "max_seq_len": "context_length"}


def detect(path: Path) -> bool:
    """Whether the first megabyte of a file has the names of llama2.c's weights in it."""
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except OSError:
        return False
    is_torch = start.startswith((b"PK\x03\x04", b"\x80\x02"))
    return is_torch and b"model_args" in start and b"tok_embeddings.weight" in start


def describe(path: Path) -> dict[str, Any]:
    """The shape and the figures of a checkpoint. Raises JslmError for a bad file."""
    checkpoint = _open(path)
    model = _model(checkpoint, path)
    return {
        "format": "llama2.c training checkpoint",
        "architecture": "llama",
        "parameters": count_parameters(model)["total"],
        **describe_model(model),
        "vocab_size": model.vocab_size,
        "tied head": model.tie_embeddings,
        **_figures(checkpoint),
        "tokenizer": f"{NAME} or tok*.bin beside the file",
    }


def read(path: Path) -> Bundle:
    """The model of a `ckpt.pt`, with the tokenizer of the `tokenizer.bin` or `tok*.bin` of its folder.

    Raises JslmError where one of the two is missing or damaged, or weights are missing, left over or of a wrong shape.
    """
    checkpoint = _open(path)
    model = _model(checkpoint, path)
    state = _state(checkpoint, path)
    reader = TensorReader(str(path), {name: array.shape for name, array in state.items()}, state.__getitem__)
    for name, table in zip(TABLES, rotary_tables(model), strict=True):
        reader.pass_over(name.__eq__, functools.partial(_same_tables, table), "llama2.c's table of base 10,000")
    params = read_tree(reader, model, _NAMES)
    tokenizer = find_tokenizer(path, model.vocab_size)
    config = config_from_dict({"model": model.model_dump()}, str(path))
    return Bundle(config, params, tokenizer, figures=_figures(checkpoint), source=str(path))


def _open(path: Path) -> Mapping[str, Any]:
    checkpoint = read_torch_file(path)
    for name in ("model", "model_args"):
        if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get(name), Mapping):
            raise JslmError(f"{path}: no {name} in it; expected a checkpoint of llama2.c's train.py")
    found: Mapping[str, Any] = checkpoint
    return found


def _state(checkpoint: Mapping[str, Any], path: Path) -> dict[str, np.ndarray]:
    state = {str(name).removeprefix(_PREFIX): array for name, array in checkpoint["model"].items()}
    if odd := next((name for name, array in state.items() if not isinstance(array, np.ndarray)), None):
        raise JslmError(f"{path}: model has {odd!r}, which is no tensor; expected a checkpoint of llama2.c's train.py")
    return state


def _model(checkpoint: Mapping[str, Any], path: Path) -> ModelConfig:
    arguments, state = checkpoint["model_args"], _state(checkpoint, path)
    fields: dict[str, Any] = {}
    for theirs, ours in _ARGUMENTS.items():
        if not isinstance(arguments.get(theirs), int):
            raise JslmError(f"{path}: model_args has no whole number {theirs}; expected llama2.c's ModelArgs")
        fields[ours] = arguments[theirs]
    fields["n_kv_heads"] = arguments.get("n_kv_heads") or fields["n_heads"]
    fields["norm_eps"] = arguments.get("norm_eps", 1e-5)
    fields["dropout"] = arguments.get("dropout") or 0.0
    # ModelArgs may leave these two to a rule, and the weights cannot be wrong about them.
    for name, ours in ((_TOKENS, "vocab_size"), ("layers.0.feed_forward.w1.weight", "d_ff")):
        if name not in state or state[name].ndim != 2:
            raise JslmError(f"{path}: no matrix {name}; expected a checkpoint of llama2.c's train.py")
        fields[ours] = state[name].shape[0]
    if fields["d_model"] % max(fields["n_heads"], 1):
        raise JslmError(f"{path}: n_heads = {fields['n_heads']} does not divide dim = {fields['d_model']}")
    if fields["n_layers"] > len(state):
        raise JslmError(f"{path}: n_layers = {fields['n_layers']:,}, but there are {len(state):,} tensors in all")
    head = state.get("output.weight")
    # llama2.c's own are tied.
    fields["tie_embeddings"] = tied_by_its_tensors(str(path), True, state[_TOKENS], head)
    return config_from_dict({"model": {"rope_theta": 10000.0, **fields}}, str(path)).model


def _same_tables(table: np.ndarray, found: np.ndarray) -> bool:
    return found.shape == table.shape and np.allclose(np.asarray(found, np.float32), table, rtol=0.0, atol=1e-2)


def _figures(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    figures: dict[str, Any] = {}
    if isinstance(steps := checkpoint.get("iter_num"), int):
        figures["steps"] = steps
    loss = checkpoint.get("best_val_loss")
    if isinstance(loss, float) or (isinstance(loss, np.ndarray) and loss.size == 1):
        figures["val/loss"] = float(np.asarray(loss).reshape(()))
    return figures


FORMAT = Format(
    name="llama2c-checkpoint",
    summary="ckpt.pt of llama2.c's training, with a tokenizer.bin beside it",
    detect=detect,
    describe=describe,
    read=read,
)
