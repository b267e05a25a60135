"""PyTorch's files without PyTorch, and without running anything that they bring.

The zip layout and the older stream are those of `torch/serialization.py`; a tensor is a view of a memory map, so that
only the weights that are used are read.
"""

from __future__ import annotations

import math
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jslm.errors import JslmError
from jslm.formats.pickles.machine import Name, Record, run_pickle

__all__ = ["Record", "looks_like_torch", "read_pickle", "read_torch_file"]

_ZIP = b"PK\x03\x04"
# torch.save's first pickle: this number alone, in protocol 2.
_MAGIC = 0x1950A86A20F9469CFC6C
_STREAM = b"\x80\x02\x8a\n" + _MAGIC.to_bytes(10, "little")

_STORAGES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
}
_TYPES = {
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
} | {
    name: name
    for name in (
        *("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8"),
        *("bool", "complex64", "complex128"),
    )
}


@dataclass(frozen=True)
class _Storage:
    """The bytes of one storage; None while only the pickle's end is looked for."""

    data: np.ndarray | None
    dtype: np.dtype


def looks_like_torch(path: Path) -> bool:
    """Whether the first bytes are those of a pickle, of a zip file or of PyTorch's older stream. Never raises."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_STREAM))
    except OSError:
        return False
    return start.startswith((_ZIP, b"\x80", b"c", b"("))


def read_torch_file(path: Path) -> Any:
    """What `torch.save` wrote to `path`: nested dicts, lists and tuples, with tensors as read-only numpy arrays.

    bfloat16 is `ml_dtypes.bfloat16`. Objects of other classes become `Record`s with their attributes in a dict; nothing
    is imported or run. Arrays are views of a memory map of the file. Raises JslmError for a damaged or hostile file: a
    call outside a short list (with its name), compressed or misplaced zip entries, tensors beyond their storage.
    """
    data = _map(path)
    if bytes(data[: len(_ZIP)]) == _ZIP:
        return _read_zip(path, data)
    if bytes(data[: len(_STREAM)]) == _STREAM:
        return _read_stream(path, data)
    # Run for the name of what it would call, where it is hostile.
    read_pickle(path)
    raise JslmError(f"{path}: a plain pickle, not a file of torch.save: there are no tensors in it to read")


def read_pickle(path: Path) -> Any:
    """The object of a plain pickle file, read like `read_torch_file`: inert, bounded. Raises JslmError."""
    return run_pickle(memoryview(_map(path)), str(path), _CALLS)[0]


def _map(path: Path) -> np.ndarray:
    try:
        if path.stat().st_size == 0:
            raise JslmError(f"{path}: the file is empty")
        return np.memmap(path, mode="r")
    except OSError as error:
        raise JslmError(f"{path}: cannot be read: {error.strerror or error}") from None


def _read_zip(path: Path, data: np.ndarray) -> Any:
    entries = _zip_entries(path, data)
    pickles = [name for name in entries if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise JslmError(f"{path}: {len(pickles)} entries named data.pkl; a file of torch.save has one")
    root = pickles[0].removesuffix("data.pkl")
    order = entries.get(f"{root}byteorder")
    if order is not None and bytes(order[:8]) != b"little":
        raise JslmError(f"{path}: byte order {bytes(order[:8])!r}; only little-endian files are read")

    def find(key: Any) -> np.ndarray:
        found = entries.get(f"{root}data/{key}") if isinstance(key, str) else None
        if found is None:
            raise JslmError(f"{path}: no entry data/{str(key)[:40]!r}, which a tensor is in; the file is not whole")
        return found

    def persistent(key: Any) -> Any:
        _, dtype, name, count = _storage_id(path, key)
        found = find(name)
        if found.size < count * dtype.itemsize:
            raise JslmError(f"{path}: data/{name} has {found.size} bytes of {count * dtype.itemsize}")
        return _Storage(found[: count * dtype.itemsize], dtype)

    return run_pickle(memoryview(entries[pickles[0]]), str(path), _torch_calls(path), persistent)[0]


def _zip_entries(path: Path, data: np.ndarray) -> dict[str, np.ndarray]:
    """The bytes of each entry, in place. Nothing is unpacked, so nothing can swell or land elsewhere."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, OSError, EOFError, ValueError, struct.error) as error:
        raise JslmError(f"{path}: a damaged or cut off zip file: {error}") from None
    entries: dict[str, np.ndarray] = {}
    for info in infos:
        name, where = info.filename, f"{path}: entry {info.filename[:100]!r}"
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise JslmError(f"{where}: refused: its name leads out of the file")
        if name in entries:
            raise JslmError(f"{where} is there twice")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise JslmError(f"{where}: refused: it is compressed or encrypted, and torch.save stores plainly")
        # The local header's own name and extra field (torch aligns with it) decide where the bytes begin.
        header = bytes(data[max(info.header_offset, 0) : max(info.header_offset, 0) + 30])
        if len(header) < 30 or not header.startswith(_ZIP):
            raise JslmError(f"{where}: no header at byte {info.header_offset}; the file is damaged")
        start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
        if info.file_size > data.size - start:
            raise JslmError(f"{where}: {info.file_size} bytes at byte {start} of a file of {data.size}")
        entries[name] = data[start : start + info.file_size]
    return entries


