"""`jslm convert push` to a server on loopback that speaks as the Hugging Face Hub does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

import jslm
from jslm.config import config_from_dict
from jslm.convert.__main__ import main
from jslm.formats import load_model
from jslm.formats.portable import write
from jslm.model import init_params
from jslm.runs.bundle import Bundle
from jslm.tokenizer import ByteTokenizer
from tests.convert.hub_server import TOKEN, Hub

constants = pytest.importorskip("huggingface_hub.constants", reason="huggingface_hub is not installed")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A portable file whose config says something for the card."""
    values = {"n_layers": 1, "d_model": 32, "n_heads": 2, "context_length": 32, "vocab_size": 257}
    card = {"license": "mit", "description": "A model that knows nothing."}
    config = config_from_dict({"model": {**values, "dtype": "float32"}, "card": card}, "test")
    params = init_params(config.model, jax.random.key(0))
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write(Bundle(config, params, ByteTokenizer(), figures={"val/loss": 1.5}), path, "float32")
    return path


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    yield found
    found.close()


Push = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def push(model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Push:
    """`push(endpoint, *arguments, token=...)`: the command in this process."""
    for name in [name for name in os.environ if name.startswith("HF_")]:
        monkeypatch.delenv(name)
    # What the library reads of the environment as it is imported, which other tests may have done; see below.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(model.parent / "home" / "token"))

    def run(endpoint: str, *arguments: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("HF_ENDPOINT", endpoint)
        if token is None:
            monkeypatch.delenv("HF_TOKEN", raising=False)
        else:
            monkeypatch.setenv("HF_TOKEN", token)
        capfd.readouterr()
        status = main(["push", str(model), *arguments])
        return subprocess.CompletedProcess(arguments, status, *capfd.readouterr())

    return run


def push_as_users_do(
    model: Path, endpoint: str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    # Xet is a protocol of the Hub's own storage; by its switch the library speaks git-lfs, which any server can.
    settings = {"HF_HUB_DISABLE_XET": "1", "HF_HOME": str(model.parent / "home"), "HF_TOKEN": TOKEN, **environment}
    command = [sys.executable, "-m", "jslm.convert", "push", str(model), *arguments]
    env = {**kept, **settings, "HF_ENDPOINT": endpoint}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.parametrize("format", ["hf", "gguf", "safetensors"])
def test_what_is_pushed_is_the_model(model: Path, push: Push, hub: Hub, tmp_path: Path, format: str) -> None:
    if format == "gguf":
        pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")
    arguments = [hub.endpoint, "ada/tiny", "--format", format]
    done = push_as_users_do(model, *arguments) if format == "hf" else push(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == f"{hub.endpoint}/ada/tiny"
    assert hub.commits == [f"tiny as {format}, by jslm"]
    repository = hub.repositories["ada/tiny"]
    assert repository["private"] is False
    for name, data in repository["files"].items():
        (tmp_path / name).write_bytes(data)
    target = {"hf": tmp_path, "gguf": tmp_path / "model.gguf", "safetensors": tmp_path / "model.safetensors"}[format]
    before, after = jslm.load(model), jslm.load(target)
    assert after.generate("ab", greedy=True, max_new_tokens=16) == before.generate("ab", greedy=True, max_new_tokens=16)
    card = repository["files"]["README.md"].decode()
    assert "\n# tiny\n" in card
    assert 'license: "mit"' in card
    assert "A model that knows nothing." in card
    assert "| Weights | float32 |" in card
    if format == "hf":
        assert 'from_pretrained("ada/tiny")' in card
    assert str(model.parent) not in card


def test_a_further_push_and_private_ones(push: Push, hub: Hub) -> None:
    first = push(hub.endpoint, "ada/mine", "--private", "--dtype", "float16")
    assert first.returncode == 0, first.stderr
    assert hub.repositories["ada/mine"]["private"] is True
    again = push(hub.endpoint, "ada/mine", "--private")
    assert again.returncode == 0, again.stderr
    assert len(hub.commits) == 2
    hub.repositories["ada/mine"]["private"] = False
    refused = push(hub.endpoint, "ada/mine", "--private")
    assert refused.returncode == 2
    assert "ada/mine: is there already, and public" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert len(hub.commits) == 2


@pytest.mark.parametrize(
    ("arguments", "token", "answers", "message"),
    [
        (["ada/tiny"], None, {}, "no token for http://127.0.0.1"),
        (["ada/tiny"], "hf_bad", {}, "does not take the token (401): make one with write access at http://127"),
        (["bob/tiny"], TOKEN, {}, "nothing there for bob/tiny (404): check the name 'bob'"),
        (["ada/tiny"], TOKEN, {"/repos/create": 403}, "may not write to ada/tiny (403)"),
        (["ada/tiny"], TOKEN, {"/commit/": 400}, "refused ada/tiny (400): forced 400"),
        (["ada/tiny"], TOKEN, {"/validate-yaml": 404}, "(404)"),
        (["tiny"], TOKEN, {}, "'tiny': expected user/name"),
        (["a/b/c"], TOKEN, {}, "'a/b/c': expected user/name"),
        (["ada/../x"], TOKEN, {}, "expected user/name"),
        (["ada/tiny", "--format", "nope"], TOKEN, {}, "no such format; there are"),
        (["ada/tiny", "--format", "llama2c"], TOKEN, {}, "llama2.c cannot express"),
    ],
)
def test_failures_are_one_line_with_what_to_do(
    push: Push, hub: Hub, arguments: list[str], token: str | None, answers: dict[str, int], message: str
) -> None:
    hub.answers = answers
    done = push(hub.endpoint, *arguments, token=token)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert not hub.commits
    # The token is no part of what is said.
    assert TOKEN not in done.stderr


def test_a_network_that_is_dead(model: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
    done = push_as_users_do(model, endpoint, "ada/tiny")
    assert done.returncode == 2
    assert done.stderr.startswith(f"jslm convert: error: {endpoint}: cannot be reached (ConnectError:")
    assert "HF_ENDPOINT" in done.stderr
    assert done.stderr.count("\n") == 1
    offline = push_as_users_do(model, endpoint, "ada/tiny", HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in offline.stderr
    assert offline.stderr.count("\n") == 1


def test_the_order_of_requests(model: Path, push: Push, hub: Hub) -> None:
    """Nothing is made on the server before the export is whole."""
    assert push(hub.endpoint, "ada/tiny", "--format", "llama2c").returncode == 2
    assert not hub.requests
    assert push(hub.endpoint, "ada/tiny").returncode == 0
    # The library asks for a list of its own first.
    posts = [path for method, path in hub.requests if method == "POST"]
    assert (posts[0], posts[-1]) == ("/api/repos/create", "/api/models/ada/tiny/commit/main")
    assert load_model(model).config.card.license == "mit"
