from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.prompts.as_read import as_read
from jslm.text.cleaners import CLEANERS
from jslm.text.documents import parse_stories, read_documents, resolve_sources, size_of
from jslm.text.readers import text as text_reader


def texts(source: str | Path | list[str], **settings: Any) -> list[str]:
    config = DataConfig(source=source if isinstance(source, list) else str(source), **settings)
    return [document.text for document in read_documents(config)]


def message(source: str | Path | list[str], **settings: Any) -> str:
    with pytest.raises(JslmError) as caught:
        texts(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_text_file_is_one_document_with_only_its_newlines_changed(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes("\ufeff  Où\r\nça?\rLà. \ufeff\t\n\n".encode())
    (document,) = read_documents(DataConfig(source=str(path)))
    assert document.text == "  Où\nça?\nLà. \ufeff\t\n\n"
    assert (document.source, document.bits) == (str(path), None)


@given(st.text(st.sampled_from("aé\u0301\u00a0\u200b\u2028😀\ufeff\r\n "), max_size=20))
def test_a_stretch_of_text_is_read_as_a_file_of_it_is(text: str) -> None:
    decoded = "".join(text_reader.decode(io.BytesIO(text.encode()), "a.txt"))
    assert as_read(text) == decoded.lstrip("\ufeff") == as_read(as_read(text))
    cleaned = as_read(text, ["normalize"])
    # But for white space, which a prompt may begin and end with.
    assert cleaned.split() == CLEANERS["normalize"](decoded).text.split()
    assert as_read(cleaned, ["normalize"]) == cleaned


def test_records_are_read_with_the_line_breaks_of_files(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "e\r\nf"}, {"role": "assistant", "content": "g\rh"}]
    record = {"text": "a\r\nb", "rejected": "c\rd", "messages": said}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record), "utf-8")
    assert texts(path) == ["a\nb"]
    assert texts(path, template="{text}\t{rejected}") == ["a\nb\tc\nd"]
    config = DataConfig(source=str(path), template="\t{text}", prompt_end="\t", rejected="rejected")
    (document,) = read_documents(config)
    assert (document.text, document.rejected) == ("\ta\nb", "c\nd")
    (conversation,) = texts(path, messages="messages")
    assert [message["content"] for message in json.loads(conversation)] == ["e\nf", "g\nh"]


@given(st.text(st.sampled_from("aé😀\r\n"), max_size=40), st.integers(1, 7))
def test_decoding_does_not_depend_on_the_block_size(
    tmp_path_factory: pytest.TempPathFactory, text: str, size: int
) -> None:
    path = tmp_path_factory.mktemp("blocks") / "a.txt"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_reader, "BLOCK_BYTES", size + 3)
        with path.open("rb") as stream:
            decoded = "".join(text_reader.decode(stream, "a.txt"))
        assert decoded == text.replace("\r\n", "\n").replace("\r", "\n")


@given(st.lists(st.text("ab|", max_size=8), max_size=8), st.sampled_from(["|", "||", "a|b", "|a|"]))
def test_streamed_separation_equals_str_split(blocks: list[str], separator: str) -> None:
    expected = [text.strip() for text in "".join(blocks).split(separator)]
    assert [text for text, _ in text_reader.split_blocks(iter(blocks), separator)] == expected


def test_separator_gives_documents_without_the_white_space_around(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("One.\n\nStill one.\n<|endoftext|>\nTwo.\n<|endoftext|>\n\n<|endoftext|>\n")
    assert texts(path, separator="<|endoftext|>") == ["One.\n\nStill one.", "Two."]


def test_real_stories_are_separated(assets: Path) -> None:
    path = assets / "tinystories" / "v2_train_head_1.4MB.txt"
    found = texts(path, separator="<|endoftext|>")
    assert len(found) == path.read_text("utf-8").count("<|endoftext|>") + 1
    assert not any("endoftext" in text for text in found)


def test_folders_are_read_recursively_in_order_without_hidden_or_other_files(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/y.jsonl", "picture.png", ".hidden.txt", ".git/c.txt", "blank.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"text": "a/y.jsonl"}' if name.endswith("jsonl") else name)
    (tmp_path / "blank.txt").write_text(" \n")
    assert texts(tmp_path) == ["a/y.jsonl", "a/z.md", "b.txt"]
    assert texts(str(tmp_path / "**" / "*.txt")) == ["b.txt"]


def test_a_file_named_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A")
    (tmp_path / "b.log").write_text("B")
    assert texts([str(tmp_path / "b.log"), str(tmp_path), str(tmp_path / "*.txt")]) == ["B", "A"]
    config = DataConfig(source=[str(tmp_path), str(tmp_path / "a.txt"), "stories:2KB"])
    assert size_of(resolve_sources(config)) == (1, 2001)


def test_jsonl_is_a_document_a_line_with_only_its_newlines_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"body": text}) for text in ("one\r\n", " zwei ü\u2028", "😀")]
    path.write_bytes(("\ufeff" + "\r\n\n".join(lines)).encode())
    assert texts(path, text_field="body") == ["one\n", " zwei ü\u2028", "😀"]
    assert texts(path, format="text")[0].startswith('{"body"')


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"text": "a"', ":2: not valid JSON"),
        (b'["a"]', ":2: expected a JSON object with the key 'text', found list"),
        (b'{"story": "a", "id": 1}', ":2: no key 'text'; keys found: 'story', 'id'; set data.text_field"),
        (b'{"text": null}', ":2: key 'text' holds NoneType; expected a string"),
        (b'{"text": "\\ud800"}', "half of a surrogate pair"),
        (b"[" * 100_000, ":2: "),
    ],
)
def test_bad_jsonl_names_file_and_line(tmp_path: Path, line: bytes, expected: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "ok"}\n' + line + b"\n")
    found = message(path)
    assert expected in found
    assert str(path) in found


def test_binary_and_wrongly_encoded_files_are_named_with_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_reader, "BLOCK_BYTES", 8)
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123\n56789\0")
    assert f"{path}: not text that can be read: a NUL byte at byte 10 (line 2)" in message(path)
    path.write_bytes("012\n45é".encode() + b"\xe9 is Latin-1")
    assert "not UTF-8: byte 0xe9 at byte 8 (line 2)" in message(path)
    path.write_bytes("é12345".encode() + b"\xc3")
    assert "not UTF-8: byte 0xc3 at byte 7 (line 1)" in message(path)
    path.write_bytes(b"caf\xe9\x01\x02\x03")
    assert "nor an encoding that could be found" in message(path)


def test_what_cannot_be_found_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shakespeare.txt").write_text(" \n")
    (tmp_path / "empty").mkdir()
    assert "did you mean shakespeare.txt?" in message("shakespear.txt")
    assert ".txt, .md, .jsonl" in message("empty")
    assert "no file matches *.md" in message("*.md")
    assert "data.source is empty" in message("")
    assert "no text in shakespeare.txt" in message("shakespeare.txt")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("secret")
    path.chmod(0)
    assert "cannot be read" in message(path)


def test_stories_sources() -> None:
    parsed = parse_stories("stories:1.5gb:seed=3")
    assert (parsed.megabytes, parsed.seed) == (1500, 3)
    assert parse_stories("stories:500KB").megabytes == 0.5
    for bad in ("stories:", "stories:20", "stories:0MB", "stories:20MB:sed=1", "stories:-1MB", "stories:20MB:seed=x"):
        with pytest.raises(JslmError, match="write stories:20MB"):
            parse_stories(bad)
