"""Files elsewhere through fsspec: in its memory, on a web server and on a Hugging Face Hub of this machine."""

from __future__ import annotations

import functools
import gzip
import http.server
import importlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.installation import install_command
from jslm.storage import stores
from jslm.text.documents import read_documents, resolve_sources, size_of
from jslm.text.readers.remote import find_remote
from tests.quiet_server import QuietServer
from tests.text.hub import hub


def texts(source: str | list[str], **settings: Any) -> list[str]:
    return [document.text for document in read_documents(DataConfig(source=source, **settings))]


def message(source: str, **settings: Any) -> str:
    with pytest.raises(JslmError) as caught:
        texts(source, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def parquet(*stories: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": list(stories)}), out)
    return out.getvalue()


@pytest.fixture
def memory() -> Iterator[None]:
    system = fsspec.filesystem("memory")
    for name, data in {
        "a.txt": b"A",
        "b.jsonl.gz": gzip.compress(b'{"text": "B"}\n'),
        "in/c.parquet": parquet("C", "D"),
        "in/picture.png": b"\x89PNG",
        ".git/x.txt": b"hidden",
    }.items():
        system.pipe(f"/corpus/{name}", data)
    yield
    system.rm("/corpus", recursive=True)


@pytest.mark.usefixtures("memory")
def test_folders_globs_and_files_of_a_file_system_elsewhere() -> None:
    assert texts("memory://corpus") == ["A", "B", "C", "D"]
    assert texts("memory://corpus/**/*.parquet") == ["C", "D"]
    assert texts(["memory://corpus/b.jsonl.gz", "memory://corpus/a.txt", "memory://corpus"]) == ["B", "A", "C", "D"]
    files, size = size_of(resolve_sources(DataConfig(source="memory://corpus")))
    assert (files, size) == (3, sum(size for _, size, _ in find_remote("memory://corpus")))
    (document,) = read_documents(DataConfig(source="memory://corpus/a.txt"))
    assert document.source == "memory:///corpus/a.txt"


@pytest.mark.usefixtures("memory")
def test_what_is_not_there_says_so() -> None:
    assert "memory://corpus/none.txt does not exist" in message("memory://corpus/none.txt")
    assert "no file matches memory://corpus/*.csv" in message("memory://corpus/*.csv")
    assert "no-such-protocol" in message("no-such-protocol://x/y.txt")


def test_a_protocol_without_its_package_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    # Kept where another test has opened such an address.
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "gs", raising=False)
    assert message("gs://bucket/a.txt").startswith(
        f"data.source: gs://bucket/a.txt needs the package gcsfs: {install_command('cloud')}"
    )


class Handler(http.server.SimpleHTTPRequestHandler):
    """Quiet, and with an error for some names."""

    def do_GET(self) -> None:
        if "broken" in self.path:
            self.send_error(500)
        else:
            super().do_GET()

    def do_HEAD(self) -> None:
        if "broken" in self.path:
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
        else:
            super().do_HEAD()

    def log_message(self, *arguments: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "a.txt").write_text("A café.")
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(b'{"text": "B"}\n' * 3))
    (tmp_path / "c.parquet").write_bytes(parquet("C", "D"))
    with QuietServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


# aiohttp's connections live until their event loop ends, with the process: so does what warns of them.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_files_on_the_web(web: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "TRIES", 1)
    assert texts(f"{web}/a.txt") == ["A café."]
    assert texts(f"{web}/b.jsonl.gz?download=1") == ["B"] * 3
    assert texts(f"{web}/c.parquet") == ["C", "D"]
    assert texts(f"{web}/*.txt") == ["A café."]
    assert texts(f"{web}/") == ["A café.", "B", "B", "B", "C", "D"]
    assert f"{web}/none.txt does not exist" in message(f"{web}/none.txt")
    assert f"{web}/broken.txt: cannot be read: " in message(f"{web}/broken.txt")
    assert "127.0.0.1:9/x.txt: cannot be read" in message("http://127.0.0.1:9/x.txt")


HUB_FILES = {
    "default/train/0000.parquet": parquet("one", "two"),
    "default/train/0001.parquet": parquet("three"),
    "default/test/0000.parquet": parquet("four"),
    "large/partial-train/0000.parquet": parquet("five"),
}


def test_hugging_face_data_sets_by_their_id() -> None:
    code = """
import json, sys
from jslm.config import DataConfig
from jslm.text.documents import read_documents
from jslm.errors import JslmError
for source in json.load(sys.stdin):
    try:
        print([d.text for d in read_documents(DataConfig(source=source))])
    except JslmError as error:
        print(error)
"""
    sources = [
        "hf-dataset:owner/name",
        "hf-dataset:owner/name:test",
        "hf-dataset:owner/name/large",
        "hf-dataset:owner/name/default:none",
        "hf-dataset:nobody/none",
        "hf-dataset:owner/name/a/b",
        "hf://datasets/owner/name@refs/convert/parquet/default/test/*.parquet",
    ]
    with hub(HUB_FILES) as served:
        # In a process of its own: huggingface_hub reads the address of the Hub when it is imported.
        done = subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(sources),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **served.environment},
        )
    lines = done.stdout.splitlines()
    assert lines[:3] == ["['one', 'two', 'three']", "['four']", "['five']"], done.stderr
    assert lines[3].endswith("has no split 'none'; it has test, train")
    assert "hf-dataset:nobody/none does not exist, or is not open to you" in lines[4]
    assert "is not a dataset id" in lines[5]
    assert lines[6] == "['four']"
