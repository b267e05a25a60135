"""Hugging Face folders, both ways: Llama, Mistral, Qwen2, Qwen3, Arcee and GPT-2, with their tokenizers.

`config.json`, weights (`model.safetensors`, in shards with an index, or `pytorch_model.bin`), and tokenizer files, as
transformers' `from_pretrained` and `save_pretrained` lay them out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.files import whole_folder
from jslm.formats.ends import end_tokens
from jslm.formats.huggingface.card import model_card
from jslm.formats.huggingface.config import (
    FAMILIES,
    config_fields,
    family_of,
    model_from_config,
    target_model,
)
from jslm.formats.huggingface.tokenizer import write_json, write_tokenizer
from jslm.formats.huggingface.weights import named_tensors, read_params, with_its_head
from jslm.formats.pickles.reader import read_torch_file
from jslm.formats.shapes import describe_model
from jslm.formats.tokenizers import read_huggingface_tokenizer, read_json
from jslm.formats.trees import with_zeros
from jslm.formats.weights import SafetensorsFile, TensorReader, cast_weights, same_weights, write_safetensors
from jslm.model import count_parameters
from jslm.prompts.chat import TEMPLATE_NAME, model_template
from jslm.runs.bundle import Bundle, Format

_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_PREFIXES = ("model.", "transformer.")
# What `generation_config.json` may say besides whether there is a choice at all.
_RANGES = {
    "top_k": (0, 2**31), "top_p": (1e-6, 1), "min_p": (0, 1), "repetition_penalty": (1e-6, 1e6),
    "max_new_tokens": (1, 2**31),
}  # fmt: skip


def detect(path: Path) -> bool:
    """Whether `path` is a folder with a `config.json`."""
    return (path / "config.json").is_file()


def describe(path: Path) -> dict[str, Any]:
    """What the folder holds, by its config and the headers of its weights; of those, a head that may be the embedding
    is read. Raises JslmError for a bad one."""
    fields = read_json(path / "config.json")
    family = fields.get("model_type")
    if family not in FAMILIES:
        return {"format": "Hugging Face folder", "architecture": family, "readable": "no: not an architecture of jslm"}
    model, family = model_from_config(fields, path / "config.json")
    weights = _open_weights(path)
    model = with_its_head(TensorReader(str(weights.path), weights.shapes, weights.get), model, family)
    types = ", ".join(sorted(set(weights.types))) or "none"
    return {
        "format": "Hugging Face folder",
        "architecture": family,
        "parameters": count_parameters(model)["total"],
        "weights": f"{types} in {len(weights.shapes):,} tensors of {weights.path.name}",
        **describe_model(model),
        "tokenizer": _describe_tokenizer(path, fields, model.vocab_size),
    }


def read(path: Path) -> Bundle:
    """The model of the folder `path`. Raises JslmError for what jslm's decoder lacks, and for damaged files."""
    fields = read_json(path / "config.json")
    model, family = model_from_config(fields, path / "config.json")
    weights = _open_weights(path)
    tensors = TensorReader(str(weights.path), weights.shapes, weights.get)
    model = with_its_head(tensors, model, family)
    params = read_params(tensors, model, family)
    tokenizer = read_huggingface_tokenizer(path, fields, model.vocab_size)
    config = config_from_dict({"model": model.model_dump(), **_sampling(path)}, str(path / "config.json"))
    return Bundle(config, params, tokenizer, ends_documents=True, source=str(path), chat_template=model_template(path))


def write(bundle: Bundle, path: Path, dtype: str) -> None:
    """Writes the folder `path`, which `AutoModelForCausalLM` and `AutoTokenizer` open: whole, or not at all.

    All tensors are in `dtype`. Raises JslmError that lists every option that transformers' architectures lack, and
    where `path` is there already, or a weight is too large for `dtype`.
    """
    family = family_of(bundle.config.model)
    model = target_model(bundle.config.model, family)
    fields = config_fields(model, family)
    # Versions before 5 read torch_dtype.
    fields |= {"dtype": dtype, "torch_dtype": dtype, "use_cache": True}
    params = with_zeros(bundle.params, model)
    with whole_folder(path) as folder:
        tensors = {name: cast_weights(name, array, dtype) for name, array in named_tensors(params, model, family)}
        write_safetensors(folder / "model.safetensors", tensors, {"format": "pt"})
        write_beside(bundle, folder, fields)
        (folder / "README.md").write_text(model_card(bundle, family, dtype), "utf-8")


def write_beside(bundle: Bundle, folder: Path, fields: Mapping[str, Any]) -> None:
    """Writes all but weights and model card: `config.json` with `fields`, sampling settings, tokenizer, chat template.

    Raises JslmError where no `tokenizer.json` gives the model's ids.
    """
    config, tokenizer = bundle.config, bundle.tokenizer
    tokens = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eot_id}
    write_json(folder / "config.json", {**fields, **tokens})
    stops = {"eos_token_id": one_or_more(end_tokens(bundle))}
    write_json(folder / "generation_config.json", {**tokens, **stops, **_generation_fields(config)})
    length = config.model.context_length
    write_tokenizer(tokenizer, folder, context_length=length, starts_documents=bundle.ends_documents)
    if bundle.chat_template:
        (folder / TEMPLATE_NAME).write_text(bundle.chat_template, "utf-8")


