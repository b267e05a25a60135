"""A whole model in one safetensors file: weights, and in its metadata the config and the tokenizer.

`jslm.load` and every verb take it in place of a run folder. Other programs read the weights as any safetensors file.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.files import whole_file
from jslm.formats.shapes import describe_model
from jslm.formats.weights import SafetensorsFile, cast_weights, pad_rows, write_safetensors
from jslm.runs.bundle import Bundle, Format
from jslm.runs.checkpoint import check_params, flatten_tree, unflatten_params
from jslm.tokenizer import tokenizer_from_json

_KEY = "jslm"
_VERSION = 1
_MAX_HEADER = 100_000_000
_TABLES = ("embed/tokens", "head/tokens")


def detect(path: Path) -> bool:
    """Whether `path` is a safetensors file that jslm wrote."""
    try:
        with path.open("rb") as stream:
            size = struct.unpack("<Q", stream.read(8))[0]
            # The metadata comes first in the header.
            return size <= _MAX_HEADER and f'"{_KEY}":'.encode() in stream.read(min(size, 256))
    except (OSError, struct.error):
        return False


def describe(path: Path) -> dict[str, Any]:
    """What the file holds, without reading its weights. Raises JslmError for a bad file."""
    from jslm.model import count_parameters

    file = SafetensorsFile(path)
    config, fields = _header(file)
    model = config.model
    return {
        "format": f"portable file of jslm, version {fields['version']}",
        "parameters": count_parameters(model)["total"],
        "weights": f"{', '.join(sorted(set(file.types.values())))} in {len(file.shapes):,} tensors",
        **describe_model(model),
        "norm": model.norm,
        "position": model.position,
        "activation": model.activation,
        "tokenizer": f"{fields['tokenizer'].get('kind')}: {model.vocab_size:,} tokens",
        # Others are kept for one format alone, such as the last bits of llama2.c's tables.
        **{name: value for name, value in fields["figures"].items() if isinstance(value, int | float)},
    }


def read(path: Path) -> Bundle:
    """The model. Raises JslmError where the file is damaged, edited, or of a newer version."""
    from jslm.model import param_shapes

    file = SafetensorsFile(path)
    config, fields = _header(file)
    tokenizer = tokenizer_from_json(json.dumps(fields["tokenizer"]), where=f"{path}: tokenizer")
    if config.model.vocab_size != tokenizer.vocab_size:
        raise JslmError(
            f"{path}: model.vocab_size = {config.model.vocab_size:,}, but its tokenizer has {tokenizer.vocab_size:,} "
            "entries; the file is damaged"
        )
    shapes = param_shapes(config.model)
    wanted = flatten_tree(shapes)
    for name, shape in file.shapes.items():
        # Before anything is read or padded: a damaged header may name any size.
        true = wanted[name].shape if name in wanted else None
        if true is not None and name in _TABLES:
            true = (config.model.vocab_size, *true[1:])
        if shape != true:
            expected = "nothing of that name" if true is None else list(true)
            raise JslmError(f"{path}: {name} is {list(shape)}, expected {expected} by its config; the file is damaged")
    flat = {}
    for name in file.shapes:
        array = np.asarray(file.get(name), np.float32)
        flat[f"params/{name}"] = pad_rows(array, config.model.padded_vocab_size) if name in _TABLES else array
    params = unflatten_params(flat, "params")
    check_params(params, shapes, str(path), "its config")
    return Bundle(
        config,
        params,
        tokenizer,
        ends_documents=fields["ends_documents"],
        figures=fields["figures"],
        source=str(path),
        chat_template=fields.get("chat_template", ""),
    )


def write(bundle: Bundle, path: Path, dtype: str) -> None:
    """Writes the model to the file `path`, matrices in `dtype` and norms in float32, which they compute in.

    The whole file, or nothing and what was there before. Raises JslmError where a weight is too large for `dtype`.
    """
    tensors = {}
    for name, array in flatten_tree(bundle.params).items():
        rows = np.asarray(array)[: bundle.config.model.vocab_size] if name in _TABLES else np.asarray(array)
        tensors[name] = cast_weights(name, rows, "float32" if "norm" in name else dtype)
    fields = {
        "version": _VERSION,
        "ends_documents": bundle.ends_documents,
        "figures": dict(bundle.figures),
        # Where nothing is said for a card, versions before there was one read the file too.
        "config": bundle.config.model_dump(mode="json", exclude=None if bundle.config.card.is_said else {"card"}),
        "tokenizer": json.loads(bundle.tokenizer.to_json()),
        **({"chat_template": bundle.chat_template} if bundle.chat_template else {}),
    }
    with whole_file(path) as temporary:
        write_safetensors(temporary, tensors, {_KEY: json.dumps(fields, ensure_ascii=False)})


def _header(file: SafetensorsFile) -> tuple[Config, dict[str, Any]]:
    """The config, and all that the metadata holds. Raises JslmError where a part is missing or of another kind."""
    where = f"{file.path}"
    try:
        fields = json.loads(file.metadata.get(_KEY, ""))
    except (ValueError, RecursionError):
        raise JslmError(
            f"{where}: a safetensors file, but not one that jslm wrote; to import a Hugging Face model name its folder"
        ) from None
    if not isinstance(fields, dict) or fields.get("version") != _VERSION:
        version = fields.get("version") if isinstance(fields, dict) else None
        raise JslmError(f"{where}: version {version!r} of the portable file; this jslm reads {_VERSION}: update jslm")
    kinds = {"config": dict, "tokenizer": dict, "figures": dict, "ends_documents": bool}
    if not isinstance(fields.get("chat_template", ""), str):
        raise JslmError(f"{where}: its chat_template is no text; the file is damaged")
    for key, kind in kinds.items():
        if not isinstance(fields.get(key), kind):
            raise JslmError(f"{where}: its metadata has no {key}; the file is damaged")
    return config_from_dict(fields["config"], f"{where}: config"), fields


FORMAT = Format(
    name="safetensors",
    summary="one portable file with config and tokenizer, for jslm itself",
    detect=detect,
    describe=describe,
    read=read,
    write=write,
)
