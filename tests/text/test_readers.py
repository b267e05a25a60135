"""Formats, containers and encodings: the same stories come out of each of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.text.documents import read_documents
from jslm.text.readers import records
from jslm.text.readers import text as text_reader
from jslm.text.readers.text import guess_encoding

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STORIES = ["Once.\nTwice, “é”.", "It said: \"no\", 'so'; and a\ttab.", "😀 ends."]
TITLES = ["First", "Second", "Third"]


def texts(source: str | Path | list[str], **settings: Any) -> list[str]:
    config = DataConfig(source=source if isinstance(source, list) else str(source), **settings)
    return [document.text for document in read_documents(config)]


def message(source: str | Path | list[str], **settings: Any) -> str:
    with pytest.raises(JslmError) as caught:
        texts(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def encoded(kind: str) -> bytes:
    """STORIES and TITLES as a file."""
    rows = [{"title": title, "text": story} for title, story in zip(TITLES, STORIES, strict=True)]
    if kind == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == "json":
        return json.dumps(rows, indent=2).encode()
    if kind == "parquet":
        out = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), out, row_group_size=2)
        return out.getvalue()
    if kind in ("csv", "tsv"):
        file = io.StringIO()
        writer = csv.DictWriter(file, ["title", "text"], delimiter="," if kind == "csv" else "\t")
        writer.writeheader()
        writer.writerows(rows)
        return file.getvalue().encode()
    assert kind == "txt"
    return "\n<|endoftext|>\n".join(STORIES).encode()


KINDS = ("jsonl", "json", "parquet", "csv", "tsv", "txt")


def tar_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


PACKERS = {
    "": lambda name, data: data,
    ".gz": lambda name, data: gzip.compress(data[:40]) + gzip.compress(data[40:]),
    ".zst": lambda name, data: zstd.compress(data[:40]) + zstd.compress(data[40:]),
    ".zip": lambda name, data: zip_of({f"in/{name}": data, "in/picture.png": b"\x89PNG", "__MACOSX/x.txt": b"x"}),
    ".tar": lambda name, data: tar_of({f"in/{name}": data, "in/.hidden.txt": b"x"}),
    ".tar.gz": lambda name, data: gzip.compress(tar_of({name: data})),
    ".tgz": lambda name, data: gzip.compress(tar_of({name: data})),
    ".tar.zst": lambda name, data: zstd.compress(tar_of({f"{name}.gz": gzip.compress(data)})),
    ".zip.gz": lambda name, data: gzip.compress(zip_of({name: data})),
}


@pytest.mark.parametrize("packing", PACKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_in_every_container_holds_the_same_documents(tmp_path: Path, kind: str, packing: str) -> None:
    name = f"a.{kind}"
    path = tmp_path / (name + packing)
    path.write_bytes(PACKERS[packing](name, encoded(kind)))
    assert texts(path, separator="<|endoftext|>") == STORIES
    # A folder finds it by its name.
    assert texts(tmp_path, separator="<|endoftext|>") == STORIES


def test_documents_of_archives_name_their_member(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zip_of({"b.txt": b"B", "a.txt.gz": gzip.compress(b"A")}))
    found = [(d.text, d.source) for d in read_documents(DataConfig(source=str(tmp_path)))]
    assert found == [("A", f"{tmp_path}/a.zip:a.txt.gz"), ("B", f"{tmp_path}/a.zip:b.txt")]


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "csv", "tsv"])
def test_a_template_joins_columns(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind}"
    path.write_bytes(encoded(kind))
    expected = [f"# {title} {{{story}}}" for title, story in zip(TITLES, STORIES, strict=True)]
    assert texts(path, template="# {title} {{{text}}}") == expected
    assert texts(path, text_field="title") == TITLES
    assert "no key 'body'" in message(path, text_field="body")
    assert "keys found: 'title', 'text'" in message(path, template="{title}{body}")


def test_templates_take_numbers_and_nothing_but_names(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 3, "title": null, "text": "x", "tags": ["a"]}\n')
    assert texts(path, template="{id}{title}: {text}") == ["3: x"]
    assert "a.jsonl:1: key 'tags' holds list" in message(path, template="{tags}")
    for template in ("{", "{}", "{id!r}", "{id:>3}"):
        assert "data.template = " in message(path, template=template)


def test_blank_lines_and_own_strings_separate_documents(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("One\nmore.\r\n\r\nTwo.\n\n\n\nThree. == Four.\n")
    assert texts(path, separator="\n\n") == ["One\nmore.", "Two.", "Three. == Four."]
    assert texts(path, separator="==") == ["One\nmore.\n\nTwo.\n\n\n\nThree.", "Four."]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-8"])
def test_byte_order_marks_are_read_and_dropped(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("Über\r\n€ 5 “so”".encode(encoding))
    assert texts(path) == ["Über\n€ 5 “so”"]
    assert texts(path, encoding=encoding) == ["Über\n€ 5 “so”"]


SENTENCES = {
    "cp1252": "The café’s “special” – naïve, as they say – was five pounds and the people there liked it.\n",
    "cp1251": "Это русский текст, который был написан давно и который никто не прочитал до конца.\n",
    "cp932": "これは日本語の文章です。漢字とかなを使います。むかしむかし、あるところに。\n",
    "gb18030": "这是一个中文句子，用于测试编码。从前有一个人，他住在山里，很少下山。\n",
}


@pytest.mark.parametrize("encoding", SENTENCES)
def test_other_encodings_are_found_and_said(
    tmp_path: Path, encoding: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Plain ASCII comes first.\n" * 20 + SENTENCES[encoding] * 20
    path = tmp_path / "a.txt"
    path.write_bytes(text.encode(encoding))
    assert texts(path) == [text]
    at = next(index for index, byte in enumerate(text.encode(encoding)) if byte > 127)
    assert f"a.txt: not UTF-8 (byte 0x{text.encode(encoding)[at]:02x} at byte {at} (line 21))" in caplog.text
    assert f"read as {encoding}" in caplog.text
    assert texts(path, encoding=encoding) == [text]
    # Wherever a block ends.
    monkeypatch.setattr(text_reader, "BLOCK_BYTES", 7)
    assert texts(path) == [text]


def test_latin1_books_are_read_right(assets: Path) -> None:
    (dracula,) = texts(assets / "gutenberg" / "345-8_latin1.txt")
    assert "a calèche, with four horses" in dracula
    (angler,) = texts(assets / "gutenberg" / "9198-8_latin1.txt")
    assert "the market value was about £4 4s." in angler


def test_western_text_is_windows_1252() -> None:
    for sentence in ("en calèche, with four horses they drove", "Größe und “schön” – 5 €", "déjà vu and then the man"):
        assert guess_encoding(f"{sentence}\n".encode("cp1252")) == "cp1252"
    assert guess_encoding(b"\x81\x8d\x8f") is None or guess_encoding(b"\x81\x8d\x8f") != "cp1252"


def test_a_given_encoding_is_kept_to(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ncaf\xe9")
    assert texts(path, encoding="latin-1") == ["one\ncafé"]
    assert "not UTF-8: byte 0xe9 at byte 7 (line 2)" in message(path, encoding="utf-8")
    for wrong in ("utf-9", "rot13", ""):
        assert f"data.encoding = {wrong!r} is not an encoding" in message(path, encoding=wrong)


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n\x00", "a PDF file"),
        (b"PK\x03\x04\x00\x00", "a ZIP file"),
        (b"\x1f\x8b\x08", "gzip"),
    ],
)
def test_binary_files_are_called_what_they_are(tmp_path: Path, head: bytes, kind: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(head + random.Random(0).randbytes(1000))
    assert f"{path}: this is {'a ' if kind == 'gzip' else ''}{kind}" in message(path)


def test_random_bytes_are_never_text_nor_a_crash(tmp_path: Path) -> None:
    for kind in (*KINDS, "txt.gz", "txt.zst", "zip", "tar", "tgz", "epub"):
        path = tmp_path / f"a.{kind}"
        path.write_bytes(random.Random(kind).randbytes(3000))
        assert message(path).startswith(str(path))


@pytest.mark.parametrize("packing", [".gz", ".zst", ".zip", ".tar.gz", ".tgz", ".tar"])
def test_cut_off_files_are_no_shorter_texts(tmp_path: Path, packing: str) -> None:
    text = "".join(random.Random(0).choices("abcdefgh \n", k=20_000)).encode()
    data = PACKERS[packing]("a.txt", text)
    path = tmp_path / f"a.txt{packing}"
    path.write_bytes(data[: len(data) // 2])
    assert "damaged or cut off" in message(path)


def test_windows_of_zstandard_may_be_long(tmp_path: Path) -> None:
    # As `zstd --long=31` writes them; what is read without asking ends at 27.
    wanted = zstd.CompressionParameter
    options: dict[int, int] = {wanted.enable_long_distance_matching: 1, wanted.window_log: 31}
    with zstd.open(tmp_path / "a.txt.zst", "wb", options=options) as file:
        file.write(b"Once.")
    assert texts(tmp_path / "a.txt.zst") == ["Once."]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", b'[{"text": "a"}, {"text": "b"', ":1: not valid JSON: it ends in the middle"),
        ("a.json", b'[{"text": "a"},\n\n {"text" "b"}, {"text": "cccccccccccccccccccccc"}]', ":3: not valid JSON"),
        ("a.json", b'[{"text": "a"},\n 5]', ":2 (record 2): expected a JSON object with the key 'text', found int"),
        ("a.json", b'{"body": "a"}', ":1 (record 1): no key 'text'"),
        ("a.json", b"[" * 100_000, ":1: "),
        ("a.csv", b'title,text\nx,"a\nb"\ny\n', ":4: 1 fields found, 2 expected"),
        ("a.csv", b'title,text\nx,"a" b\n', ":2: not valid CSV"),
        ("a.csv", b'title,text\nx,"a\n', ":2: not valid CSV"),
        ("a.csv", b"title,body\nx,y\n", ":1: no key 'text'; keys found: 'title', 'body'"),
        ("a.parquet", b"PAR1 and no more", ": not a Parquet file that can be read"),
        ("a.zip", zip_of({"a.doc": b"x"}), ": no .txt, .md"),
        ("a.epub", zip_of({"a.txt": b"x"}), ": no META-INF/container.xml in it; this is no EPUB"),
    ],
)
def test_bad_records_name_file_and_line(tmp_path: Path, name: str, content: bytes, expected: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert f"{path}{expected}" in message(path)


def test_reading_goes_on_behind_bad_records_where_asked_to(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "1"}\n{"text"}\n{"text": "2"}\n')
    (tmp_path / "b.json").write_text('[{"text": "3"}, {"x": 0}, {"text": "4"}]')
    (tmp_path / "c.csv").write_text("text,id\n5,0\n6\n7,0\n")
    (tmp_path / "d.txt").write_bytes(b"\0")
    (tmp_path / "e.txt").write_text("8")
    (tmp_path / "f.txt.gz").write_bytes(b"no gzip")
    bad: list[JslmError] = []
    found = [document.text for document in read_documents(DataConfig(source=str(tmp_path)), bad.append)]
    assert found == ["1", "2", "3", "4", "5", "7", "8"]
    assert [str(error).split("/")[-1].split(":")[0] for error in bad] == [
        "a.jsonl",
        "b.json",
        "c.csv",
        "d.txt",
        "f.txt.gz",
    ]


json_values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(st.lists(st.dictionaries(st.text(max_size=3), json_values, max_size=3), max_size=6), st.data())
def test_streamed_json_equals_the_parser(values: list[dict[str, Any]], data: st.DataObject) -> None:
    text = json.dumps(values, indent=data.draw(st.sampled_from([None, 2])))
    if data.draw(st.booleans()):
        text = "\n".join(map(json.dumps, values))
    size = data.draw(st.integers(1, 30))
    blocks = (text[start : start + size] for start in range(0, len(text), size))
    found = list(records._values(blocks, "a.json"))
    assert [value for _, value in found] == values
    assert [line for line, _ in found] == sorted(line for line, _ in found)


HTML = """<!doctype html><html><head><title>Not this</title><style>p {}</style></head><body>
<nav><a href="x">Home</a></nav><h1>The  Fox</h1>
<p>A <i>quick</i> fox &amp;
a&nbsp;hen.<br>New line<script>var x = "<p>";</script></p><p>Second <b>para</b><span> graph</span>
<ul><li>one<li>two</ul><table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table><pre>x
  y</pre>The end.</body></html>"""
HTML_TEXT = (
    "Home\n\nThe Fox\n\nA quick fox & a\xa0hen.\nNew line\n\nSecond para graph\n\n"
    "one\ntwo\n\na\tb\nc\n\nx\n  y\n\nThe end."
)


def test_html_becomes_what_a_browser_shows(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(HTML)
    assert texts(tmp_path) == [HTML_TEXT]
    latin1 = HTML.replace("<head>", '<head><meta charset="iso-8859-1">').replace("hen.", "hén.").encode("latin-1")
    (tmp_path / "a.html").write_bytes(latin1)
    assert texts(tmp_path) == [HTML_TEXT.replace("hen.", "hén.")]


def test_pages_nested_thousands_deep_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("<div>" * 5000 + "deep" + "</div>" * 5000)
    assert texts(tmp_path) == ["deep"]


def make_epub(path: Path, **extra: bytes) -> None:
    opf = """<?xml version="1.0"?><package xmlns="http://www.idpf.org/2007/opf"><manifest>
      <item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>
      <item id="two" href="text/b%20c.xhtml" media-type="application/xhtml+xml"/>
      <item id="one" href="text/z.xhtml" media-type="application/xhtml+xml"/>
      <item id="notes" href="text/n.xhtml" media-type="application/xhtml+xml"/>
      <item id="css" href="a.css" media-type="text/css"/></manifest>
      <spine><itemref idref="nav"/><itemref idref="one"/><itemref idref="two"/><itemref idref="notes" linear="no"/>
      </spine></package>"""
    page = (
        '<?xml version="1.0" encoding="utf-8"?><html><head><title/></head><body><h2>{}</h2><p>Tëxt.</p></body></html>'
    )
    members = {
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": b'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        b'<rootfile full-path="OEBPS/content.opf"/></rootfiles></container>',
        "OEBPS/content.opf": opf.encode(),
        "OEBPS/nav.xhtml": page.format("Contents").encode(),
        "OEBPS/text/z.xhtml": page.format("One").encode(),
        "OEBPS/text/b c.xhtml": page.format("Two").encode(),
        "OEBPS/text/n.xhtml": page.format("Notes").encode(),
    }
    path.write_bytes(zip_of(members | extra))


def test_an_epub_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    make_epub(tmp_path / "a.epub")
    assert texts(tmp_path) == ["One\n\nTëxt.\n\nTwo\n\nTëxt."]
    lock = b'<encryption><CipherData><CipherReference URI="OEBPS/text/z.xhtml"/></CipherData></encryption>'
    make_epub(tmp_path / "a.epub", **{"META-INF/encryption.xml": lock})
    assert "the book is locked (DRM)" in message(tmp_path)
    make_epub(tmp_path / "a.epub", **{"META-INF/encryption.xml": lock.replace(b"text/z.xhtml", b"font.otf")})
    assert len(texts(tmp_path)) == 1


def run_python(code: str, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60, check=False)


def test_standard_input_can_be_read_again_and_again() -> None:
    code = """