def _read_stream(path: Path, data: np.ndarray) -> Any:
    where, view = str(path), memoryview(data)

    def take(at: int, calls: Mapping[str, Callable[..., Any]], persistent: Any = None) -> tuple[Any, int]:
        value, length = run_pickle(view[at:], where, calls, persistent)
        return value, at + length

    dtypes: dict[Any, np.dtype] = {}

    def note(key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module":
            return key[1]
        _, dtype, name, _ = _storage_id(path, key)
        dtypes[name] = dtype
        return _Storage(None, dtype)

    _, at = take(0, {})
    version, at = take(at, {})
    system, at = take(at, {})
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise JslmError(f"{path}: PyTorch's stream of protocol 1001, little-endian, is read; found {str(version)[:20]}")
    start = at
    _, at = take(start, _torch_calls(path), note)
    names, at = take(at, {})
    storages: dict[Any, np.ndarray] = {}
    for name in names if isinstance(names, list) else []:
        dtype = dtypes.get(name) if isinstance(name, str) else None
        if dtype is None or at + 8 > data.size:
            raise JslmError(f"{path}: the list of storages does not fit the tensors; the file is cut off or damaged")
        (count,) = struct.unpack("<q", bytes(data[at : at + 8]))
        end = at + 8 + count * dtype.itemsize
        if count < 0 or end > data.size:
            raise JslmError(f"{path}: a storage of {count} elements at byte {at} of a file of {data.size}; cut off?")
        storages[name] = data[at + 8 : end]
        at = end

    def persistent(key: Any) -> Any:
        if isinstance(key, tuple) and len(key) == 4 and key[0] == "module":
            return key[1]
        view_of, dtype, name, count = _storage_id(path, key)
        found = storages.get(name)
        offset = 0
        if view_of is not None:
            _, offset, count = view_of
        end = (offset + count) * dtype.itemsize
        if found is None or end > found.size:
            raise JslmError(f"{path}: storage {name!r} is missing or too short; the file is cut off or damaged")
        return _Storage(found[offset * dtype.itemsize : end], dtype)

    # The tensors come before their bytes: only now is it known where those are.
    return take(start, _torch_calls(path), persistent)[0]


def _storage_id(path: Path, key: Any) -> tuple[tuple[Any, int, int] | None, np.dtype, str, int]:
    """(view, type, name, elements) of ("storage", type, name, device, elements[, view])."""
    if not isinstance(key, tuple) or len(key) not in (5, 6) or key[0] != "storage":
        raise JslmError(f"{path}: a reference of no known kind; a file of torch.save refers to storages only")
    kind, name, count = key[1], key[2], key[4]
    view = key[5] if len(key) == 6 else None
    if not isinstance(kind, Name) or kind.name not in _STORAGES:
        shown = kind.name[:60] if isinstance(kind, Name) else type(kind).__name__
        raise JslmError(f"{path}: storage type {shown!r} is not read; there are {', '.join(_STORAGES)}")
    fits_view = view is None or (isinstance(view, tuple) and len(view) == 3 and _counts(view[1:]))
    if not isinstance(name, str) or not _counts((count,)) or not fits_view:
        raise JslmError(f"{path}: a storage's name or size is no text and number; the file is damaged")
    return view, np.dtype(_TYPES[_STORAGES[kind.name]]), name, count


def _torch_calls(path: Path) -> Mapping[str, Callable[..., Any]]:
    """The calls that `torch.save` writes, made on numpy arrays."""

    def tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Any:
        del rest  # Gradients and hooks.
        return _tensor(path, storage, offset, size, stride, None)

    def typed_tensor(
        storage: Any, offset: Any, size: Any, stride: Any, grad: Any, hooks: Any, kind: Any, *_: Any
    ) -> Any:
        del grad, hooks
        if not isinstance(kind, Name) or kind.name.removeprefix("torch.") not in _TYPES:
            raise JslmError(f"{path}: a tensor of type {str(kind)[:60]}, which is not read")
        return _tensor(path, storage, offset, size, stride, np.dtype(_TYPES[kind.name.removeprefix("torch.")]))

    return {
        **_CALLS,
        "torch._utils._rebuild_tensor": tensor,
        "torch._utils._rebuild_tensor_v2": tensor,
        "torch._utils._rebuild_tensor_v3": typed_tensor,
    }


def _tensor(path: Path, storage: Any, offset: Any, size: Any, stride: Any, dtype: np.dtype | None) -> Any:
    shaped = isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride) <= 32
    if not isinstance(storage, _Storage) or not shaped or not _counts((offset, *size, *stride)):
        raise JslmError(f"{path}: a tensor whose offset, shape or strides are no plain numbers from 0 on")
    if storage.data is None:
        return None
    dtype = dtype or storage.dtype
    elements = storage.data.size // dtype.itemsize
    last = offset + sum((width - 1) * step for width, step in zip(size, stride, strict=True))
    count = math.prod(size)
    # More elements than the storage has is a broadcast view, which a copy would swell.
    if count and (last >= elements or count > elements):
        raise JslmError(f"{path}: a tensor of shape {size} with strides {stride} is beyond its {elements} elements")
    if count:
        steps = tuple(step * dtype.itemsize for step in stride)
        array = np.ndarray(size, dtype, storage.data.view(np.ndarray), offset * dtype.itemsize, steps)
    else:
        array = np.empty(size, dtype)
    array.flags.writeable = False
    return array


