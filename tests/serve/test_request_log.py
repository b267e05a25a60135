"""A line a request: what it has, and that neither texts nor keys are in it unless texts were asked for."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from jslm.infer import LanguageModel
from jslm.serve import Limits
from jslm.serve.keyring import Keyring
from jslm.serve.keys import Key, digest
from jslm.serve.request_log import RequestLog

SECRET, PROMPT = "sk-verysecret", "zebra crossing"
KEY = {"Authorization": f"Bearer {SECRET}"}


def lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The lines, once there are so many: one is written after its answer is."""
    deadline = time.monotonic() + 60
    while (raw := path.read_text("utf-8")).count("\n") < count:
        assert time.monotonic() < deadline, raw
        time.sleep(0.01)
    return [json.loads(line) for line in raw.splitlines()]


@pytest.fixture(scope="module")
def logged(
    make_module_site: Callable[..., Any], letters: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    path = tmp_path_factory.mktemp("log") / "requests.jsonl"
    keys = Keyring([Key(name="ana", sha256=digest(SECRET.encode()))])
    log = RequestLog(str(path))
    return make_module_site({"letters": letters}, Limits(slots=4), chat="letters", keys=keys, log=log), path


def test_a_line_a_request(logged: tuple[Any, Path]) -> None:
    site, path = logged
    before = len(path.read_text("utf-8").splitlines())
    body = {"model": "letters", "prompt": PROMPT, "max_tokens": 20, "seed": 1, "user": "user-text"}
    whole = site.post("/v1/completions", body, **KEY)
    site.post("/v1/completions", {**body, "stream": True}, **KEY)
    message = [{"role": "user", "content": PROMPT}]
    site.post("/v1/chat/completions", {"model": "chat", "messages": message, "max_tokens": 5}, **KEY)
    site.post("/v1/rewrite", {"model": "letters", "sentences": [PROMPT], "max_tokens": 5}, **KEY)
    site.post("/v1/completions", {**body, "model": PROMPT}, **KEY)
    site.post("/v1/completions", {**body, "temperature": PROMPT}, **KEY)
    site.post("/v1/completions", body, Authorization="Bearer sk-wrongkey")
    site.request("GET", f"/v1/{PROMPT.replace(' ', '-')}?q=zebra", **KEY)
    site.request("GET", "/v1/models", **KEY)
    for quiet in ("/healthz", "/readyz", "/metrics", "/health"):
        site.request("GET", quiet)
    found = lines(path, before + 10)[before:]
    assert [(line["method"], line["route"], line["model"], line["status"], line["error"]) for line in found] == [
        ("POST", "/v1/completions", "letters", 200, None),
        ("POST", "/v1/completions", "letters", 200, None),
        ("POST", "/v1/chat/completions", "chat", 200, None),
        ("POST", "/v1/rewrite", "letters", 200, None),
        ("POST", "/v1/completions", None, 404, "model_not_found"),
        ("POST", "/v1/completions", None, 400, "invalid_request_error"),
        ("POST", "/v1/completions", None, 401, "invalid_api_key"),
        ("GET", "other", None, 404, None),
        ("GET", "/v1/models", None, 200, None),
        # Of what probes ask for, refusals alone.
        ("GET", "/metrics", None, 401, "invalid_api_key"),
    ]
    assert [line["key"] for line in found] == ["ana"] * 6 + [None] + ["ana"] * 2 + [None]
    usage = whole.json["usage"]
    assert (found[0]["prompt_tokens"], found[0]["completion_tokens"]) == (usage["prompt_tokens"], 20)
    assert (found[1]["prompt_tokens"], found[1]["completion_tokens"]) == (usage["prompt_tokens"], 20)
    assert found[0]["id"] == whole.headers["x-request-id"]
    assert len({line["id"] for line in found}) == len(found)
    for line in found:
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert set(line) == {
            "time", "id", "key", "method", "route", "model", "prompt_tokens", "completion_tokens", "status", "error",
            "first_token_ms", "total_ms",
        }  # fmt: skip
        if line["first_token_ms"] is not None:
            assert 0 < line["first_token_ms"] <= line["total_ms"]
    assert [line["first_token_ms"] is not None for line in found[:4]] == [True] * 4
    raw = path.read_text("utf-8")
    written = whole.json["choices"][0]["text"]
    for text in (SECRET, "sk-wrongkey", digest(SECRET.encode()), "zebra", "user-text", written, "verysecret"):
        assert text not in raw


def test_a_client_that_leaves(logged: tuple[Any, Path]) -> None:
    site, path = logged
    before = len(path.read_text("utf-8").splitlines())
    raw = json.dumps({"model": "letters", "prompt": "", "max_tokens": 1000, "n": 4, "stream": True}).encode()
    connection = socket.create_connection(("127.0.0.1", site.port), timeout=60)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}\r\n"
    connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
    assert connection.recv(64)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    (line,) = lines(path, before + 1)[before:]
    assert (line["status"], line["error"]) == (200, "client_gone")
    site.wait_until_free()


def test_texts_where_they_are_asked_for(make_site: Callable[..., Any], letters: LanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    site = make_site({"letters": letters}, log=RequestLog(str(path), texts=True))
    body = {"model": "letters", "prompt": [PROMPT, "b"], "n": 2, "max_tokens": 6, "seed": 1}
    texts = [choice["text"] for choice in site.post("/v1/completions", body).json["choices"]]
    site.post("/v1/completions", {**body, "stream": True})
    for line in lines(path, 2):
        assert [prompt.removeprefix("<|endoftext|>") for prompt in line["prompts"]] == [PROMPT, "b"]
        assert line["texts"] == texts
    assert path.stat().st_mode & 0o777 == 0o600


def test_the_file_is_opened_again(tmp_path: Path) -> None:
    from jslm.serve.call import Call

    path, moved = tmp_path / "requests.jsonl", tmp_path / "requests.jsonl.1"
    log = RequestLog(str(path))
    log.write(Call(), "GET", "/v1/models", 200)
    path.rename(moved)
    log.write(Call(), "BREW", "/v1/models", 200)
    log.reopen()
    log.write(Call(), "GET", "/v1/models", 404)
    log.close()
    assert [line["method"] for line in lines(moved, 2)] == ["GET", "other"]
    assert [line["status"] for line in lines(path, 1)] == [404]


def test_a_full_disk_stops_no_request(caplog: pytest.LogCaptureFixture) -> None:
    from jslm.serve.call import Call

    log = RequestLog("/dev/full")
    for _ in range(3):
        log.write(Call(), "GET", "/v1/models", 200)
    log.close()
    assert caplog.messages == ["--request-log /dev/full: No space left on device; lines are lost"]


def test_without_a_file_it_is_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    from jslm.serve.call import Call

    RequestLog().write(Call(error="x"), "GET", "/v1/models", 200)
    assert json.loads(capsys.readouterr().err)["error"] == "x"
