"""What passes and what lasts, as the stores' own libraries raise it, and what is done about either."""

from __future__ import annotations

import http.server
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.storage import Objects, StorageError, stores
from jslm.storage.stores import content_version
from jslm.text.documents import read_documents
from tests.quiet_server import QuietServer

# Connections of asynchronous clients live until their event loop ends, with the process: so does what warns of them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


class Answers:
    """A server that answers each request for `x.txt` with the next status of a list, and the last one from then on."""

    def __init__(self) -> None:
        self.statuses: list[int] = []
        self.asked = 0
        answers = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status = 200
                if "x.txt" in self.path or self.command == "POST":
                    answers.asked += 1
                    left = answers.statuses
                    status = left.pop(0) if len(left) > 1 else left[0]
                body = b"text" if status == 200 else b""
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Content-Type", "text/plain")
                self.send_header("ETag", '"1"')
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_PUT = do_POST = do_GET

            def log_message(self, *arguments: Any) -> None:
                pass

        self.server = QuietServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def give(self, *statuses: int) -> None:
        self.statuses, self.asked = list(statuses), 0


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """The server, named to all stores' libraries; no wait between tries is long."""
    found = Answers()
    address = f"http://127.0.0.1:{found.server.server_port}"
    monkeypatch.setattr(stores, "_FIRST_WAIT", 0.001)
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "STORAGE_EMULATOR_HOST": address,
        "NO_GCE_CHECK": "true",
    }.items():
        monkeypatch.setenv(name, value)
    # That there are no credentials: said where an earlier test has configured logging.
    monkeypatch.setattr(logging.getLogger("google.auth._default"), "disabled", True)
    # They are kept by their arguments, and would answer for the server of another test.
    forget_file_systems()
    yield found
    forget_file_systems()
    found.server.shutdown()
    found.server.server_close()


def forget_file_systems() -> None:
    # `fsspec.registry` is the mapping, not the module.
    for system in dict(fsspec.registry).values():
        system.clear_instance_cache()


def place(answers: Answers, scheme: str) -> str:
    return f"http://127.0.0.1:{answers.server.server_port}" if scheme == "http" else f"{scheme}://bucket/d"


SCHEMES = pytest.mark.parametrize("scheme", ["s3", "gs", "http"])


@SCHEMES
@pytest.mark.parametrize("status", [400, 403, 404])
def test_what_lasts_is_told_at_once(
    answers: Answers, scheme: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    answers.give(status)
    objects = Objects(place(answers, scheme))
    if status == 404:
        assert objects.read("x.txt") is None
    else:
        with pytest.raises(StorageError, match="not open to you" if status == 403 else "x.txt|bucket") as caught:
            objects.read("x.txt")
        assert caught.value.is_lasting
    # Some ask in several ways, and none as often as there are tries.
    assert answers.asked < stores.TRIES
    with pytest.raises(
        StorageError, match="not open to you" if status == 403 else "not there|HttpError|OSError|404|400"
    ) as caught:
        objects.write("x.txt", b"text")
    assert caught.value.is_lasting
    answers.give(status)
    said = message(f"{place(answers, scheme)}/x.txt")
    assert "does not exist, or is not open to you" in said if status == 404 else "x.txt" in said
    assert answers.asked < stores.TRIES
    assert capfd.readouterr().err == ""


@SCHEMES
@pytest.mark.parametrize("status", [429, 500, 503])
def test_what_passes_is_waited_for_and_said_once(
    answers: Answers, scheme: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    answers.give(*[status] * 4, 200)
    assert Objects(place(answers, scheme)).read("x.txt") == b"text"
    said = capfd.readouterr().err
    assert said.count("trying again") == said.count("\n") == 1
    answers.give(status)
    with pytest.raises(StorageError) as caught:
        Objects(place(answers, scheme), tries=3).read("x.txt")
    assert not caught.value.is_lasting
    assert 3 <= answers.asked <= 3 * 2
    said = capfd.readouterr().err
    assert said.count("trying again") == said.count("\n") == 1


def test_a_text_on_the_web_is_waited_for(answers: Answers, capfd: pytest.CaptureFixture[str]) -> None:
    answers.give(503, 503, 200)
    (document,) = read_documents(DataConfig(source=f"{place(answers, 'http')}/x.txt"))
    assert document.text == "text"
    assert capfd.readouterr().err.count("trying again") == 1


@SCHEMES
def test_a_server_that_is_not_there_passes(
    answers: Answers, scheme: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stores, "TRIES", 2)
    answers.server.shutdown()
    answers.server.server_close()
    for action in (
        lambda: Objects(place(answers, scheme), tries=2).read("x.txt"),
        lambda: list(read_documents(DataConfig(source=f"{place(answers, scheme)}/x.txt"))),
    ):
        with pytest.raises(StorageError) as caught:
            action()
        assert not caught.value.is_lasting
        said = capfd.readouterr().err
        assert said.count("trying again") == said.count("\n") == 1


def test_no_login_is_told_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_file_systems()
    with pytest.raises(StorageError, match=r"log in to the store on this machine \(docs/cloud\.md\)") as caught:
        Objects("s3://bucket/d").read("x.txt")
    forget_file_systems()
    assert caught.value.is_lasting


def test_versions_that_promise_nothing_are_none() -> None:
    assert content_version({"ETag": 'W/"a"', "size": 3, "LastModified": "today"}) == ""
    assert content_version({"ETag": '"a"', "Content-MD5": "b"}) == 'ETag="a" Content-MD5=b'


def message(source: str) -> str:
    with pytest.raises(JslmError) as caught:
        list(read_documents(DataConfig(source=source)))
    assert "\n" not in str(caught.value)
    return str(caught.value)