def _counts(values: Any) -> bool:
    """Whether all are whole numbers from 0 on that int64 holds."""
    return all(isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62 for value in values)


class _NumpyType:
    """A numpy type, whose byte order comes after it."""

    def __init__(self, code: Any, *rest: Any) -> None:
        del rest
        if not isinstance(code, str) or code not in (
            "f2",
            "f4",
            "f8",
            "i1",
            "i2",
            "i4",
            "i8",
            "u1",
            "u2",
            "u4",
            "u8",
            "b1",
        ):
            raise ValueError("type")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise ValueError("state")
        self.dtype = self.dtype.newbyteorder(state[1])


def _numpy_scalar(kind: Any, data: Any) -> Any:
    if not isinstance(kind, _NumpyType) or not isinstance(data, bytes) or len(data) != kind.dtype.itemsize:
        raise ValueError("scalar")
    return np.frombuffer(data, kind.dtype)[0].item()


def _encode(text: Any, encoding: Any) -> bytes:
    # Protocol 2 has no bytes: Python writes them as text.
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("encoding")
    return text.encode("latin-1")


def _size(dimensions: Any = ()) -> tuple[Any, ...]:
    if not isinstance(dimensions, tuple):
        raise ValueError("size")
    return dimensions


def _parameter(data: Any, *rest: Any) -> Any:
    del rest
    return data


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not all(isinstance(pair, list | tuple) and len(pair) == 2 and isinstance(pair[0], str | int) for pair in pairs):
        raise ValueError("pairs")
    return dict(pairs)


def _device(*parts: Any) -> str:
    return ":".join(str(part)[:20] for part in parts if isinstance(part, str | int))


def _set(items: Any = ()) -> set[Any]:
    if not isinstance(items, list) or not all(isinstance(item, str | int) for item in items):
        raise ValueError("set")
    return set(items)


_CALLS: Mapping[str, Callable[..., Any]] = {
    "collections.OrderedDict": _ordered,
    "builtins.set": _set,
    "builtins.bytes": lambda: b"",
    "_codecs.encode": _encode,
    "numpy.dtype": _NumpyType,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}
