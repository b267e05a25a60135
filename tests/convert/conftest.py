"""Files of `torch.save`, written without PyTorch."""

from __future__ import annotations

import collections
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pytest

STORAGES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True, eq=False)
class Global:
    """A class or function by its name, which need not exist."""

    name: str


@dataclass(frozen=True, eq=False)
class Call:
    """What `__reduce__` asks for."""

    name: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, eq=False)
class Object:
    """An instance with a `__dict__`, as a dataclass is."""

    name: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Persistent:
    """A persistent id."""

    key: Any


# Python's own pickler in Python, whose types have methods that can be added to. It has no annotations.
_Pickler: Any = pickle._Pickler


class TorchPickler(_Pickler):
    """Python's own pickler, and arrays written as `torch.save` writes tensors."""

    dispatch: ClassVar[dict[Any, Any]] = dict(_Pickler.dispatch)

    def __init__(self, file: io.BytesIO, *, stream: bool) -> None:
        super().__init__(file, protocol=2)
        self.stream = stream
        self.arrays: list[np.ndarray] = []

    def save_name(self, entry: Global) -> None:
        module, _, name = entry.name.rpartition(".")
        self.write(f"c{module}\n{name}\n".encode())

    def save_call(self, entry: Call) -> None:
        self.save_name(Global(entry.name))
        self.save(entry.arguments)
        self.write(b"R")

    def save_object(self, entry: Object) -> None:
        self.save_name(Global(entry.name))
        self.write(b")\x81")
        self.save(dict(entry.attributes))
        self.write(b"b")

    def save_persistent(self, entry: Persistent) -> None:
        self.save(entry.key)
        self.write(b"Q")

    def save_array(self, array: np.ndarray) -> None:
        kind = Global(f"torch.{STORAGES[str(array.dtype)]}")
        view = (None,) if self.stream else ()
        storage = Persistent(("storage", kind, str(len(self.arrays)), "cpu", array.size, *view))
        self.arrays.append(array)
        strides = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
        arguments: tuple[Any, ...] = (storage, 0, array.shape, strides, False, collections.OrderedDict())
        self.save_call(Call("torch._utils._rebuild_tensor_v2", arguments))

    dispatch[Global] = save_name
    dispatch[Call] = save_call
    dispatch[Object] = save_object
    dispatch[Persistent] = save_persistent
    dispatch[np.ndarray] = save_array


def torch_pickle(value: Any, *, stream: bool = False) -> tuple[bytes, list[np.ndarray]]:
    """The pickle of `value`, and the arrays that belong into the storages "0", "1", ..."""
    file = io.BytesIO()
    pickler = TorchPickler(file, stream=stream)
    pickler.dump(value)
    return file.getvalue(), pickler.arrays


def torch_zip(value: Any, entries: Mapping[str, bytes] | None = None) -> bytes:
    """A zip file of `torch.save`; `entries` replace or add to its own."""
    body, arrays = torch_pickle(value)
    parts = {"data.pkl": body, "byteorder": b"little", "version": b"3\n"}
    parts |= {f"data/{index}": array.tobytes() for index, array in enumerate(arrays)}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in (parts | dict(entries or {})).items():
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def torch_stream(value: Any) -> bytes:
    """A file of `torch.save(..., _use_new_zipfile_serialization=False)`."""
    body, arrays = torch_pickle(value, stream=True)
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    heads = [pickle.dumps(head, protocol=2) for head in (0x1950A86A20F9469CFC6C, 1001, system)]
    names = pickle.dumps([str(index) for index in range(len(arrays))], protocol=2)
    storages = [struct.pack("<q", array.size) + array.tobytes() for array in arrays]
    return b"".join([*heads, body, names, *storages])


class TorchFiles:
    """What the tests write with."""

    Global, Call, Object, Persistent = Global, Call, Object, Persistent
    pickle, zip, stream = staticmethod(torch_pickle), staticmethod(torch_zip), staticmethod(torch_stream)
    bfloat16 = ml_dtypes.bfloat16


@pytest.fixture(scope="session")
def torch_files() -> type[TorchFiles]:
    """Writers of PyTorch's files."""
    return TorchFiles


@pytest.fixture
def torch_save(tmp_path: Path) -> Callable[..., Path]:
    """Writes a value as a zip file of `torch.save` into `tmp_path`."""

    def save(value: Any, name: str = "ckpt.pt") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # Arrays of an earlier file may still be read from where it was.
        path.unlink(missing_ok=True)
        path.write_bytes(torch_zip(value))
        return path

    return save
