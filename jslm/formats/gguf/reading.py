"""A GGUF file as a `Bundle`: its keys, its tokenizer and its tensors, dequantised to float32.

Only the header is read by lengths that the file says, each checked against its size (`header.py`); tensors are views of
the file, taken where a name and a shape are what the model's keys call for. Blocks are unpacked by `gguf`, the library
of llama.cpp's authors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from pydantic import ValidationError

from jslm.config import CardConfig, ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.formats.gguf.general import DESCRIPTION
from jslm.formats.gguf.header import Header, StoredTensor, read_header
from jslm.formats.gguf.keys import ROPE_KEY, model_from_header
from jslm.formats.gguf.sampling import sampling_of
from jslm.formats.gguf.tokenizer import ARRAYS, FINGERPRINT_KEY, tokenizer_from_header
from jslm.formats.gguf.vocabulary import NO_BOS_TEMPLATE
from jslm.formats.gguf.weights import tensor_names
from jslm.formats.trees import read_tree
from jslm.formats.weights import TensorReader, same_weights
from jslm.runs.bundle import Bundle

_log = logging.getLogger("jslm")
_LANGUAGES = "general.languages"
_TEMPLATE = "tokenizer.chat_template"
_FLOATS = {"f32": np.dtype("<f4"), "f16": np.dtype("<f2"), "bf16": np.dtype(ml_dtypes.bfloat16), "f64": np.dtype("<f8")}
# Of what other programs leave in a file, the parts that say nothing of what is computed.
_TOLD = ("general.", "tokenizer.", "split.", "quantize.", "jslm.")


def read(path: Path) -> Bundle:
    """The model of the file `path`, in float32.

    Raises JslmError where the file is damaged or cut short, for what jslm's decoder lacks, and where blocks of another
    type than float have to be unpacked and the package gguf is missing.
    """
    header = read_header(path, (*ARRAYS, _LANGUAGES))
    architecture = header.metadata.get("general.architecture")
    _tell_the_rest(header, path, f"{architecture}.")
    file = _File(path, header)
    # The model first: what is no model at all has no tokenizer either.
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    vocab_size = len(tokens) if isinstance(tokens, list) else 1
    model, architecture = model_from_header(header, path, max(vocab_size, 1), file.get)
    tokenizer, ends_documents = tokenizer_from_header(header, path)
    tensors = TensorReader(str(path), {name: tensor.shape for name, tensor in header.tensors.items()}, file.get)
    model = _without_second_table(tensors, model)
    if "rope_freqs.weight" in tensors:
        tensors.take("rope_freqs.weight", model.dim_per_head // 2)
    params = read_tree(tensors, model, tensor_names(architecture))
    values = {"model": model.model_dump(), "sample": sampling_of(header.metadata), "card": _card(header.metadata)}
    config = config_from_dict(values, str(path))
    return Bundle(
        config,
        params,
        tokenizer,
        ends_documents=ends_documents,
        source=str(path),
        chat_template=_chat_template(header, path),
    )


class _File:
    """The tensors of a file, mapped and not read until one is asked for."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path, self.tensors = path, header.tensors
        try:
            self._bytes = np.memmap(path, np.uint8, "r")
        except (OSError, ValueError) as error:
            raise JslmError(f"{path}: cannot be read ({error})") from error

    def get(self, name: str) -> np.ndarray:
        """One tensor in float32. Raises JslmError for a type that nobody unpacks, and for what is not finite."""
        tensor = self.tensors[name]
        data = self._bytes[tensor.offset : tensor.offset + tensor.size]
        if tensor.kind in _FLOATS:
            with np.errstate(over="ignore"):
                array = data.view(_FLOATS[tensor.kind]).reshape(tensor.shape).astype(np.float32)
        else:
            array = self._unpack(name, tensor, data)
        if not np.isfinite(array).all():
            raise JslmError(f"{self.path}: {name} has weights that are no numbers; the file is damaged")
        return array

    def _unpack(self, name: str, tensor: StoredTensor, data: np.ndarray) -> np.ndarray:
        gguf = load_extra("gguf", "convert", f"{self.path}: {name} is of type {tensor.kind}, which")
        kind = gguf.GGMLQuantizationType[tensor.kind.upper()]
        rows = int(np.prod(tensor.shape[:-1]))
        try:
            # Numbers of a damaged block may be beyond what float16 holds: told by name, not as a warning.
            with np.errstate(all="ignore"):
                found = gguf.dequantize(np.asarray(data).reshape(rows, -1), kind)
        except (NotImplementedError, ValueError) as error:
            raise JslmError(
                f"{self.path}: {name} is of type {tensor.kind}, which the package gguf does not unpack ({error}); use "
                "a file of float16, q8_0 or K types"
            ) from None
        return np.asarray(found, np.float32).reshape(tensor.shape)


def _without_second_table(tensors: TensorReader, model: ModelConfig) -> ModelConfig:
    """`model` with its head tied where the file holds the embedding twice, as old converters wrote it."""
    if model.tie_embeddings:
        return model
    table = (model.vocab_size, model.d_model)
    if not same_weights(tensors.take("token_embd.weight", *table), tensors.take("output.weight", *table)):
        return model
    return model.model_copy(update={"tie_embeddings": True})


def _chat_template(header: Header, path: Path) -> str:
    found = header.metadata.get(_TEMPLATE, "")
    if not isinstance(found, str):
        raise JslmError(f"{path}: {_TEMPLATE} is no text; the file is damaged")
    return found.removeprefix(NO_BOS_TEMPLATE)


def _card(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What the file says of the model that a card says too, as far as it is spelled as there."""
    said = {"description": metadata.get("general.description"), "license": metadata.get("general.license")}
    author, languages = metadata.get("general.author"), metadata.get(_LANGUAGES)
    found: dict[str, Any] = {key: text for key, text in said.items() if isinstance(text, str) and text}
    if found.get("description", "").startswith(DESCRIPTION):
        del found["description"]
    if found.get("license") == "unknown":
        del found["license"]
    if isinstance(author, str) and author:
        found["authors"] = [author]
    if isinstance(languages, list):
        found["language"] = languages
    for key in list(found):
        try:
            CardConfig.model_validate({key: found[key]})
        except ValidationError:
            _log.info("%s = %s: left out, as no card spells it so", key, repr(found.pop(key))[:60])
    return found


def _tell_the_rest(header: Header, path: Path, own: str) -> None:
    """Names the keys that no program computes with and that a run has no place for."""
    known = {_TEMPLATE, ROPE_KEY, FINGERPRINT_KEY}
    left = [
        name
        for name in header.metadata
        if not name.startswith((*_TOLD, own))
        or (name.startswith("tokenizer.") and not name.startswith("tokenizer.ggml."))
    ]
    if left := [name[:80] for name in left if name not in known]:
        more = f" and {len(left) - 5} more" if len(left) > 5 else ""
        _log.info("%s: left out, as a run has no place for it: %s%s", path, ", ".join(left[:5]), more)
