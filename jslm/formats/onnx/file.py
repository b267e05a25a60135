"""An `.onnx` file read without its weights.

The bytes are protocol buffers (Protocol Buffers' "Encoding"; the messages are in ONNX's `onnx/onnx.proto3`). They are
walked once, weights left where they are, so that no file takes more memory than its graph.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jslm.errors import JslmError
from jslm.formats.onnx.graph import require_onnx

if TYPE_CHECKING:
    from onnx import ModelProto

# Of the metadata's entry that jslm writes.
KEY = "jslm"
AGAIN = "export the model again with jslm convert export RUN DIR --format onnx"
_MAX_REST = 1 << 24
_MAX_TENSORS = 1 << 16
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
        return JslmError(f"{self.path}: {what}; the file is damaged: {AGAIN}")


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
        raise JslmError(f"{path}: no ONNX file, or a damaged one ({str(error)[:80]}); {AGAIN}") from None
    if not model.graph.output or not model.opset_import:
        raise JslmError(f"{path}: no ONNX file, or a damaged one: it has no graph with outputs; {AGAIN}")
    return OnnxFile(path, model, tensors, size)


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
        kind = tag & 7
        if kind == _VARINT:
            _, at = _varint(data, at, end, path)
        elif kind == _BYTES:
            length, start = _varint(data, at, end, path)
            at = start + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
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
    return JslmError(f"{path}: no ONNX file, or a damaged one: {what}; {AGAIN}")
