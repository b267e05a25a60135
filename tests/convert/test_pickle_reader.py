"""Pickles are data here: what is read, what is refused, and that no bytes do anything else."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.errors import JslmError
from jslm.formats.pickles.reader import Record, looks_like_torch, read_pickle, read_torch_file

Save = Callable[..., Path]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pickles") / "x.pt"


def read(file: Path, data: bytes) -> Any:
    # A new inode each time: earlier arrays still map the old one.
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    return read_torch_file(file)


def read_plain(file: Path, data: bytes) -> Any:
    file.unlink(missing_ok=True)
    file.write_bytes(data)
    return read_pickle(file)


def example(torch_files: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {
        "model": collections.OrderedDict(
            a=rng.standard_normal((3, 5)).astype(np.float32),
            b=rng.standard_normal(4).astype(ml_dtypes.bfloat16),
            c=np.array(7, np.int64),
        ),
        "config": torch_files.Object("model.config.Config", {"d_model": 512, "eps": 1e-6}),
        "list": [1, (2.5, None, True), "é"],
    }


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_tensors_and_records(file: Path, torch_files: Any, layout: str) -> None:
    value = example(torch_files)
    found = read(file, getattr(torch_files, layout)(value))
    assert list(found["model"]) == ["a", "b", "c"]
    for name, array in value["model"].items():
        assert found["model"][name].dtype == array.dtype
        assert found["model"][name].shape == array.shape
        assert found["model"][name].tobytes() == array.tobytes()
    assert found["config"] == Record("model.config.Config", (), {"d_model": 512, "eps": 1e-6})
    assert found["list"] == [1, (2.5, None, True), "é"]


def tensor(torch_files: Any, data: np.ndarray, offset: int, size: Any, stride: Any) -> Any:
    """The call for a view of a storage whose bytes are `data`."""
    kind = torch_files.Global("torch.FloatStorage")
    storage = torch_files.Persistent(("storage", kind, "own", "cpu", data.size))
    return torch_files.Call("torch._utils._rebuild_tensor_v2", (storage, offset, size, stride, False, {}))


def test_strides_and_offsets(file: Path, torch_files: Any) -> None:
    data = np.arange(24, dtype=np.float32)
    view = tensor(torch_files, data, 2, (3, 4), (1, 5))
    found = read(file, torch_files.zip({"x": view}, {"data/own": data.tobytes()}))["x"]
    assert found.tolist() == np.lib.stride_tricks.as_strided(data[2:], (3, 4), (4, 20)).tolist()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**90), 2**90) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(-(2**50), 2**50), inner)
        | st.sets(st.text())
    ),
    max_leaves=30,
)


@given(plain, st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_plain_values_as_pickle_reads_them(file: Path, value: Any, protocol: int) -> None:
    found = read_plain(file, pickle.dumps(value, protocol))
    assert found == value
    assert type(found) is type(value)


def test_shared_and_circular_values(file: Path) -> None:
    shared: list[Any] = [1]
    shared.append(shared)
    found = read_plain(file, pickle.dumps({"a": shared, "b": shared}))
    assert found["a"] is found["b"]
    assert found["a"][1] is found["a"]


class Reduces:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.answer = function, arguments

    def __reduce__(self) -> Any:
        return self.answer


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch ran",), f"{os.system.__module__}.system"),
        (eval, ("1",), "builtins.eval"),
        (getattr, (os, "system"), "builtins.getattr"),
        (os.mkdir, ("ran",), f"{os.mkdir.__module__}.mkdir"),
    ],
)
def test_calls_are_refused_by_name(
    file: Path, torch_files: Any, function: Any, arguments: tuple[Any, ...], name: str, protocol: int
) -> None:
    if os in arguments:
        arguments = ("os", "system")
    body = pickle.dumps({"model": Reduces(function, *arguments)}, protocol)
    for data in (body, torch_files.zip({}, {"data.pkl": body}), torch_files.stream({})[:14] + body):
        with pytest.raises(JslmError, match=r"x\.pt: ") as caught:
            read(file, data)
        if data is not body and not data.startswith(b"PK"):
            continue  # The stream's heads come first.
        assert f"refused: it calls {name}" in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    "body",
    [
        b"cos\nsystem\n(S'id'\ntR.",
        b"(S'id'\nios\nsystem\n.",
        b"(cos\nsystem\nS'id'\no.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93)R.",
    ],
)
def test_old_ways_to_call(file: Path, body: bytes) -> None:
    with pytest.raises(JslmError, match=r"refused: it calls os\.system"):
        read(file, body)


def test_a_name_cannot_write_to_the_terminal(file: Path) -> None:
    with pytest.raises(JslmError) as caught:
        read(file, b"c\x1b[31m\n" + b"x" * 3000 + b"\n)R.")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def rewritten(data: bytes, compression: int, rename: Callable[[str], str] = str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for info in old.infolist():
            new.writestr(rename(info.filename), old.read(info))
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("archive/data.pkl", "w") as entry:
        for _ in range(64):
            entry.write(bytes(1 << 20))
    return out.getvalue()


def hostile_zips(torch_files: Any) -> Iterator[tuple[str, bytes]]:
    whole = torch_files.zip(example(torch_files))
    yield "compressed", rewritten(whole, zipfile.ZIP_DEFLATED)
    yield "compressed", bomb()
    yield "leads out", rewritten(whole, zipfile.ZIP_STORED, lambda name: name.replace("archive/version", "../../etc/x"))
    yield "leads out", rewritten(whole, zipfile.ZIP_STORED, lambda name: name.replace("archive/version", "/etc/x"))
    yield "0 entries named data.pkl", torch_files.zip({}).replace(b"data.pkl", b"data.pkk")
    yield "no entry data/", rewritten(whole, zipfile.ZIP_STORED, lambda name: name.replace("data/1", "data/9"))
    yield "byte order", torch_files.zip({}, {"byteorder": b"big"})
    yield "bytes of 60", torch_files.zip(example(torch_files), {"data/0": b"short"})
    yield "cut off", whole[:-30]
    yield "cut off", whole[: len(whole) // 2]
    yield "cut off", torch_files.zip({}, {"data.pkl": b"\x80\x02}q\x00(X\xff\xff\xff\x7f"})
    yield "is empty", b""
    local = bytearray(torch_files.zip({"x": np.zeros(3, np.float32)}))
    local[0] = 0
    yield "plain pickle", torch_files.pickle({})[0]
    yield "not a pickle", bytes(local)
    offset = whole.rindex(b"PK\x01\x02")
    moved = bytearray(whole)
    moved[offset + 42 : offset + 46] = struct.pack("<I", 7)
    yield "no header at byte 7", bytes(moved)
    long = bytearray(whole)
    long[offset + 20 : offset + 28] = struct.pack("<II", 1 << 30, 1 << 30)
    yield "of a file of", bytes(long)


def test_hostile_zips(file: Path, torch_files: Any) -> None:
    for reason, data in hostile_zips(torch_files):
        tracemalloc.start()
        with pytest.raises(JslmError, match=r"x\.pt: ") as caught:
            read(file, data)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason in str(caught.value)
        assert "\n" not in str(caught.value)
        assert peak < 4 << 20, reason


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (25,), (1,)),
        (20, (5,), (1,)),
        (0, (5, 5), (5, 1)),
        (0, (1 << 40, 1 << 40), (0, 0)),
        (0, (2, 1 << 61), (1, 1)),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
        (0, (-2,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2,), (2**63,)),
        (0, (1,) * 40, (1,) * 40),
        (0, (True,), (1,)),
        (0, ("2",), (1,)),
        (0, [2], [1]),
        (0.5, (2,), (1,)),
    ],
)
def test_tensors_stay_in_their_storage(file: Path, torch_files: Any, offset: Any, size: Any, stride: Any) -> None:
    data = np.zeros(24, np.float32)
    with pytest.raises(JslmError, match=r"x\.pt: a tensor (of shape|whose offset)"):
        read(file, torch_files.zip([tensor(torch_files, data, offset, size, stride)], {"data/own": data.tobytes()}))


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (("storage", "text", "0", "cpu", 3), "storage type 'str'"),
        (("other", 1, 2), "refers to storages only"),
        ("text", "refers to storages only"),
    ],
)
def test_strange_references(file: Path, torch_files: Any, key: Any, reason: str) -> None:
    with pytest.raises(JslmError, match=reason):
        read(file, torch_files.zip([torch_files.Persistent(key)]))


def test_a_storage_longer_than_its_entry(file: Path, torch_files: Any) -> None:
    key = ("storage", torch_files.Global("torch.FloatStorage"), "own", "cpu", 2**60)
    with pytest.raises(JslmError, match="data/own has 8 bytes of"):
        read(file, torch_files.zip([torch_files.Persistent(key)], {"data/own": bytes(8)}))


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02" + b"]" * 5_000_000,
        b"\x80\x02K\x01" + b"2" * 5_000_000,
        b"\x80\x02]" + b"r\xff\xff\xff\x7f" * 4 + b".",
        b"\x80\x02\x8e" + struct.pack("<Q", 2**62),
        b"\x80\x02\x8b" + struct.pack("<I", 2**31 - 1),
        # A tuple of itself twice, 60 times over, as a key: its hash would take for ever.
        b"\x80\x02}K\x01" + b"2\x86" * 60 + b"K\x01s.",
        # Ten thousand copies of a list of a thousand.
        b"\x80\x02](" + b"K\x01" * 1000 + b"eq\x000" + b"c__builtin__\nset\nh\x00\x85R0" * 10_000 + b".",
        # Keys with one hash.
        b"\x80\x02}"
        + b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"Ns" for n in range(1, 9))
        + b".",
    ],
    ids=["lists", "copies", "memo", "bytes", "integer", "hash", "set", "collisions"],
)
def test_bombs_in_the_pickle(file: Path, body: bytes) -> None:
    began = time.monotonic()
    with pytest.raises(JslmError, match=r"x\.pt: not a pickle that can be read|a plain pickle"):
        read(file, body)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("layout", ["zip", "stream"])
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_files_load_or_say_so(file: Path, torch_files: Any, layout: str, data: st.DataObject) -> None:
    whole = bytearray(getattr(torch_files, layout)(example(torch_files)))
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    damaged = bytes(whole[: data.draw(st.integers(0, len(whole)) | st.just(len(whole)))])
    check(file, damaged)


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\x80\x02\x8a\x0a"]))
@settings(max_examples=500, deadline=None)
def test_any_bytes_load_or_say_so(file: Path, body: bytes, start: bytes) -> None:
    check(file, start + body)


OPCODES = b"NKJMXU}])(tuesaqhcRb\x81\x85\x86\x88\x93\x94\x8cQ20.\x8f\x90\x91"


@given(st.lists(st.sampled_from([bytes([code]) for code in OPCODES] + [b"\x00", b"\x01", b"a\n", b"K\x01", b"U\x01x"])))
@settings(max_examples=1000, deadline=None)
def test_any_instructions_load_or_say_so(file: Path, torch_files: Any, parts: list[bytes]) -> None:
    check(file, b"".join(parts) + b".")
    check(file, torch_files.zip({}, {"data.pkl": b"\x80\x02" + b"".join(parts) + b"."}))


def check(file: Path, data: bytes) -> None:
    for reader in (read, read_plain):
        message = str(file)
        try:
            reader(file, data)
        except JslmError as error:
            message = str(error)
        assert str(file) in message
        assert "\n" not in message


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(JslmError, match=r"none\.pt: cannot be read: No such file"):
        read_torch_file(tmp_path / "none.pt")
    with pytest.raises(JslmError, match=r"cannot be read|is empty"):
        read_torch_file(tmp_path)
    assert not looks_like_torch(tmp_path / "none.pt")
    assert not looks_like_torch(tmp_path)