from jslm.config import DataConfig
from jslm.text.documents import read_documents, resolve_sources, size_of
config = DataConfig(source="-", format="jsonl")
from jslm.text.readers import sources
print(size_of(resolve_sources(config)), [[d.text for d in read_documents(config)] for _ in range(2)])
print(sources._standard_input())
"""
    done = run_python(code, stdin=b'{"text": "a"}\n{"text": "b"}\n')
    first, copy = done.stdout.decode().splitlines()
    assert first == "(1, 28) [['a', 'b'], ['a', 'b']]"
    assert not os.path.exists(copy)


def _write_stories(folder: Path, rows: int) -> list[Path]:
    """A file of each kind, of so many documents of 20 kB."""
    folder.mkdir()
    story = "".join(random.Random(0).choices("abcdefgh \n", k=20_000))
    paths = [folder / name for name in ("a.jsonl", "a.json", "a.csv", "a.txt", "a.jsonl.zst", "a.parquet")]
    line = json.dumps({"text": story})
    paths[0].write_text(f"{line}\n" * rows)
    paths[1].write_text("[" + ",\n".join([line] * rows) + "]")
    quoted = story.replace('"', "")
    paths[2].write_text("text\n" + f'"{quoted}"\n' * rows)
    paths[3].write_text(f"{story}<|endoftext|>" * rows)
    # As a stream: a frame whose length was known is one window, which whoever reads it has to hold.
    # So much alike that a few bytes stand for megabytes.
    with zstd.open(paths[4], "wb") as file:
        file.write(paths[0].read_bytes())
    # Distinct, or a dictionary would hold the one value. Pages of a megabyte, as is usual: they are read whole.
    table = pa.table({"text": [f"{number} {story}" for number in range(rows)], "id": list(range(rows))})
    pq.write_table(table, paths[5], write_batch_size=32)
    return paths


def test_a_parquet_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, path)
    with pytest.raises(JslmError, match="2 columns are called 'text'; expected one: rename the others"):
        list(read_documents(DataConfig(source=str(path))))
    pq.write_table(pa.table({"text": ["a", "b"]}), path)
    data = bytearray(path.read_bytes())
    data[4] = 0xFF
    path.write_bytes(data)
    with pytest.raises(JslmError, match=r"not a Parquet file that can be read: [^\n]+$"):
        list(read_documents(DataConfig(source=str(path))))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="no way to ask for the peak of memory")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    code = """
import re, sys
from jslm.config import DataConfig
from jslm.text.documents import read_documents
def resident(name):
    # Not getrusage: that counts the process that started this one too, up to its exec.
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
def count(path):
    return sum(1 for _ in read_documents(DataConfig(source=path, separator="<|endoftext|>")))
# What reading takes at all is there then, and the peak so far is forgotten.
count(sys.argv[1])
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
print(count(sys.argv[2]), (resident("VmHWM") - before) / 1024)
"""
    small, large = (_write_stories(tmp_path / str(rows), rows) for rows in (200, 3000))
    for pair in zip(small, large, strict=True):
        done = run_python(code, *map(str, pair))
        count, megabytes = done.stdout.split()
        assert int(count) == 3000, done.stderr
        # 56 MB of text more. What allocators keep of it is a fraction.
        assert float(megabytes) < 35, f"{pair[1].name}: {float(megabytes):.0f} MB"
