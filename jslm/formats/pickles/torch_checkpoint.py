"""What the readers of `.pt` checkpoints share: the state dict under its plain names, and the tokenizer beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.formats.pickles.reader import Record, looks_like_torch, read_torch_file
from jslm.formats.shapes import describe_decoder
from jslm.formats.tokenizers import find_tokenizer, read_huggingface_tokenizer, read_json
from jslm.formats.weights import TensorReader, same_weights
from jslm.tokenizer import Tokenizer

# torch.compile and DistributedDataParallel put these before every name.
_WRAPPERS = re.compile(r"^(?:_orig_mod\.|module\.)+")
_FLOATS = ("float64", "float32", "float16", "bfloat16")
_SUFFIXES = (".pt", ".pth", ".ckpt")
_MAX_CONTEXT = 2**24


@dataclass(frozen=True)
class TorchCheckpoint:
    """A checkpoint's tensors by their plain names, and `fields`, what is saved beside them."""

    path: Path
    fields: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]

    def reader(self) -> TensorReader:
        """A reader of the tensors, which tells what is missing or left over."""
        return TensorReader(str(self.path), {name: array.shape for name, array in self.tensors.items()}, self._weight)

    def shape(self, name: str, axes: int = 2) -> tuple[int, ...]:
        """The shape of a tensor with so many axes, none of them empty. Raises JslmError."""
        if name not in self.tensors:
            raise JslmError(f"{self.path}: no tensor {name}; the file is incomplete, or of another architecture")
        shape = self.tensors[name].shape
        if len(shape) != axes or not all(shape):
            raise JslmError(f"{self.path}: {name} is {list(shape)}, expected {axes} axes")
        return shape

    def count(self, pattern: str) -> int:
        """How many numbers the group in `pattern` takes in the tensors' names: 0, 1, ... without a gap.

        Raises JslmError where there are none, or one is left out.
        """
        found = {int(match[1]) for name in self.tensors if (match := re.match(pattern, name)) and len(match[1]) < 9}
        if not found or found != set(range(len(found))):
            what = f"{len(found)} that are not 0 to {len(found) - 1}" if found else "none"
            raise JslmError(f"{self.path}: tensors named like {pattern!r}: {what}; the file is incomplete")
        return len(found)

    def settings(self, key: str, known: Sequence[str], project: str) -> dict[str, Any]:
        """The model's settings, a dict or a dataclass under `key`; empty where there are none.

        Raises JslmError for a setting that is on and that `project` does not have: it would change the computation.
        """
        found = self.fields.get(key, {})
        found = found.attributes if isinstance(found, Record) else found
        if not isinstance(found, dict):
            raise JslmError(f"{self.path}: {key} is a {type(found).__name__}; expected a dict or a dataclass")
        strange = [name for name, value in found.items() if name not in known and not _is_off(value)]
        if strange:
            raise JslmError(
                f"{self.path}: {key} has {', '.join(str(name)[:40] for name in strange[:5])}, which {project} has not: "
                "it comes from a changed copy, and jslm would compute something else"
            )
        return found

    def figures(self, **keys: str) -> dict[str, Any]:
        """Those of the saved figures that are finite numbers, under jslm's names."""
        found = {name.replace("__", "/"): _number(self.fields.get(key)) for name, key in keys.items()}
        # 1e9 is what a loop begins with before any validation.
        return {name: value for name, value in found.items() if value is not None and value < 1e9}

    def _weight(self, name: str) -> np.ndarray:
        array = self.tensors[name]
        if str(array.dtype) not in _FLOATS:
            raise JslmError(f"{self.path}: {name} is of type {array.dtype}; weights are of {', '.join(_FLOATS)}")
        return array


def open_checkpoint(path: Path) -> TorchCheckpoint:
    """The checkpoint in a file of `torch.save`. Raises JslmError for a bad file, and one without a state dict."""
    value = read_torch_file(path)
    fields = value if isinstance(value, dict) else {}
    state = next((fields[key] for key in ("model", "state_dict") if isinstance(fields.get(key), dict)), fields)
    tensors: dict[str, np.ndarray] = {}
    for name, array in state.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            continue
        plain = _WRAPPERS.sub("", name)
        if plain in tensors and not same_weights(tensors[plain], array):
            raise JslmError(f"{path}: {plain} is there twice, with and without a prefix, and the two differ")
        tensors[plain] = array
    if not tensors:
        raise JslmError(f"{path}: no state dict in it: no dict of names and tensors, alone or under 'model'")
    return TorchCheckpoint(path, {key: entry for key, entry in fields.items() if entry is not state}, tensors)


def has_tensors(path: Path, *names: str) -> bool:
    """Whether `path` is a checkpoint with tensors of these names. Never raises; reads no weights."""
    if not path.is_file() or not looks_like_torch(path):
        return False
    try:
        found = open_checkpoint(path).tensors
    except JslmError:
        return False
    return all(name in found for name in names)


def is_unreadable(path: Path) -> bool:
    """Whether `path` is named as a checkpoint, and cannot be read as one: reading it says why."""
    if path.suffix not in _SUFFIXES or not path.is_file():
        return False
    try:
        open_checkpoint(path)
    except JslmError:
        return True
    return False


def tokenizer_beside(checkpoint: TorchCheckpoint, rows: int, ids: Mapping[str, int]) -> Tokenizer:
    """The tokenizer in the checkpoint's folder, for a table of `rows`.

    `ids` (`bos_token_id`, `eos_token_id`) are the project's own, for a Hugging Face file without settings beside it.
    Raises JslmError where there is none, or it does not fit.
    """
    folder = checkpoint.path.parent
    path = folder / "tokenizer.json"
    if path.is_file() and read_json(path).get("format") != "jslm-tokenizer":
        return read_huggingface_tokenizer(folder, dict(ids), rows)
    return find_tokenizer(folder, rows, str(checkpoint.path))


def make_config(checkpoint: TorchCheckpoint, model: Mapping[str, Any], tokenizer: Tokenizer | None) -> Config:
    """The config of an imported model. Raises JslmError for sizes that do not fit together."""
    context = model["context_length"]
    if not isinstance(context, int) or not 1 <= context <= _MAX_CONTEXT:
        raise JslmError(f"{checkpoint.path}: a context of {str(context)[:30]} tokens; expected 1 to {_MAX_CONTEXT:,}")
    values: dict[str, Any] = {"model": dict(model)}
    if tokenizer is not None and tokenizer.kind in ("char", "byte", "bpe", "gpt2"):
        values["tokenizer"] = {"kind": tokenizer.kind}
    return config_from_dict(values, str(checkpoint.path))


def describe_checkpoint(checkpoint: TorchCheckpoint, name: str, config: Config, tokenizer: str) -> dict[str, Any]:
    """What `inspect` prints, for every format alike."""
    model = config.model
    types = sorted({str(array.dtype) for array in checkpoint.tensors.values()})
    return {
        "format": name,
        "weights": f"{', '.join(types)} in {len(checkpoint.tensors):,} tensors",
        **describe_decoder(model),
        "vocab_size": model.vocab_size,
        "tied head": model.tie_embeddings,
        "tokenizer": tokenizer,
    }


def _is_off(value: Any) -> bool:
    return value is None or (isinstance(value, bool | int | float | str) and not value)


def _number(value: Any) -> float | int | None:
    if isinstance(value, np.ndarray) and value.shape == () and str(value.dtype) in _FLOATS:
        value = float(value)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and np.isfinite(float(min(value, 1e300))) else None
