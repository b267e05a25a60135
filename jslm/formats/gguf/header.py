"""The header of a GGUF file, read without trusting it: metadata and the list of tensors, never the weights.

The `gguf` package's reader maps the whole file and believes every count in it; this one checks each length against the
file's size before it reads. Layout: "GGUF" in the documentation of ggml (`ggml/docs/gguf.md`).
"""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from jslm.errors import JslmError

MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_DIMENSIONS = 4
# Far above what models have: a chat template is some 10 kB, a header has 60 keys. ggml's own limit of names is 64.
_MAX_STRING, _MAX_NAME, _MAX_KEYS = 2**20, 2**10, 2**12
# The largest vocabularies have some 260,000 tokens and 450,000 merges, the largest models some 2,000 tensors.
_MAX_ENTRIES, _MAX_TENSORS = 2**20, 2**14
# ggml's types by number: name, weights a block, bytes a block.
_TYPES = {
    0: ("f32", 1, 4),
    1: ("f16", 1, 2),
    2: ("q4_0", 32, 18),
    3: ("q4_1", 32, 20),
    6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24),
    8: ("q8_0", 32, 34),
    9: ("q8_1", 32, 36),
    10: ("q2_K", 256, 84),
    11: ("q3_K", 256, 110),
    12: ("q4_K", 256, 144),
    13: ("q5_K", 256, 176),
    14: ("q6_K", 256, 210),
    15: ("q8_K", 256, 292),
    16: ("iq2_xxs", 256, 66),
    17: ("iq2_xs", 256, 74),
    18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50),
    20: ("iq4_nl", 32, 18),
    21: ("iq3_s", 256, 110),
    22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136),
    24: ("i8", 1, 1),
    25: ("i16", 1, 2),
    26: ("i32", 1, 4),
    27: ("i64", 1, 8),
    28: ("f64", 1, 8),
    29: ("iq1_m", 256, 56),
    30: ("bf16", 1, 2),
    34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66),
    39: ("mxfp4", 32, 17),
}


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor is: its type in ggml's words, its shape as numpy has it, and the bytes from `offset` on."""

    kind: str
    shape: tuple[int, ...]
    offset: int
    size: int


@dataclass(frozen=True)
class Header:
    """What stands before the weights. An array of the metadata is its length alone, unless its value was asked for."""

    version: int
    metadata: dict[str, Any]
    n_tensors: int
    n_parameters: int
    types: Counter[str]
    tensors: Mapping[str, StoredTensor]


@dataclass(frozen=True)
class ArrayLength:
    """An array of the metadata, such as the list of tokens, that was skipped."""

    length: int


def read_header(path: Path, arrays: Collection[str] = ()) -> Header:
    """The header of a little-endian GGUF file of version 2 or 3, in memory that does not grow with the file.

    `arrays` are the keys whose arrays are read too: a list of strings, or a numpy array, of at most 2**20.
    Raises JslmError where the file cannot be read, is cut short, or says anything that cannot be.
    """
    try:
        with path.open("rb") as stream:
            return _read(_Cursor(stream, path.stat().st_size, path), arrays)
    except OSError as error:
        raise JslmError(f"{path}: cannot be read ({error.strerror or error})") from error


class _Cursor:
    """Reads values one after another and knows how many bytes are left."""

    def __init__(self, stream: IO[bytes], size: int, path: Path) -> None:
        self.stream, self.size, self.path = stream, size, path

    def bad(self, what: str) -> JslmError:
        return JslmError(f"{self.path}: {what}; the file is damaged: download or export it again")

    def left(self) -> int:
        return self.size - self.stream.tell()

    def take(self, count: int) -> bytes:
        if count > self.left():
            raise self.bad(f"cut short: {count:,} bytes expected at {self.stream.tell():,}, {self.left():,} are left")
        return self.stream.read(count)

    def skip(self, count: int) -> None:
        if count > self.left():
            raise self.bad(f"cut short: {count:,} bytes expected at {self.stream.tell():,}, {self.left():,} are left")
        self.stream.seek(count, 1)

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def string(self, limit: int) -> str:
        length = self.number("Q")
        if length > limit:
            raise self.bad(f"a string of {length:,} bytes in the header, where at most {limit:,} are expected")
        try:
            return self.take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise self.bad("a string in the header is not UTF-8") from None


