from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jslm.config import config_from_dict
from jslm.infer import load
from jslm.serve import Limits
from jslm.serve.__main__ import main
from jslm.serve.models import open_models
from jslm.train import train

STORY = "the cat sat on a mat and saw one big red dog near my old tree while rain fell down"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder after a few seconds of training."""
    folder = tmp_path_factory.mktemp("serve")
    choice = random.Random(0)
    sentences = (" ".join(choice.choice(STORY.split()) for _ in range(8)) + "." for _ in range(1000))
    (folder / "text.txt").write_text("\n".join(sentences), "utf-8")
    values = {
        "run_dir": str(folder / "tiny-story"),
        "data": {"source": str(folder / "text.txt"), "split": "position"},
        "tokenizer": {"kind": "bpe", "vocab_size": 384},
        "model": {"n_layers": 2, "d_model": 32, "n_heads": 2, "context_length": 512, "dtype": "float32"},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 5},
        "train": {
            "steps": 40, "batch_size": 4, "eval_every": 0, "eval_batches": 1, "tensorboard": False, "report": False,
        },
    }  # fmt: skip
    train(config_from_dict(values, "test"))
    return folder / "tiny-story"


@contextlib.contextmanager
def serving(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "jslm.serve", "--port", "0", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}) as process:
        assert process.stderr is not None
        line = next((line for line in process.stderr if "http://" in line), "")
        reader = threading.Thread(target=process.stderr.read)
        reader.start()
        try:
            assert "http://127.0.0.1:" in line
            yield process, int(line.split("http://127.0.0.1:")[1].split()[0])
        finally:
            process.kill()
            reader.join(30)


def ask(port: int, path: str, body: dict[str, Any] | None = None, **headers: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/json", **headers}
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    raw = response.read()
    connection.close()
    return response.status, raw


def wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + 600
    while ask(port, "/ready")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def text_of(raw: bytes) -> str:
    events = [line.removeprefix("data: ") for line in raw.decode().strip().split("\n\n")]
    assert events[-1] == "[DONE]", events[-1]
    return "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1])


@pytest.mark.slow
def test_sigterm_under_load_finishes_what_runs(run: Path) -> None:
    model = load(run)
    wanted = [model.generate("the", seed=seed, max_new_tokens=300) for seed in range(8)]
    found: dict[int, str] = {}
    with serving("--run", str(run), "--max-slots", "8") as (process, port):
        wait_until_ready(port)

        def call(seed: int) -> None:
            body = {"model": "tiny-story", "prompt": "the", "seed": seed, "max_tokens": 300, "stream": True}
            found[seed] = text_of(ask(port, "/v1/completions", body)[1])

        threads = [threading.Thread(target=call, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        while b'jslm_slots_taken{model="tiny-story"} 8' not in ask(port, "/metrics")[1] and not found:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        assert process.wait(30) == 0
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
    assert [found[seed] for seed in range(8)] == wanted


@pytest.mark.slow
def test_what_does_not_finish_in_the_drain_is_told(run: Path) -> None:
    with serving("--run", str(run), "--max-slots", "1", "--drain-seconds", "0") as (process, port):
        wait_until_ready(port)
        answers: list[bytes] = []

        def call() -> None:
            body = {"model": "tiny-story", "prompt": "", "n": 60, "max_tokens": 500, "stream": True}
            answers.append(ask(port, "/v1/completions", body)[1])

        thread = threading.Thread(target=call)
        thread.start()
        while b'jslm_slots_taken{model="tiny-story"} 1' not in ask(port, "/metrics")[1]:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        thread.join(30)
        assert process.wait(30) == 0
    assert json.loads(answers[0].strip().split(b"data: ")[-1])["error"]["code"] == "stopped"


@pytest.mark.slow
def test_several_runs_a_key_and_a_chat_template(run: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copied"
    subprocess.run(["cp", "-r", str(run), str(copied)], check=True)
    (copied / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}", "utf-8")
    key = {"Authorization": "Bearer k1"}
    arguments = ["--run", str(run), "--run", str(copied), "--max-slots", "2", "sample.temperature=0"]
    with serving(*arguments, JSLM_SERVE_KEY="k1") as (_, port):
        wait_until_ready(port)
        assert ask(port, "/v1/models")[0] == 401
        assert ask(port, "/v1/models", None, Host=f"evil.example:{port}", **key)[0] == 421
        models = json.loads(ask(port, "/v1/models", None, **key)[1])["data"]
        assert [(m["id"], m["chat"], m["defaults"]["temperature"]) for m in models] == [
            ("tiny-story", False, 0),
            ("copied", True, 0),
        ]
        body = {"model": "copied", "messages": [{"role": "user", "content": "the cat"}], "max_tokens": 20}
        answer = json.loads(ask(port, "/v1/chat/completions", body, **key)[1])
        model = load(run)
        wanted = model.generate("the cat", greedy=True, max_new_tokens=20, document_start=False)
        assert answer["choices"][0]["message"]["content"] == wanted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--run", "nowhere"], "nowhere: no such run folder or model file"),
        (["--run", "RUN", "--run", "RUN"], "another model here is called 'tiny-story' too"),
        (["--run", "RUN", "--port", "70000"], "--port 70000: expected 0 to 65535"),
        (["--run", "RUN", "--host", "203.0.113.7"], "--host 203.0.113.7 --port 0: cannot listen there"),
        (["--run", "RUN", "--max-queue", "0"], "--max-queue 0: expected 1 or more"),
        (["--run", "RUN", "--max-seconds", "nan"], "--max-seconds nan: expected 1 or more"),
        (["--run", "RUN", "--drain-seconds", "-1"], "--drain-seconds -1.0: expected 0 or more"),
        (["--run", "RUN", "--api-key-file", "EMPTY"], "empty; expected the API key"),
        (["--run", "RUN", "--api-key-file", "nowhere"], "nowhere: cannot be read: No such file or directory"),
        (["--run", "RUN", "--checkpoint", "7"], "no checkpoint '7'"),
        (["--run", "RUN", "model.d_model=8"], "model.d_model is fixed once a model is trained"),
    ],
)
def test_a_bad_start_is_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    empty = tmp_path / "key"
    empty.write_text("\n", "utf-8")
    names = {"RUN": str(run), "EMPTY": str(empty)}
    port = [] if "--port" in arguments else ["--port", "0"]
    assert main([*port, *(names.get(argument, argument) for argument in arguments)]) == 2
    error = capsys.readouterr().err.strip()
    assert error.count("\n") == 0
    assert error.startswith("jslm serve: error: ")
    assert message in error


def test_a_port_in_use_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["--run", str(run), "--port", str(port)]) == 2
    assert f"--port {port}: cannot listen there (Address already in use)" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [b"{% for", b"\xff\xfe{"])
def test_a_damaged_chat_template_keeps_from_chat_alone(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
) -> None:
    shutil.copytree(run, tmp_path / "broken")
    (tmp_path / "broken" / "chat_template.jinja").write_bytes(damage)
    served = open_models([str(tmp_path / "broken"), str(run)], Limits())
    assert [one.chat for one in served.values()] == [None, None]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "chat template" in said[0]
    assert "\n" not in said[0]


@pytest.mark.parametrize(
    ("arguments", "key", "warns"),
    [
        (["--host", "0.0.0.0"], None, True),
        (["--host", "::"], None, True),
        (["--host", "0.0.0.0"], "a key", False),
        (["--host", "127.0.0.1"], None, False),
        ([], None, False),
    ],
)
def test_listening_to_all_without_a_key_warns(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    arguments: list[str],
    key: str | None,
    *,
    warns: bool,
) -> None:
    monkeypatch.setattr("jslm.serve.command.open_models", lambda *given, **more: {})
    monkeypatch.setattr("jslm.serve.command.create_app", lambda *given, **more: None)
    monkeypatch.setattr("jslm.serve.command.serve", lambda *given, **more: 0)
    if key is None:
        monkeypatch.delenv("JSLM_SERVE_KEY", raising=False)
    else:
        monkeypatch.setenv("JSLM_SERVE_KEY", key)
    with caplog.at_level(logging.WARNING, "jslm"):
        assert main(["--run", "nowhere", "--port", "0", *arguments]) == 0
    said = [record.getMessage() for record in caplog.records if "without an API key" in record.getMessage()]
    assert len(said) == warns
    # What it advises is there, and the cases above show that it helps.
    assert all(word in line for line in said for word in ("--api-key-file", "JSLM_SERVE_KEY", arguments[1]))
