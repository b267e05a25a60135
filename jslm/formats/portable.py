"""A whole model in one safetensors file: weights, and in its metadata the config and the tokenizer.

`jslm.load` and every verb take it in place of a run folder. Other programs read the weights as any safetensors file;
docs/portable-format.md says what they mean, for decoders in other languages.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config, RewriteConfig, config_from_dict
from jslm.errors import JslmError
from jslm.files import whole_file
from jslm.formats.int8_rows import ROWS, SCALES, dequantise_rows, is_quantised, quantise_rows, to_rows
from jslm.formats.shapes import describe_decoder
from jslm.formats.weights import SafetensorsFile, cast_weights, pad_rows, write_safetensors
from jslm.model import param_shapes
from jslm.prompts.rewrite_words import REWRITE_WORDS
from jslm.runs.bundle import Bundle, Format
from jslm.runs.checkpoint import check_params, flatten_tree, unflatten_params
from jslm.tokenizer import tokenizer_from_json

_KEY = "jslm"
# A file has the lowest version that can read it.
_VERSION, _INT8_VERSION = 1, 2
_INT8 = "int8_rows"
_MAX_HEADER = 100_000_000
_TABLES = ("embed/tokens", "head/tokens")
_DTYPES = ("float32", "float16", "bfloat16", "int8")
_log = logging.getLogger("jslm")


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
    file = SafetensorsFile(path)
    config, fields = _header(file)
    model = config.model
    return {
        "format": f"portable file of jslm, version {fields['version']}",
        "weights": f"{', '.join(sorted(set(file.types.values())))} in {len(file.shapes):,} tensors"
        + (", int8 with a scale a row" if fields["version"] == _INT8_VERSION else ""),
        **describe_decoder(model),
        "tokenizer": f"{fields['tokenizer'].get('kind')}: {model.vocab_size:,} tokens",
        # Others are kept for one format alone, such as the last bits of llama2.c's tables.
        **{name: value for name, value in fields["figures"].items() if isinstance(value, int | float)},
    }


def read(path: Path) -> Bundle:
    """The model. Raises JslmError where the file is damaged, edited, or of a newer version."""
    file = SafetensorsFile(path)
    config, fields = _header(file)
    if config.rewrite.faithful and fields.get("rewrite_words") != REWRITE_WORDS:
        _log.warning(
            "%s: made by another version of jslm, with other words for the check of rewrites; this version checks by "
            "its own, so a few sentences may stay that changed before, or change",
            path,
        )
    tokenizer = tokenizer_from_json(json.dumps(fields["tokenizer"]), where=f"{path}: tokenizer")
    if config.model.vocab_size != tokenizer.vocab_size:
        raise JslmError(
            f"{path}: model.vocab_size = {config.model.vocab_size:,}, but its tokenizer has {tokenizer.vocab_size:,} "
            "entries; the file is damaged"
        )
    shapes = param_shapes(config.model)
    stored = _stored_shapes(config, flatten_tree(shapes), int8=fields["version"] == _INT8_VERSION)
    for name, shape in file.shapes.items():
        # Before anything is read or padded: a damaged header may name any size.
        if shape != stored.get(name):
            expected = list(stored[name]) if name in stored else "nothing of that name"
            raise JslmError(f"{path}: {name} is {list(shape)}, expected {expected} by its config; the file is damaged")
    if missing := sorted(stored.keys() - file.shapes.keys()):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise JslmError(f"{path}: no tensor {missing[0]}{more}, which its config asks for; the file is incomplete")
    flat = {}
    for name in flatten_tree(shapes):
        array = _read_tensor(file, name)
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

    `int8` is 8-bit integers with a float32 scale a row (`int8_rows`), and float32 for all that is no matrix: a file of
    version 2. The whole file, or nothing and what was there before. Raises JslmError where a weight is too large for
    `dtype`.
    """
    tensors = {}
    int8 = dtype == "int8"
    for name, array in flatten_tree(bundle.params).items():
        rows = np.asarray(array)[: bundle.config.model.vocab_size] if name in _TABLES else np.asarray(array)
        if int8 and is_quantised(name):
            matrix = to_rows(name, np.asarray(rows, np.float32))
            tensors[f"{name}/{ROWS}"], tensors[f"{name}/{SCALES}"] = quantise_rows(name, matrix)
        else:
            tensors[name] = cast_weights(name, rows, "float32" if int8 or "norm" in name else dtype)
    fields = {
        **({"version": _INT8_VERSION, "quantisation": _INT8} if int8 else {"version": _VERSION}),
        "ends_documents": bundle.ends_documents,
        "figures": dict(bundle.figures),
        # Where nothing is said for a card, versions before there was one read the file too.
        "config": bundle.config.model_dump(mode="json", exclude=_unsaid(bundle.config)),
        "tokenizer": json.loads(bundle.tokenizer.to_json()),
        **({"chat_template": bundle.chat_template} if bundle.chat_template else {}),
        # For other readers; jslm has its own.
        **({"rewrite_words": REWRITE_WORDS} if bundle.config.rewrite.faithful else {}),
    }
    with whole_file(path) as temporary:
        write_safetensors(temporary, tensors, {_KEY: json.dumps(fields, ensure_ascii=False)})


