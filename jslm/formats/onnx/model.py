"""A folder with ONNX graphs of a model, and what programs that run them look for beside those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.errors import JslmError
from jslm.files import whole_folder
from jslm.formats.onnx.decoder import KINDS, Layout, decoder_graph
from jslm.formats.onnx.folder import FILES, write_files
from jslm.formats.onnx.graph import IR_VERSIONS, require_onnx
from jslm.formats.shapes import describe_model
from jslm.runs.bundle import Bundle, Format
from jslm.runs.checkpoint import flatten_tree

# Of the graph: another one would compute something else, or be fed otherwise.
GRAPH_VERSION = 1
KEY = "jslm"


def detect(path: Path) -> bool:
    """Whether `path` is an `.onnx` file, or a folder that jslm wrote with some."""
    return (path.suffix == ".onnx" and path.is_file()) or (path / "jslm.json").is_file()


def describe(path: Path) -> dict[str, Any]:
    """What the file or folder holds. Raises JslmError for a bad one."""
    fields = json.loads((path / "jslm.json").read_text("utf-8"))
    from jslm.config import config_from_dict

    config = config_from_dict(fields["config"], f"{path}: config")
    return {"format": "ONNX folder of jslm", "graphs": ", ".join(fields["graphs"]), **describe_model(config.model)}


def write(
    bundle: Bundle,
    path: Path,
    dtype: str,
    *,
    condition: Mapping[str, str] | None = None,
    opset: int = 20,
    text: str | Path | None = None,
) -> None:
    """Writes the folder `path`: whole, or not at all.

    `dtype` is how matrices are held: "float32" (then the folder has an int8 graph too), "float16", "int8" or "int7".
    `condition` builds labels of conditions in (name to label, "" for none); the others are an input. Raises JslmError
    where a label or the operator set is not known, a weight is not finite or too large for `dtype`, no `tokenizer.json`
    gives the tokenizer's ids, or a file would be larger than ONNX allows.
    """
    onnx = require_onnx()
    folded = _check_condition(bundle, condition or {})
    if opset not in IR_VERSIONS:
        raise JslmError(f"--opset {opset}: jslm writes {' and '.join(map(str, IR_VERSIONS))}")
    params = {name: np.asarray(leaf) for name, leaf in flatten_tree(bundle.params).items()}
    for name, array in params.items():
        _check_weights(name, array, dtype)
    kinds = [dtype, "int8"] if dtype == "float32" else [dtype]
    with whole_folder(path) as folder:
        (folder / "onnx").mkdir()
        for kind in kinds:
            layout = Layout(bundle.config.model, kind, opset, folded)
            onnx.save(decoder_graph(layout, params).model({KEY: _metadata(bundle, layout)}), folder / FILES[kind])
        write_files(bundle, folder, {kind: {} for kind in kinds}, folded)


def _metadata(bundle: Bundle, layout: Layout) -> str:
    fields = {
        "version": GRAPH_VERSION,
        "kind": layout.kind,
        "opset": layout.opset,
        "conditions": dict(layout.folded),
        "tokenizer_fingerprint": bundle.tokenizer.fingerprint,
        "model": layout.model.model_dump(mode="json"),
    }
    return json.dumps(fields, ensure_ascii=False)


def _check_condition(bundle: Bundle, chosen: Mapping[str, str]) -> dict[str, str]:
    known = {condition.name: condition.labels for condition in bundle.config.model.conditions}
    for name, label in chosen.items():
        if name not in known:
            raise JslmError(f"--condition {name}={label}: the model has {', '.join(known) or 'no conditions'}")
        if label and label not in known[name]:
            raise JslmError(f"--condition {name}={label}: {name} has the labels {', '.join(known[name])}")
    return dict(chosen)


def _check_weights(name: str, array: np.ndarray, dtype: str) -> None:
    largest = float(np.abs(array).max(initial=0.0))
    if not np.isfinite(largest):
        raise JslmError(f"{name} has weights that are not finite: the training has diverged; try another checkpoint")
    if dtype == "float16" and largest > float(np.finfo(np.float16).max):
        raise JslmError(f"{name} has a weight of {largest:g}, above what float16 holds (65504); export with float32")


FORMAT = Format(
    name="onnx",
    summary="ONNX folder, for onnxruntime, browsers and what reads its files",
    detect=detect,
    describe=describe,
    write=write,
    dtypes=KINDS,
    options=("condition", "opset", "text"),
)