def _read(cursor: _Cursor, arrays: Collection[str]) -> Header:
    if cursor.take(min(len(MAGIC), cursor.left())) != MAGIC:
        raise JslmError(f"{cursor.path}: not a GGUF file (it does not begin with {MAGIC.decode()!r})")
    version = cursor.number("I")
    if version & 0xFFFF == 0:
        raise JslmError(f"{cursor.path}: a big-endian GGUF file; jslm reads little-endian ones")
    if version not in _VERSIONS:
        raise JslmError(f"{cursor.path}: GGUF version {version}; jslm reads versions 2 and 3")
    n_tensors, n_keys = cursor.number("Q"), cursor.number("Q")
    if n_keys > _MAX_KEYS:
        raise cursor.bad(f"{n_keys:,} keys of metadata, where at most {_MAX_KEYS:,} are expected")
    metadata: dict[str, Any] = {}
    for _ in range(n_keys):
        name = cursor.string(_MAX_NAME)
        if name in metadata:
            raise cursor.bad(f"the key {name[:80]!r} comes twice")
        metadata[name] = _value(cursor, cursor.number("I"), name if name in arrays else "")
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.bad(f"general.alignment = {alignment!r}, which is no power of two")

    tensors: dict[str, StoredTensor] = {}
    for name, tensor in _tensors(cursor, n_tensors):
        if tensor.offset % alignment:
            raise cursor.bad(f"tensor {name!r} starts at {tensor.offset:,}, which is not a multiple of {alignment}")
        if name in tensors:
            raise cursor.bad(f"the tensor {name[:80]!r} comes twice")
        if len(tensors) == _MAX_TENSORS:
            raise cursor.bad(f"{n_tensors:,} tensors, where at most {_MAX_TENSORS:,} are expected")
        tensors[name] = tensor
    start = -(-cursor.stream.tell() // alignment) * alignment
    end = start + max((tensor.offset + tensor.size for tensor in tensors.values()), default=0)
    if tensors and end > cursor.size:
        raise cursor.bad(f"cut short: {end:,} bytes by its header, {cursor.size:,} are there")
    types: Counter[str] = Counter()
    for name, tensor in tensors.items():
        types[tensor.kind] += math.prod(tensor.shape)
        tensors[name] = StoredTensor(tensor.kind, tensor.shape, start + tensor.offset, tensor.size)
    return Header(version, metadata, n_tensors, types.total(), types, tensors)


def _value(cursor: _Cursor, kind: int, wanted: str) -> Any:
    """A value of the metadata; `wanted` is the name of one whose array is kept."""
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        return cursor.string(_MAX_STRING)
    if kind != _ARRAY:
        raise cursor.bad(f"metadata of the unknown type {kind}")
    element, length = cursor.number("I"), cursor.number("Q")
    if wanted and length > _MAX_ENTRIES:
        raise cursor.bad(f"{wanted} has {length:,} entries, where at most {_MAX_ENTRIES:,} are expected")
    if element in _SCALARS and wanted:
        kind_of = np.dtype(f"<{_SCALARS[element]}")
        return np.frombuffer(cursor.take(length * kind_of.itemsize), kind_of)
    if element in _SCALARS:
        cursor.skip(length * struct.calcsize(f"<{_SCALARS[element]}"))
    elif element == _STRING:
        if length * 8 > cursor.left():
            raise cursor.bad(f"cut short: an array of {length:,} strings, {cursor.left():,} bytes are left")
        if wanted:
            return [cursor.string(_MAX_NAME) for _ in range(length)]
        for _ in range(length):
            cursor.skip(cursor.number("Q"))
    else:
        # Arrays of arrays are allowed on paper; no program writes them.
        raise cursor.bad(f"an array of the unknown type {element}")
    return ArrayLength(length)


def _tensors(cursor: _Cursor, count: int) -> Iterator[tuple[str, StoredTensor]]:
    """(name, tensor) of each, offsets counted from the start of the data."""
    for _ in range(count):
        name = cursor.string(_MAX_NAME)
        n_dimensions = cursor.number("I")
        if not 1 <= n_dimensions <= _MAX_DIMENSIONS:
            raise cursor.bad(f"tensor {name!r} has {n_dimensions:,} dimensions, where 1 to 4 are expected")
        shape = [cursor.number("Q") for _ in range(n_dimensions)]
        number, offset = cursor.number("I"), cursor.number("Q")
        if number not in _TYPES:
            raise cursor.bad(f"tensor {name!r} has the unknown type {number}")
        kind, block, block_bytes = _TYPES[number]
        if shape[0] % block:
            raise cursor.bad(f"tensor {name!r} has rows of {shape[0]:,}, which {kind} cannot hold in blocks of {block}")
        yield name, StoredTensor(kind, tuple(reversed(shape)), offset, math.prod(shape) // block * block_bytes)
