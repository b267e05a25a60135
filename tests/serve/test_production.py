"""Processes as they are in production: started, probed, reloaded, drained and killed, over HTTP and HTTPS."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.errors import JslmError
from jslm.infer import LanguageModel
from jslm.serve import Limits, ServedModel, create_app
from jslm.serve.__main__ import main
from jslm.serve.keys import digest
from jslm.serve.server import Server, open_socket
from jslm.serve.starting import REASON, Starting
from jslm.serve.tls import open_tls

LONG = {"prompt": "", "seed": 1, "max_tokens": 1000, "stream": True}


def certificate(folder: Path, name: str, *more: str) -> tuple[str, str]:
    """A self-signed pair for 127.0.0.1, made by the command openssl."""
    cert, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key]
    subprocess.run([*command, *(more or ("-nodes",))], check=True, capture_output=True)
    os.chmod(key, 0o600)
    return cert, key


class Process:
    """A server in a process of its own, and what it says."""

    def __init__(self, *arguments: str, trusts: str | None = None) -> None:
        command = [sys.executable, "-m", "jslm.serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.said: list[str] = []
        self._trusts = trusts
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def __enter__(self) -> Process:
        self.port = int(self.wait_for(r"https?://127\.0\.0\.1:(\d+)")[1])
        self.until(lambda: self.ask("/readyz")[0] == 200)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(60)
        self._reader.join(60)
        assert self.process.stderr is not None
        self.process.stderr.close()

    def until(self, true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 600
        while not true():
            assert time.monotonic() < deadline, "".join(self.said)
            assert self.process.poll() is None, "".join(self.said)
            time.sleep(0.05)

    def wait_for(self, pattern: str) -> re.Match[str]:
        found: list[re.Match[str]] = []

        def seen() -> bool:
            found[:] = [match for line in list(self.said) if (match := re.search(pattern, line))]
            return bool(found)

        self.until(seen)
        return found[0]

    def connect(self) -> http.client.HTTPConnection:
        if self._trusts is None:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        context = ssl.create_default_context(cafile=self._trusts)
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=120, context=context)

    def ask(self, path: str, body: dict[str, Any] | None = None, key: str = "") -> tuple[int, Any, dict[str, str]]:
        with contextlib.closing(self.connect()) as connection:
            response = self._send(connection, path, body, key)
            raw = response.read()
            return response.status, json.loads(raw), {k.lower(): v for k, v in response.getheaders()}

    @contextlib.contextmanager
    def stream(self, body: dict[str, Any], key: str = "") -> Iterator[http.client.HTTPResponse]:
        """A stream that has begun."""
        with contextlib.closing(self.connect()) as connection:
            response = self._send(connection, "/v1/completions", {**LONG, **body}, key)
            assert response.status == 200
            assert response.readline().startswith(b"data: ")
            yield response

    def _send(
        self, connection: http.client.HTTPConnection, path: str, body: dict[str, Any] | None, key: str
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
        return connection.getresponse()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.said.extend(iter(self.process.stderr.readline, ""))


@pytest.fixture(scope="module")
def two(runs: Path) -> list[str]:
    """Two models, as options."""
    return ["--run", str(runs / "letters"), "--run", str(runs / "bytes"), "--max-slots", "2"]


def rest_of(response: http.client.HTTPResponse) -> list[Any]:
    """The events that are left, the last of which must say that it is one."""
    events = [line.removeprefix("data: ") for line in response.read().decode().strip().split("\n\n")]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


def is_cut_off(response: http.client.HTTPResponse) -> bool:
    """Whether the connection ends before the answer does."""
    try:
        response.read()
    except (http.client.IncompleteRead, ConnectionError):
        return True
    return False


@pytest.mark.slow
def test_two_models_keys_tls_a_log_and_a_drain(two: list[str], tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "first")
    keys, log = tmp_path / "keys.toml", tmp_path / "requests.jsonl"

    def write_keys(*names: str) -> None:
        keys.write_text(
            "".join(
                f'[[key]]\nname = "{name}"\nsha256 = "{digest(name.encode())}"\nmodels = ["{name.split("-")[0]}"]\n'
                for name in names
            ),
            "utf-8",
        )

    write_keys("letters", "bytes")
    options = ["--keys", str(keys), "--tls-cert", cert, "--tls-key", key, "--request-log", str(log)]
    options += ["--drain-seconds", "600"]
    with Process(*two, *options, trusts=cert) as server:
        assert "everybody on this machine can read it" in "".join(server.said)
        # Each key has its own model, in one process.
        body = {"prompt": "secret words", "max_tokens": 4}
        for name, other in (("letters", "bytes"), ("bytes", "letters")):
            status, answer, _ = server.ask("/v1/completions", {"model": name, **body}, name)
            assert (status, answer["model"]) == (200, name)
            assert server.ask("/v1/completions", {"model": other, **body}, name)[0] == 403
            assert [model["id"] for model in server.ask("/v1/models", key=name)[1]["data"]] == [name]
        assert server.ask("/v1/models")[0] == 401
        # Plain HTTP gets no answer from it.
        plain = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        plain.request("GET", "/healthz")
        with pytest.raises((http.client.HTTPException, OSError)):
            plain.getresponse()
        plain.close()

        # SIGHUP: another key, another certificate, and a log that logrotate has moved away.
        write_keys("letters-2")
        second, second_key = certificate(tmp_path, "second")
        os.replace(second, cert)
        os.replace(second_key, key)
        log.rename(tmp_path / "moved.jsonl")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("certificate read again")
        assert server.ask("/v1/models", key="letters")[0] == 401
        assert server.ask("/v1/models", key="letters-2")[0] == 200
        assert "second" in _subject(server)
        # What is broken changes nothing.
        Path(key).write_text("nothing", "ascii")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("the certificate of before stays in use")
        assert server.ask("/healthz")[0] == 200

        with server.stream({"model": "letters", "n": 4}, "letters-2") as stream:
            server.process.send_signal(signal.SIGTERM)
            server.until(lambda: server.ask("/readyz")[0] == 503)
            status, answer, headers = server.ask("/readyz")
            assert (answer["status"], answer["reason"]) == ("draining", "the server is shutting down")
            assert server.ask("/healthz")[0] == 200
            status, answer, headers = server.ask("/v1/completions", {"model": "letters", **body}, "letters-2")
            assert (status, answer["error"]["code"]) == (503, "draining")
            assert (headers["retry-after"], headers["connection"]) == ("1", "close")
            events = rest_of(stream)
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert server.process.wait(60) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    raw = (tmp_path / "moved.jsonl").read_text("utf-8") + log.read_text("utf-8")
    logged = [json.loads(line) for line in raw.splitlines()]
    assert "secret words" not in raw
    assert [(line["key"], line["model"]) for line in logged if line["completion_tokens"]] == [
        ("letters", "letters"), ("bytes", "bytes"), ("letters-2", "letters"),
    ]  # fmt: skip
    assert logged[-1]["completion_tokens"] > 500


def _subject(server: Process) -> str:
    """Of the certificate that the server shows."""
    pem = ssl.get_server_certificate(("127.0.0.1", server.port))
    done = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, capture_output=True, text=True)
    return done.stdout


@pytest.mark.slow
def test_a_second_signal_ends_at_once(two: list[str]) -> None:
    with Process(*two, "--request-log", os.devnull) as server, server.stream({"model": "letters", "n": 100}) as stream:
        server.process.send_signal(signal.SIGTERM)
        server.until(lambda: server.ask("/readyz")[0] == 503)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == -signal.SIGTERM
        assert is_cut_off(stream)


def test_probes_are_answered_while_models_are_read(letters: LanguageModel) -> None:
    reading = threading.Event()
    limits = Limits(slots=1)

    def make() -> Any:
        assert reading.wait(120)
        return create_app({"letters": ServedModel("letters", letters, limits)}, limits)

    def ask(method: str, path: str) -> tuple[int, Any, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read()), answer.headers["Retry-After"]

    listener = open_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    app = Starting(make)
    ready = threading.Event()
    app.on_ready = ready.set
    server = Server(app, drain_seconds=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        assert [ask("GET", path)[0] for path in ("/health", "/healthz")] == [200, 200]
        for path in ("/ready", "/readyz"):
            assert ask("GET", path) == (503, {"status": "starting", "reason": REASON}, "1")
        status, answer, wait = ask("POST", "/v1/completions")
        assert (status, answer["error"]["code"], wait) == (503, "starting", "1")
        reading.set()
        assert ready.wait(120)
        deadline = time.monotonic() + 600
        reasons = set()
        while (found := ask("GET", "/readyz"))[0] != 200:
            reasons.add(found[1]["reason"])
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert reasons <= {REASON, "programs are being compiled"}
    finally:
        reading.set()
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def test_a_bad_pair_is_one_line(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path, "one")
    other = certificate(tmp_path, "other")[1]
    locked = certificate(tmp_path, "locked", "-passout", "pass:words")[1]
    cut = tmp_path / "cut.pem"
    cut.write_text(Path(cert).read_text("ascii")[:200], "ascii")
    assert open_tls(None, None) is None
    assert open_tls(cert, key) is not None
    for pair, message in (
        ((cert, None), "--tls-cert without --tls-key: TLS needs both"),
        ((None, key), "--tls-key without --tls-cert: TLS needs both"),
        ((str(tmp_path / "no"), key), f"--tls-cert {tmp_path}/no: cannot be read: No such file or directory"),
        ((cert, str(tmp_path)), f"--tls-key {tmp_path}: cannot be read: Is a directory"),
        ((key, cert), f"--tls-cert {key}: found no CERTIFICATE"),
        ((cert, cert), f"--tls-key {cert}: found no PRIVATE KEY"),
        ((cert, other), "the key is not that of the certificate"),
        ((cert, locked), f"openssl pkey -in {locked}"),
        ((str(cut), key), "OpenSSL does not take them"),
    ):
        with pytest.raises(JslmError) as error:
            open_tls(*pair)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run is missing"),
        (["--run", "m", "--keys", "nowhere.toml"], "--keys nowhere.toml: cannot be read: No such file or directory"),
        (["--run", "m", "--tls-cert", "c"], "--tls-cert without --tls-key"),
        (["--run", "m", "--request-log", "/nowhere/log"], "/nowhere/log: No such file or directory"),
    ],
)
def test_a_bad_option_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert main(["--port", "0", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
