"""Tiny models, an engine to itself, and the real application on a real port of this machine."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm.config import config_from_dict
from jslm.infer import LanguageModel
from jslm.infer.job import Job, Piece, Token
from jslm.model import param_shapes
from jslm.runs.bundle import Bundle
from jslm.runs.model import write_run
from jslm.serve import Engine, Limits, ServedModel, create_app
from jslm.serve.server import Server, open_socket
from jslm.tokenizer import ByteTokenizer

LONG = 1024
LIMITS = Limits(slots=4, queue=8, samples=12, seconds=120.0, body_bytes=100_000)
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}"
)


def _bundle(letters: bool, **keys: Any) -> Bundle:
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "d_ff": 16, "context_length": 64}
    values = {"model": {**shape, "vocab_size": 257, "dtype": "float32", **keys}, "sample": {"temperature": 1.0}}
    if letters:
        values["model"] |= {"norm": "layernorm", "tie_embeddings": False}
    if "conditions" in keys:
        values["data"] = {"packing": "documents"}
    config = config_from_dict(values, "test")
    noise = np.random.default_rng(3)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        start = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return start + 0.5 * noise.standard_normal(leaf.shape, np.float32)

    params: Any = jax.tree_util.tree_map_with_path(fill, param_shapes(config.model))
    if letters:
        # The last norm's bias favours the rows of a to z, and is against end of text.
        table, bias = params["head"]["tokens"], params["final_norm"]["bias"]
        table[:, 0], bias[0] = -3.0, 10.0
        table[ord("a") : ord("z") + 1, 0] = 3.0
        table[256] = 0.0
        table[256, 0] = -3.0
    return Bundle(config, params, ByteTokenizer(), source="test")


def _model(letters: bool, **keys: Any) -> LanguageModel:
    made = _bundle(letters, **keys)
    return LanguageModel(made.config, jax.tree.map(jax.numpy.asarray, made.params), made.tokenizer)


@pytest.fixture(scope="session")
def bytes_model() -> LanguageModel:
    """Writes arbitrary bytes, and ends by itself now and then."""
    return _model(letters=False)


@pytest.fixture(scope="session")
def letters() -> LanguageModel:
    """Writes the letters a to z up to the end of its long context."""
    return _model(letters=True, context_length=LONG)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two run folders, `letters` and `bytes`."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(_bundle(letters=True, context_length=LONG), folder / "letters")
    write_run(_bundle(letters=False), folder / "bytes")
    return folder


@pytest.fixture(scope="session")
def styled() -> LanguageModel:
    """Was trained with two conditions."""
    conditions = [{"name": "style", "labels": ["formal", "casual"]}, {"name": "tone", "labels": ["kind"]}]
    return _model(letters=False, context_length=256, conditions=conditions)


@dataclass
class Heard:
    """What an engine has told of one sample."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    prompt_tokens: list[Token] = field(default_factory=list)
    finish_reason: str | None = None
    failure: str | None = None
    pieces: int = 0


class Caller:
    """A job, and what comes of it."""

    def __init__(self, engine: Engine, served: ServedModel, prompts: Sequence[Any], **values: Any) -> None:
        writes = values.pop("writes", True)
        if values.pop("wants_top", False):
            values["top_logprobs"] = 20
        scores = values.pop("scores_prompt", False)
        deadline = values.pop("deadline", float("inf"))
        samples = served.samples(prompts, served.request(values), scores_prompt=scores, writes=writes)
        self.heard = [Heard() for _ in samples]
        self.job = Job(served.name, samples, self._tell, deadline)
        self._open = len(samples)
        self._done = threading.Event()
        self.begun = threading.Event()
        engine.submit(self.job)

    def wait(self) -> list[Heard]:
        assert self._done.wait(60), "the engine never finished"
        return self.heard

    def _tell(self, piece: Piece) -> None:
        heard = self.heard[piece.sample]
        heard.text += piece.text
        heard.tokens += piece.tokens
        heard.prompt_tokens += piece.prompt_tokens
        heard.finish_reason, heard.failure = piece.finish_reason, piece.failure
        heard.pieces += 1
        self.begun.set()
        if piece.finish_reason or piece.failure:
            self._open -= 1
            if not self._open:
                self._done.set()


