"""Whether an `.onnx` file is one that jslm wrote, found out before anything in it is run.

A graph is a program. The only ones that jslm runs are its own: the file says what model it holds, jslm builds that
model's graph again, and the file has to have the same nodes, inputs and outputs, and weights of the same shapes.

The bytes are protocol buffers (Protocol Buffers' "Encoding"; the messages are in ONNX's `onnx/onnx.proto3`). Here they
are walked once, weights left where they are, so that no file takes more memory than its graph.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jslm.config import ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.formats.onnx.decoder import KINDS, Layout, decoder_graph
from jslm.formats.onnx.graph import IR_VERSIONS, require_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

# Of the graph: where another one would be fed otherwise, or compute something else.
GRAPH_VERSION = 1
KEY = "jslm"
_MAX_REST = 1 << 24
_MAX_TENSORS = 1 << 16
_AGAIN = "export the model again with jslm convert export RUN DIR --format onnx"
# Fields by their numbers in onnx.proto3.
_GRAPH, _INITIALIZER = 7, 5
_DIMS, _DATA_TYPE, _NAME, _RAW_DATA = 1, 2, 8, 9
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class StoredTensor:
    """An initializer as the file has it: TensorProto's number of its type, its shape, and where its bytes are."""

    data_type: int
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class OnnxFile:
    """A file without its weights: all other messages, and the initializers by name."""

    path: Path
    model: ModelProto
    tensors: Mapping[str, StoredTensor]
    size: int

    @property
    def inputs(self) -> list[str]:
        """Names, in order."""
        return [value.name for value in self.model.graph.input]

    @property
    def outputs(self) -> list[str]:
        """Names, in order."""
        return [value.name for value in self.model.graph.output]

    def metadata(self) -> dict[str, Any]:
        """What jslm wrote of the model; empty for a file of others. Raises JslmError where it is damaged."""
        text = next((entry.value for entry in self.model.metadata_props if entry.key == KEY), None)
        if text is None:
            return {}
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError):
            raise self.damaged("its metadata is no JSON") from None
        if not isinstance(fields, dict):
            raise self.damaged("its metadata is no object")
        return fields

    def damaged(self, what: str) -> JslmError:
        """The error that says so."""
        return JslmError(f"{self.path}: {what}; the file is damaged: {_AGAIN}")


def read_onnx(path: Path) -> OnnxFile:
    """The file's messages. Raises JslmError where it cannot be read, is cut short, or is no ONNX at all."""
    onnx = require_onnx()
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size = len(data)
            rest, tensors = _walk(data, path)
    except (OSError, ValueError) as error:
        # An empty file can't be mapped.
        reason = (getattr(error, "strerror", None) or "it is empty").lower()
        raise JslmError(f"{path}: cannot be read as ONNX: {reason}") from None
    try:
        model = onnx.ModelProto.FromString(rest)
    except Exception as error:  # protobuf's error is a class of its own in each implementation
        raise JslmError(f"{path}: no ONNX file, or a damaged one ({str(error)[:80]}); {_AGAIN}") from None
    if not model.graph.output or not model.opset_import:
        raise JslmError(f"{path}: no ONNX file, or a damaged one: it has no graph with outputs; {_AGAIN}")
    return OnnxFile(path, model, tensors, size)


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
            f"expected {wanted}; {_AGAIN}"
        )
    layout = _layout(file, fields)
    _check_messages(file, layout)
    expected = decoder_graph(layout, _shapes(layout.model))
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
            f"{file.path}: graph version {fields.get('version')!r}, and this jslm runs {GRAPH_VERSION}; {_AGAIN}"
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


def _shapes(model: ModelConfig) -> Mapping[str, Any]:
    from jslm.model import param_shapes
    from jslm.runs.checkpoint import flatten_tree

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


# The walk.


def _walk(data: mmap.mmap, path: Path) -> tuple[bytes, dict[str, StoredTensor]]:
    """All messages but the graph's initializers, as the bytes of a ModelProto; and the initializers."""
    rest, inner = bytearray(), bytearray()
    tensors: dict[str, StoredTensor] = {}
    has_graph = False
    for field, begin, start, end in _fields(data, 0, len(data), path):
        if field != _GRAPH:
            _keep(rest, data, begin, end, path)
            continue
        if has_graph:
            raise _bad(path, "two graphs")
        has_graph = True
        for part, part_begin, part_start, part_end in _fields(data, start, end, path):
            if part != _INITIALIZER:
                _keep(inner, data, part_begin, part_end, path)
                continue
            name, tensor = _tensor(data, part_start, part_end, path)
            if name in tensors or len(tensors) == _MAX_TENSORS:
                raise _bad(path, f"weight {name[:80]!r} twice, or more than {_MAX_TENSORS:,} of them")
            tensors[name] = tensor
    return bytes(rest) + bytes([_GRAPH << 3 | _BYTES]) + _varint_bytes(len(inner)) + bytes(inner), tensors


def _keep(rest: bytearray, data: mmap.mmap, begin: int, end: int, path: Path) -> None:
    if len(rest) + end - begin > _MAX_REST:
        raise _bad(path, f"more than {_MAX_REST:,} bytes beside its weights")
    rest += data[begin:end]


def _tensor(data: mmap.mmap, start: int, end: int, path: Path) -> tuple[str, StoredTensor]:
    shape: list[int] = []
    data_type, name, place = 0, "", (0, 0)
    for field, begin, inside, stop in _fields(data, start, end, path):
        packed = data[begin] & 7 == _BYTES
        if field == _DIMS:
            at = inside
            while at < stop:
                value, at = _varint(data, at, stop, path)
                shape.append(value)
                if not packed:
                    break
        elif field == _DATA_TYPE:
            data_type, _ = _varint(data, inside, stop, path)
        elif field == _NAME:
            name = data[inside : min(stop, inside + 1000)].decode("utf-8", "replace")
        elif field == _RAW_DATA:
            place = (inside, stop - inside)
        else:
            raise _bad(path, f"a weight with field {field}: jslm's have their bytes in this file and nothing else")
        if len(shape) > 8:
            raise _bad(path, "a weight of more than 8 dimensions")
    return name, StoredTensor(data_type, tuple(shape), *place)


def _fields(data: mmap.mmap, at: int, end: int, path: Path) -> Iterator[tuple[int, int, int, int]]:
    """(number, where the field begins, where its value begins, where it ends) of each field of a message."""
    while at < end:
        begin = at
        tag, at = _varint(data, at, end, path)
        start = at
        match tag & 7:
            case 0:
                _, at = _varint(data, at, end, path)
            case 1:
                at += 8
            case 2:
                length, start = _varint(data, at, end, path)
                at = start + length
            case 5:
                at += 4
            case kind:
                raise _bad(path, f"wire type {kind} at byte {begin:,}")
        if at > end:
            raise _bad(path, f"cut short: byte {at:,} expected, and this part ends at {end:,}")
        yield tag >> 3, begin, start, at


def _varint(data: mmap.mmap, at: int, end: int, path: Path) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _bad(path, f"cut short, or no number, at byte {at:,}")


def _varint_bytes(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _bad(path: Path, what: str) -> JslmError:
    return JslmError(f"{path}: no ONNX file, or a damaged one: {what}; {_AGAIN}")
