from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.errors import JslmError
from jslm.tokens import token_file
from jslm.tokens.stretch import Stretch
from jslm.tokens.token_file import TokenWriter, open_tokens, read_meta, token_dtype, verify

FIELDS = {"tokenizer": {"kind": "byte", "fingerprint": "abc", "vocab_size": 300}}


def write(folder: Path, vocab_size: int = 300) -> dict[str, Any]:
    with TokenWriter(folder, vocab_size) as writer:
        writer.append("train", [1, 2, 299], characters=3, utf8_bytes=4, bits=2.0)
        writer.append("train", np.array([4], np.int32), characters=1, utf8_bytes=1, ends_document=False)
        writer.append("val", [7, 8], characters=2, utf8_bytes=2)
        writer.append("train", [5], characters=1, utf8_bytes=1, bits=1.5)
        (writer.partial / "tokenizer.json").write_text("{}")
        return writer.commit(FIELDS, ["tokenizer.json"])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    meta = write(tmp_path / "new" / "data")
    folder = tmp_path / "new" / "data"
    train, val = open_tokens(folder, "train"), open_tokens(folder, "val")
    assert train.tokens.tolist() == [1, 2, 299, 4, 5]
    assert train.offsets.tolist() == [0, 3, 5]
    assert (val.tokens.tolist(), val.offsets.tolist()) == ([7, 8], [0, 2])
    assert isinstance(train.tokens, np.memmap)
    assert meta == read_meta(folder) == verify(folder, "abc")
    assert meta["train"] | {"sha256": ""} == {
        "tokens": 5, "documents": 2, "bytes": 6, "characters": 5, "sha256": "", "bits": 3.5
    }  # fmt: skip
    assert meta["val"]["bits"] is None
    assert names(folder) == ["meta.json", "tokenizer.json", "train.bin", "train.idx", "val.bin", "val.idx"]


def test_bytes_on_disk_are_little_endian_in_the_narrowest_type(tmp_path: Path) -> None:
    write(tmp_path)
    assert (tmp_path / "train.bin").read_bytes() == b"\1\0\2\0\x2b\1\4\0\5\0"
    assert (tmp_path / "val.idx").read_bytes() == b"\0" * 8 + b"\2" + b"\0" * 7
    assert (token_dtype(65_536).itemsize, token_dtype(65_537).itemsize) == (2, 4)
    write(tmp_path, vocab_size=65_537)
    assert (tmp_path / "val.bin").read_bytes() == b"\7\0\0\0\x08\0\0\0"
    assert open_tokens(tmp_path, "val").tokens.dtype == np.uint32


def test_an_empty_split_is_an_empty_array(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 10) as writer:
        writer.append("train", [1])
        writer.commit(FIELDS)
    val = open_tokens(tmp_path, "val")
    assert (val.tokens.shape, val.offsets.tolist()) == ((0,), [0])
    verify(tmp_path)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 10) as writer:
        with pytest.raises(ValueError, match="vocabulary of 10"):
            writer.append("train", [10])
        with pytest.raises(ValueError, match="from -1"):
            writer.append("train", [-1, 3])


def test_an_interrupted_writer_leaves_the_old_files_alone(tmp_path: Path) -> None:
    write(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted() -> None:
        with TokenWriter(tmp_path, 10) as writer:
            writer.append("train", [1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_dying_between_the_moves_leaves_no_meta(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path)
    replace = token_file.os.replace

    def fail_at_val(source: Path, target: Path) -> None:
        if Path(target).name == "val.bin":
            raise OSError(errno.EIO, "broken disk")
        replace(source, target)

    monkeypatch.setattr(token_file.os, "replace", fail_at_val)
    with pytest.raises(JslmError, match="broken disk"):
        write(tmp_path)
    assert "meta.json" not in names(tmp_path)
    assert not [name for name in names(tmp_path) if name.startswith(".partial")]
    with pytest.raises(JslmError, match=r"holds no prepared data; run jslm prepare"):
        read_meta(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with TokenWriter(tmp_path, 10) as writer:
        writer._splits["train"].file.close()
        writer._splits["train"].file = open("/dev/full", "wb")  # noqa: SIM115
        with pytest.raises(JslmError, match="no space left on the disk") as caught:
            writer.append("train", [1] * 100_000)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JslmError, match=r"cannot be written.*another data\.dir"):
        TokenWriter(tmp_path / "file" / "data", 10)


def test_damage_names_the_file_and_both_values(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(JslmError, match=r"meta\.json: .* tokenizer abc, .* is xyz"):
        verify(tmp_path, "xyz")
    (tmp_path / "train.bin").write_bytes(b"\1\0\2\0\x2b\1\4\0\6\0")
    with pytest.raises(JslmError, match=r"train\.bin: expected SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"):
        verify(tmp_path)
    verify(tmp_path, check_sha=False)
    (tmp_path / "val.bin").write_bytes(b"\7\0")
    with pytest.raises(JslmError, match=r"val\.bin: expected 4 bytes, found 2"):
        open_tokens(tmp_path, "val")
    (tmp_path / "train.idx").write_bytes(np.array([0, 9, 5], "<u8").tobytes())
    with pytest.raises(JslmError, match=r"train\.idx: expected rising offsets from 0 to 5"):
        verify(tmp_path, check_sha=False)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(JslmError, match=r"train\.idx: No such file"):
        open_tokens(tmp_path, "train")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"format_version": 2}, "format_version is 2; this jslm reads 1"),
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"train": None}, "damaged"),
        ({"tokenizer": {}}, "damaged"),
    ],
)
def test_a_bad_meta(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    meta = write(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps(meta | change))
    with pytest.raises(JslmError, match=expected):
        open_tokens(tmp_path, "train")


def test_a_meta_that_is_no_json(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "meta.json").write_text('{"format_ver')
    with pytest.raises(JslmError, match=r"damaged .* --force"):
        read_meta(tmp_path)


def test_what_a_document_has_may_come_in_several_stretches(tmp_path: Path) -> None:
    def stretch(ids: list[int], ends: list[int], learned: str, labels: list[int]) -> Stretch:
        mask = np.array([mark == "x" for mark in learned])
        numbers = np.array(labels, np.int16).reshape(-1, 1)
        return Stretch(np.array(ids), np.array(ends, np.uint64), mask, np.full(len(ends), 2.5), numbers, len(ids), 0)

    parts = [stretch([1, 2], [], "..", []), stretch([3, 4, 5, 6], [2, 3], ".xx.", [1, -1]), stretch([7], [1], "x", [0])]
    written = []
    for name, given in {"one": [Stretch.joined(parts)], "several": parts}.items():
        conditions = {"style": ["a", "b"]}
        with TokenWriter(tmp_path / name, 10, has_prompts=True, has_learned=True, conditions=conditions) as writer:
            for one in given:
                arrays = one.to_arrays("train_")
                writer.extend("train", Stretch.from_arrays(arrays, "train_"))
            meta = writer.commit({"tokenizer": {"fingerprint": "x"}})
        file = open_tokens(tmp_path / name, "train")
        assert file.prompts is not None
        assert file.learned is not None
        assert file.labels is not None
        assert file.offsets.tolist() == [0, 4, 5, 7]
        assert file.prompts.tolist() == [3, 0, 1]
        assert file.learned.tolist() == [0, 0, 0, 1, 1, 0, 1]
        assert file.labels[:, 0].tolist() == [1, -1, 0]
        assert (meta["train"]["prompt_tokens"], meta["train"]["learned_tokens"]) == (4, 3)
        assert (meta["train"]["bits"], meta["train"]["characters"]) == (7.5, 7)
        written.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert written[0] == written[1]
