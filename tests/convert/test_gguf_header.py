"""Reading the header of a GGUF file that nobody vouches for: one clear line, bounded memory."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm import JslmError
from jslm.formats.gguf.header import ArrayLength, read_header
from jslm.formats.gguf.model import describe


def string(text: str | bytes) -> bytes:
    data = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def key(name: str, kind: int, value: bytes) -> bytes:
    return string(name) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return string(name) + sizes + struct.pack("<IQ", kind, offset)


def file(*parts: bytes, keys: int, tensors: int = 0, version: int = 3, data: int = 0) -> bytes:
    header = b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + b"".join(parts)
    return header + bytes(-len(header) % 32 + data)


TOKENS = struct.pack("<IQ", 8, 2) + string("a") + string("bc")
WHOLE = file(
    key("general.architecture", 8, string("llama")),
    key("llama.block_count", 4, struct.pack("<I", 3)),
    key("llama.eps", 6, struct.pack("<f", 0.5)),
    key("tokenizer.ggml.model", 8, string("gpt2")),
    key("tokenizer.ggml.tokens", 9, TOKENS),
    key("tokenizer.ggml.scores", 9, struct.pack("<IQ", 6, 2) + bytes(8)),
    tensor("a", (32, 2), 8),
    tensor("b", (4,), 0, 96),
    keys=6,
    tensors=2,
    data=96 + 16,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.gguf"


def test_a_whole_header(path: Path) -> None:
    path.write_bytes(WHOLE)
    header = read_header(path)
    assert (header.version, header.n_tensors, header.n_parameters) == (3, 2, 68)
    assert header.types == {"q8_0": 64, "f32": 4}
    assert header.metadata["tokenizer.ggml.tokens"] == header.metadata["tokenizer.ggml.scores"] == ArrayLength(2)
    assert (header.metadata["llama.block_count"], header.metadata["llama.eps"]) == (3, 0.5)
    assert describe(path) == {
        "format": "GGUF version 3",
        "architecture": "llama",
        "parameters": 68,
        "weights": "q8_0 64, f32 4 in 2 tensors",
        "n_layers": 3,
        "tokenizer": "gpt2: 2 tokens",
    }


def test_every_truncation_is_one_line(path: Path) -> None:
    for length in range(len(WHOLE)):
        path.write_bytes(WHOLE[:length])
        with pytest.raises(JslmError, match=r"cut short|not a GGUF") as caught:
            read_header(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


HUGE = 2**63 - 1
ARRAY = struct.pack("<IQ", 8, HUGE)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"ggml" + WHOLE[4:], "not a GGUF file"),
        (file(keys=0, version=1), "GGUF version 1; jslm reads versions 2 and 3"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (file(keys=HUGE), "keys of metadata"),
        (file(struct.pack("<Q", HUGE), keys=1), "a string of 9,223,372,036,854,775,807 bytes"),
        (file(key("a", 8, struct.pack("<Q", 2**20)), keys=1), "cut short: 1,048,576 bytes expected"),
        (file(key("a", 8, string(b"\xff")), keys=1), "not UTF-8"),
        (file(key("a", 13, b""), keys=1), "unknown type 13"),
        (file(key("a", 9, ARRAY), keys=1), "an array of 9,223,372,036,854,775,807 strings"),
        (file(key("a", 9, struct.pack("<IQ", 12, HUGE)), keys=1), "cut short"),
        (file(key("a", 9, struct.pack("<IQ", 9, 1) * 9), keys=1), "an array of the unknown type 9"),
        (file(key("a", 0, b"1"), key("a", 0, b"1"), keys=2), "'a' comes twice"),
        (file(key("general.alignment", 4, struct.pack("<I", 0)), keys=1), "general.alignment = 0"),
        (file(key("general.alignment", 8, string("x")), keys=1), "general.alignment = 'x'"),
        (file(keys=0, tensors=HUGE), "cut short"),
        (file(tensor("t", ()), keys=0, tensors=1), "0 dimensions"),
        (file(tensor("t", (1,) * 5), keys=0, tensors=1), "5 dimensions"),
        (file(tensor("t", (4,), 99), keys=0, tensors=1), "unknown type 99"),
        (file(tensor("t", (33,), 8), keys=0, tensors=1), "rows of 33, which q8_0"),
        (file(tensor("t", (4,), 0, 4), keys=0, tensors=1), "multiple of 32"),
        (file(tensor("t", (HUGE, HUGE, HUGE)), keys=0, tensors=1), "cut short"),
        (file(tensor("t", (4,), 0, 2**40), keys=0, tensors=1, data=16), "cut short"),
    ],
)
def test_what_cannot_be_is_refused(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(JslmError, match=message) as caught:
        describe(path)
    assert "\n" not in str(caught.value)


def test_memory_does_not_grow_with_the_file(path: Path) -> None:
    # 400 MB of nothing on a file system that stores no zeros, as one string and as many.
    for value in (struct.pack("<Q", 400_000_000), struct.pack("<IQ", 0, 400_000_000)):
        path.write_bytes(file(key("a", 9 if len(value) > 8 else 8, value), keys=1))
        with path.open("rb+") as stream:
            stream.truncate(401_000_000)
        tracemalloc.start()
        try:
            if len(value) > 8:
                assert read_header(path).metadata == {"a": ArrayLength(400_000_000)}
            else:
                with pytest.raises(JslmError, match="a string of 400,000,000 bytes"):
                    read_header(path)
            assert tracemalloc.get_traced_memory()[1] < 4_000_000
        finally:
            tracemalloc.stop()


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_mutated_headers_end_in_a_line_or_a_description(tmp_path_factory: Any, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.gguf"
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        new = data.draw(
            st.binary(min_size=1, max_size=4)
            | st.sampled_from([b"\xff" * 8, b"\xff" * 4, bytes(8), struct.pack("<Q", 2**31), struct.pack("<Q", 2**63)])
        )
        content[at : at + len(new)] = new
    path.write_bytes(content)
    try:
        outcome = describe(path)["format"]
    except JslmError as error:
        outcome = str(error)
    assert outcome.startswith(("GGUF version", str(path)))
    assert "\n" not in outcome


@given(content=st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_noise_after_the_magic(tmp_path_factory: Any, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + content)
    with pytest.raises(JslmError) as caught:
        describe(path)
    assert "\n" not in str(caught.value)
