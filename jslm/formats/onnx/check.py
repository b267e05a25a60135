"""Whether an `.onnx` file is one that jslm wrote, found out before anything in it is run.

A graph is a program. The only ones that jslm runs are its own: the file says what model it holds, jslm builds that
model's graph again, and the file has to have the same nodes, inputs and outputs, and weights of the same shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jslm.config import ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.formats.onnx.decoder import decoder_graph
from jslm.formats.onnx.file import AGAIN, OnnxFile
from jslm.formats.onnx.graph import IR_VERSIONS, require_onnx
from jslm.formats.onnx.products import KINDS, Layout
from jslm.model import param_shapes
from jslm.runs.checkpoint import flatten_tree

# Of the graph: where another one would be fed otherwise, or compute something else.
GRAPH_VERSION = 1


def check_onnx(file: OnnxFile) -> Layout:
    """The model whose graph the file is, exactly as jslm writes it.

    Raises JslmError where another program made it (with its inputs and outputs), another version of jslm did, or
    anything in it was changed.
    """
    fields = file.metadata()
    if not fields:
        wanted = "input_ids, attention_mask, position_ids, past_key_values.N.key/value and logits, present.N.key/value"
        raise JslmError(
            f"{file.path}: not a graph that jslm wrote: it takes {_few(file.inputs)} and gives {_few(file.outputs)}, "
            f"expected {wanted}; {AGAIN}"
        )
    layout = _layout(file, fields)
    _check_messages(file, layout)
    expected = decoder_graph(layout, parameter_shapes(layout.model))
    graph = file.model.graph
    for what, found, wanted_values in (
        ("input", graph.input, expected.inputs),
        ("output", graph.output, expected.outputs),
        ("node", graph.node, expected.nodes),
    ):
        if len(found) != len(wanted_values):
            names = {value.name for value in wanted_values} ^ {value.name for value in found}
            raise file.damaged(f"{len(found):,} {what}s, expected {len(wanted_values):,} ({_few(sorted(names))})")
        for one, other in zip(found, wanted_values, strict=True):
            if _plain(one) != _plain(other):
                raise file.damaged(f"{what} {one.name[:80]!r} is not as jslm writes it")
    _check_tensors(file, expected.tensors)
    return layout


def _layout(file: OnnxFile, fields: Mapping[str, Any]) -> Layout:
    if fields.get("version") != GRAPH_VERSION:
        raise JslmError(
            f"{file.path}: graph version {fields.get('version')!r}, and this jslm runs {GRAPH_VERSION}; {AGAIN}"
        )
    kind, opset, folded = fields.get("kind"), fields.get("opset"), fields.get("conditions")
    if kind not in KINDS or opset not in IR_VERSIONS or not isinstance(folded, dict):
        raise file.damaged(f"its metadata says kind {kind!r} and opset {opset!r}")
    # Conditions ask for documents apart in training, which is over.
    values = {"model": fields.get("model"), "data": {"packing": "documents"}}
    model = config_from_dict(values, f"{file.path}: metadata").model
    sizes = [model.d_model, model.hidden_dim, model.vocab_size, model.n_heads * model.dim_per_head]
    if model.position != "none":
        sizes.append(model.context_length)
    # Before a graph of that size is built.
    if max(sizes) > file.size or model.n_layers > len(file.tensors):
        raise file.damaged("its metadata names a model that is larger than the file")
    known = {condition.name: condition.labels for condition in model.conditions}
    for name, label in folded.items():
        if name not in known or (label and label not in known[name]):
            raise file.damaged(f"its metadata has no condition {str(name)[:80]!r} with label {str(label)[:80]!r}")
    return Layout(model, str(kind), int(opset), folded)


def parameter_shapes(model: ModelConfig) -> Mapping[str, Any]:
    """Flat parameters (`layers/mlp/up/kernel`) that have shapes and types, and no values."""
    return flatten_tree(param_shapes(model))


def _check_messages(file: OnnxFile, layout: Layout) -> None:
    """Nothing but a graph of standard operators: no functions, no weights in other files, no subgraphs' captures."""
    usual = {"ir_version", "producer_name", "producer_version", "opset_import", "graph", "metadata_props"}
    found = {entry.name for entry, _ in file.model.ListFields()} - usual
    found |= {entry.name for entry, _ in file.model.graph.ListFields()} - {"name", "node", "input", "output"}
    if found:
        raise file.damaged(f"it has {_few(sorted(found))}, which jslm does not write")
    sets = [(entry.domain, entry.version) for entry in file.model.opset_import]
    if sets != [("", layout.opset)] or file.model.ir_version != IR_VERSIONS[layout.opset]:
        raise file.damaged(f"operator sets {sets}, expected {layout.opset} of ONNX alone")


def _check_tensors(file: OnnxFile, expected: Mapping[str, Any]) -> None:
    onnx = require_onnx()
    if differing := sorted(set(expected) ^ set(file.tensors)):
        word = "not there" if differing[0] in expected else "none of the model's"
        raise file.damaged(f"weight {differing[0][:80]!r} is {word}")
    with file.path.open("rb") as stream:
        for name, tensor in expected.items():
            stored = file.tensors[name]
            data_type = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
            if (stored.data_type, stored.shape, stored.size) != (data_type, tensor.shape, tensor.size):
                raise file.damaged(
                    f"weight {name!r} is {list(stored.shape)} in {stored.size:,} bytes, expected {list(tensor.shape)} "
                    f"in {tensor.size:,}"
                )
            if tensor.is_fixed:
                stream.seek(stored.start)
                if stream.read(stored.size) != np.ascontiguousarray(tensor.make(), tensor.dtype).tobytes():
                    raise file.damaged(f"constant {name!r} has another value than its name")


def _plain(message: Any) -> Any:
    """What of a node or value counts: all but its documentation and the node's own name."""
    if hasattr(message, "op_type"):
        attributes = sorted(entry.SerializeToString(deterministic=True) for entry in message.attribute)
        return message.op_type, message.domain, list(message.input), list(message.output), attributes
    return message.name, message.type.SerializeToString(deterministic=True)


def _few(names: list[str]) -> str:
    shown = ", ".join(name[:60] for name in names[:6])
    return f"{shown or 'nothing'}{f' and {len(names) - 6:,} more' if len(names) > 6 else ''}"
