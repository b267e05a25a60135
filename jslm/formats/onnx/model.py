"""A folder with ONNX graphs of a model, and what programs that run them look for beside those."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import ModelConfig
from jslm.errors import JslmError
from jslm.files import whole_folder
from jslm.formats.held import held_text, own_loss
from jslm.formats.onnx.card import model_card
from jslm.formats.onnx.check import GRAPH_VERSION, check_onnx
from jslm.formats.onnx.decoder import decoder_graph
from jslm.formats.onnx.file import KEY, read_onnx
from jslm.formats.onnx.folder import FILES, graph_of, is_onnx, read_folder, write_files
from jslm.formats.onnx.graph import IR_VERSIONS, require_onnx
from jslm.formats.onnx.measure import graph_loss
from jslm.formats.onnx.products import KINDS, Layout
from jslm.formats.shapes import describe_decoder
from jslm.formats.weights import check_weights
from jslm.runs.bundle import Bundle, Format, check_vocabulary
from jslm.runs.checkpoint import flatten_tree


def describe(path: Path) -> dict[str, Any]:
    """What the file or folder holds, by its messages without its weights. Raises JslmError for a bad one."""
    if path.is_file():
        file = read_onnx(path)
        if not file.metadata():
            return {
                "format": "ONNX file of another program",
                "inputs": ", ".join(file.inputs)[:500],
                "outputs": ", ".join(file.outputs)[:500],
                "nodes": len(file.model.graph.node),
                "readable": "no: jslm runs the graphs that it wrote",
            }
        layout = check_onnx(file)
        facts = {"kind": layout.kind, "opset": layout.opset, "nodes": len(file.model.graph.node)}
        return {"format": "ONNX graph of jslm", **facts, **_describe(layout.model, layout.folded)}
    found = read_folder(path)
    for kind in map(str, (facts["kind"] for facts in found.graphs.values())):
        check_onnx(read_onnx(graph_of(path, kind)))
    return {
        "format": "ONNX folder of jslm",
        "graphs": "; ".join(_describe_graph(path / file, facts) for file, facts in found.graphs.items()),
        **_describe(found.config.model, found.folded),
        "tokenizer": f"{found.tokenizer.kind}: {found.tokenizer.vocab_size:,} tokens",
        **{name: value for name, value in found.figures.items() if isinstance(value, int | float)},
    }


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
    `condition` builds labels of conditions in (name to label, "" for none); the others are an input. What rounding
    costs is measured on the file `text`, or on the run's validation tokens where they are here. Raises JslmError where
    a label or the operator set is not known, a weight is not finite or too large for `dtype`, no `tokenizer.json` gives
    the tokenizer's ids, or a file would be larger than ONNX allows.
    """
    onnx = require_onnx()
    model, kinds = bundle.config.model, [dtype, "int8"] if dtype == "float32" else [dtype]
    check_vocabulary(bundle.config, bundle.tokenizer)
    folded = _check_condition(bundle, condition or {})
    if opset not in IR_VERSIONS:
        raise JslmError(f"jslm convert export --opset {opset}: jslm writes {' and '.join(map(str, IR_VERSIONS))}")
    params = {name: np.asarray(leaf) for name, leaf in flatten_tree(bundle.params).items()}
    for name, array in params.items():
        check_weights(name, array, dtype, "float32")
    held = held_text(bundle, text)
    own = own_loss(bundle, held, _labels(bundle, folded)) if held else 0.0
    with whole_folder(path) as folder:
        (folder / "onnx").mkdir()
        graphs: dict[str, dict[str, Any]] = {}
        for kind in kinds:
            layout, file = Layout(model, kind, opset, folded), folder / FILES[kind]
            onnx.save(decoder_graph(layout, params).model({KEY: _metadata(bundle, layout)}), file)
            graphs[kind] = {"bytes": file.stat().st_size}
            if held:
                loss = graph_loss(file, held)
                graphs[kind] |= {"loss": loss, "cost": loss - own, "tokens": held.tokens}
        write_files(bundle, folder, graphs, folded)
        words = f"{held.tokens:,} tokens of {held.what}" if held else ""
        (folder / "README.md").write_text(
            model_card(bundle, Layout(model, dtype, opset, folded), graphs, words), "utf-8"
        )


def _describe(model: ModelConfig, folded: Mapping[str, str]) -> dict[str, Any]:
    built_in = ", ".join(f"{name} = {label or 'none'}" for name, label in folded.items())
    return {
        **describe_decoder(model),
        **({"conditions built in": built_in} if built_in else {}),
    }


def _describe_graph(file: Path, facts: Mapping[str, Any]) -> str:
    cost = facts.get("cost")
    measured = f", loss {cost:+.4f}" if isinstance(cost, float) else ""
    return f"{facts['kind']} ({file.stat().st_size / 1e6:,.2f} MB{measured})"


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


def _labels(bundle: Bundle, folded: Mapping[str, str]) -> list[int]:
    """The number of each condition's label, -1 where none is built in."""
    return [
        condition.labels.index(folded[condition.name]) if folded.get(condition.name) else -1
        for condition in bundle.config.model.conditions
    ]


def _check_condition(bundle: Bundle, chosen: Mapping[str, str]) -> dict[str, str]:
    known = {condition.name: condition.labels for condition in bundle.config.model.conditions}
    for name, label in chosen.items():
        where = f"jslm convert export --condition {name}={label}"
        if name not in known:
            raise JslmError(f"{where}: the model has {', '.join(known) or 'no conditions'}")
        if label and label not in known[name]:
            raise JslmError(f"{where}: {name} has the labels {', '.join(known[name])}")
    return dict(chosen)


FORMAT = Format(
    name="onnx",
    summary="ONNX folder, for onnxruntime, browsers and what reads its files",
    detect=is_onnx,
    describe=describe,
    write=write,
    dtypes=KINDS,
    options=("condition", "opset", "text"),
)