def write_calibrated(source: str | Path, target: str | Path, settings: RewriteConfig, dtype: str = "float32") -> None:
    """Writes the portable file `source` once more, to `target`, with the `[rewrite]` of `jslm.evaluate.calibration`.

    `dtype` as for `write`. Raises JslmError as `read` and `write` do, and for another `dtype`.
    """
    if dtype not in _DTYPES:
        raise JslmError(f"dtype = {dtype!r}; expected one of {', '.join(_DTYPES)}")
    bundle = read(Path(source))
    config = bundle.config.model_copy(update={"rewrite": settings})
    write(dataclasses.replace(bundle, config=config), Path(target), dtype)


def _stored_shapes(config: Config, wanted: Mapping[str, Any], *, int8: bool) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor that a file of this config has."""
    stored: dict[str, tuple[int, ...]] = {}
    for name, leaf in wanted.items():
        shape = (config.model.vocab_size, *leaf.shape[1:]) if name in _TABLES else tuple(leaf.shape)
        if int8 and is_quantised(name):
            *outer, rows, columns = (*shape[:-2], shape[-1], shape[-2]) if name.endswith("/kernel") else shape
            stored |= {f"{name}/{ROWS}": (*outer, rows, columns), f"{name}/{SCALES}": (*outer, rows)}
        else:
            stored[name] = shape
    return stored


def _read_tensor(file: SafetensorsFile, name: str) -> np.ndarray:
    """One parameter in float32."""
    if name in file.shapes:
        return np.asarray(file.get(name), np.float32)
    integers = file.get(f"{name}/{ROWS}", ("I8",))
    scales = np.asarray(file.get(f"{name}/{SCALES}", ("F32",)))
    return to_rows(name, dequantise_rows(f"{file.path}: {name}", integers, scales))


def _header(file: SafetensorsFile) -> tuple[Config, dict[str, Any]]:
    """The config, and all that the metadata holds. Raises JslmError where a part is missing or of another kind."""
    where = f"{file.path}"
    try:
        fields = json.loads(file.metadata.get(_KEY, ""))
    except (ValueError, RecursionError):
        raise JslmError(
            f"{where}: a safetensors file, but not one that jslm wrote; to import a Hugging Face model name its folder"
        ) from None
    version = fields.get("version") if isinstance(fields, dict) else None
    if version not in (_VERSION, _INT8_VERSION) or isinstance(version, bool | float):
        raise JslmError(
            f"{where}: version {version!r} of the portable file; this jslm reads {_VERSION} and {_INT8_VERSION}: "
            "update jslm"
        )
    if version == _INT8_VERSION and (found := fields.get("quantisation")) != _INT8:
        raise JslmError(f"{where}: quantisation {found!r:.100}; this jslm reads {_INT8!r}: update jslm")
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
    dtypes=_DTYPES,
)


def _unsaid(config: Config) -> set[str]:
    """Sections of which nothing is set, and that other programs do not read: left out."""
    return {name for name, section in (("card", config.card), ("rewrite", config.rewrite)) if not section.is_said}