@dataclass
class Bench:
    """An engine, its models, and a way to ask."""

    engine: Engine
    served: dict[str, ServedModel]

    def ask(self, name: str, prompts: Sequence[Any], **values: Any) -> Caller:
        return Caller(self.engine, self.served[name], prompts, **values)

    def wait_until_free(self) -> None:
        deadline = time.monotonic() + 30
        while not self.engine.idle:
            assert time.monotonic() < deadline, "slots leaked"
            time.sleep(0.005)


@contextlib.contextmanager
def _bench(models: dict[str, LanguageModel], limits: Limits) -> Iterator[Bench]:
    served = {name: ServedModel(name, model, limits) for name, model in models.items()}
    engine = Engine(models, limits)
    engine.start()
    _wait_until_ready(engine)
    try:
        yield Bench(engine, served)
    finally:
        engine.stop()


@pytest.fixture(scope="session")
def bench(bytes_model: LanguageModel, letters: LanguageModel) -> Iterator[Bench]:
    with _bench({"bytes": bytes_model, "letters": letters}, LIMITS) as found:
        yield found
        found.wait_until_free()


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    """`make_bench({name: model}, limits)`: an engine that a test may break."""
    with contextlib.ExitStack() as stack:
        yield lambda models, limits=LIMITS: stack.enter_context(_bench(models, limits))


@pytest.fixture(scope="module")
def make_module_bench() -> Iterator[Callable[..., Bench]]:
    """As `make_bench`, for a whole module."""
    with contextlib.ExitStack() as stack:
        yield lambda models, limits=LIMITS: stack.enter_context(_bench(models, limits))


@dataclass
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.raw)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return error

    @property
    def events(self) -> list[Any]:
        lines = [line.removeprefix("data: ") for line in self.raw.decode().split("\n\n") if line]
        assert lines.pop() == "[DONE]"
        return [json.loads(line) for line in lines]


class Site:
    """A served application."""

    def __init__(self, server: Server, engine: Engine, port: int) -> None:
        self.server = server
        self.engine = engine
        self.port = port

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return self.request("POST", path, json.dumps(body).encode(), **{"Content_Type": "application/json"} | headers)

    def complete(self, **body: Any) -> Answer:
        return self.post("/v1/completions", {"model": "bytes", **body})

    def wait_until_free(self) -> None:
        deadline = time.monotonic() + 30
        while not self.engine.idle:
            assert time.monotonic() < deadline, "slots leaked"
            time.sleep(0.01)


def talking(model: LanguageModel, template: str = TEMPLATE) -> LanguageModel:
    """The same model with a chat template."""
    made = copy.copy(model)
    made.chat_template = template
    return made


@contextlib.contextmanager
def _site(models: dict[str, LanguageModel], limits: Limits, *, chat: str = "", **more: Any) -> Iterator[Site]:
    """`chat`: the model that is served with a template too."""
    served = {name: ServedModel(name, model, limits) for name, model in models.items()}
    if chat:
        served["chat"] = ServedModel("chat", talking(models[chat]), limits)
    app = create_app(served, limits, **more)
    listener = open_socket("127.0.0.1", 0)
    server = Server(app, drain_seconds=5)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    engine: Engine = app.state.service.engine
    try:
        _wait_until_ready(engine)
        yield Site(server, engine, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def site(bytes_model: LanguageModel, letters: LanguageModel) -> Iterator[Site]:
    """Serves `bytes`, `letters`, and `chat`, which is `letters` with a template."""
    with _site({"bytes": bytes_model, "letters": letters}, LIMITS, chat="letters") as found:
        yield found
        found.wait_until_free()


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    """`make_site({name: model}, limits, **arguments of create_app)`: a server that a test may break."""
    with contextlib.ExitStack() as stack:
        yield lambda models, limits=LIMITS, **more: stack.enter_context(_site(models, limits, **more))


@pytest.fixture(scope="module")
def make_module_site() -> Iterator[Callable[..., Site]]:
    """As `make_site`, for a whole module."""
    with contextlib.ExitStack() as stack:
        yield lambda models, limits=LIMITS, **more: stack.enter_context(_site(models, limits, **more))


def _wait_until_ready(engine: Engine) -> None:
    # Compiling, on a machine that has other things to do.
    deadline = time.monotonic() + 600
    while not engine.ready:
        assert engine.failure is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