def one_or_more(ends: list[int]) -> int | list[int]:
    """Where writing ends, as programs read it: a number, or several where answers have an end of their own."""
    return ends if len(ends) > 1 else ends[0]


class _Weights:
    """The tensors of one file or of several, by names without `model.` or `transformer.` before them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.types: list[str] = []
        self._getters: dict[str, Callable[[], np.ndarray]] = {}

    def add(self, name: str, shape: tuple[int, ...], kind: str, get: Callable[[], np.ndarray]) -> None:
        short = next((name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix)), name)
        if short in self.shapes:
            if same_weights(self.get(short), get()):
                return
            raise JslmError(f"{self.path}: {short} is there twice, with and without a prefix, and the two differ")
        self.shapes[short], self._getters[short] = shape, get
        self.types.append(kind)

    def get(self, name: str) -> np.ndarray:
        return self._getters[name]()


def _open_weights(folder: Path) -> _Weights:
    path = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise JslmError(f"{folder}: no weights: expected one of {', '.join(_WEIGHTS)}")
    weights = _Weights(path)
    parts = _shards(path) if path.suffix == ".json" else {path: None}
    for part, names in parts.items():
        (_add_torch if part.suffix == ".bin" else _add_safetensors)(weights, part, names)
    return weights


def _shards(index: Path) -> dict[Path, set[str] | None]:
    """The files that an index names, and the tensors it says are in each."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table:
        raise JslmError(f"{index}: no weight_map; the file is damaged")
    shards: dict[Path, set[str] | None] = {}
    for name, file in table.items():
        # A name with a folder in it could reach any file of this machine.
        if not isinstance(file, str) or Path(file).name != file:
            raise JslmError(f"{index}: {name} is in {file!r}, which is no file name; the file is damaged or hostile")
        names = shards.setdefault(index.with_name(file), set())
        assert names is not None
        names.add(name)
    for part in shards:
        if not part.is_file():
            raise JslmError(f"{part}: missing, though {index.name} names it")
    return shards


def _add_safetensors(weights: _Weights, path: Path, names: set[str] | None) -> None:
    file = SafetensorsFile(path)
    _check_names(path, file.shapes, names)
    for name, shape in file.shapes.items():
        weights.add(name, shape, file.types[name], lambda name=name: file.get(name))  # type: ignore[misc]


def _add_torch(weights: _Weights, path: Path, names: set[str] | None) -> None:
    found = read_torch_file(path)
    if not isinstance(found, Mapping):
        raise JslmError(f"{path}: holds a {type(found).__name__}, expected a table of tensors")
    tensors = {name: array for name, array in found.items() if isinstance(array, np.ndarray)}
    _check_names(path, tensors, names)
    for name, array in tensors.items():
        weights.add(str(name), array.shape, array.dtype.name, lambda array=array: array)  # type: ignore[misc]


def _check_names(path: Path, found: Mapping[str, Any], names: set[str] | None) -> None:
    if names is not None and (differing := sorted(names ^ set(found))):
        raise JslmError(f"{path}: {differing[0]}: in the index and not in the file, or the other way round")


def _sampling(path: Path) -> dict[str, Any]:
    """The `[sample]` section that `generation_config.json` asks for, where there is one."""
    fields = read_json(path / "generation_config.json", absent_ok=True)
    if not fields:
        return {}
    found: dict[str, Any] = {}
    if not fields.get("do_sample", False):
        found["temperature"] = 0.0
    elif isinstance(fields.get("temperature"), int | float) and fields["temperature"] >= 0:
        found["temperature"] = float(fields["temperature"])
    for key, (lowest, highest) in _RANGES.items():
        value = fields.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest:
            found[key] = int(value) if key in ("top_k", "max_new_tokens") else float(value)
    return {"sample": found}


def _generation_fields(config: Config) -> dict[str, Any]:
    """The run's sampling settings as `generation_config.json` names them."""
    sample = config.sample
    fields: dict[str, Any] = {"max_new_tokens": sample.max_new_tokens, "do_sample": sample.temperature > 0}
    if sample.temperature > 0:
        fields |= {"temperature": sample.temperature, "top_k": sample.top_k, "top_p": sample.top_p}
        if sample.min_p:
            fields["min_p"] = sample.min_p
    if sample.repetition_penalty != 1:
        fields["repetition_penalty"] = sample.repetition_penalty
    return fields


def _describe_tokenizer(path: Path, fields: Mapping[str, Any], vocab_size: int) -> str:
    try:
        tokenizer = read_huggingface_tokenizer(path, dict(fields), vocab_size)
    except JslmError as error:
        return f"unreadable: {error}"
    return f"{tokenizer.kind}: {tokenizer.vocab_size:,} tokens"


FORMAT = Format(
    name="hf",
    summary="Hugging Face folder, for transformers and what reads its files",
    detect=detect,
    describe=describe,
    read=read,
    write=write,
)
