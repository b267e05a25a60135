"""OpenAI's own Python client drives the server: completions, chat, streaming, log-probabilities, errors, cancelling."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import pytest

from jslm.infer import LanguageModel
from jslm.runs.bundle import Bundle
from jslm.serve import Limits, ServedModel, create_app
from jslm.serve.server import Server, open_socket
from jslm.tokenizer import ByteTokenizer

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.peer
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
KEY = "a key"


@pytest.fixture(scope="module")
def model(random_bundle: Callable[..., Bundle]) -> LanguageModel:
    bundle = random_bundle(ByteTokenizer(), context_length=512)
    return LanguageModel(bundle.config, jax.tree.map(jax.numpy.asarray, bundle.params), bundle.tokenizer)


@pytest.fixture(scope="module")
def server(model: LanguageModel) -> Iterator[tuple[Any, int]]:
    limits = Limits(slots=4, queue=4)
    talking = copy.copy(model)
    talking.chat_template = TEMPLATE
    models = {"plain": ServedModel("plain", model, limits)}
    models["chat"] = ServedModel("chat", talking, limits)
    app = create_app(models, limits, token=KEY)
    listener = open_socket("127.0.0.1", 0)
    found = Server(app, drain_seconds=1)
    thread = threading.Thread(target=found.run, kwargs={"sockets": [listener]})
    thread.start()
    engine = app.state.service.engine
    while not engine.ready:
        assert engine.failure is None
        time.sleep(0.02)
    yield engine, listener.getsockname()[1]
    found.should_exit = True
    thread.join(30)


@pytest.fixture
def client(server: tuple[Any, int]) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{server[1]}/v1", api_key=KEY, max_retries=0) as found:
        yield found


def test_completion(client: Any, model: LanguageModel) -> None:
    answer = client.completions.create(model="plain", prompt=["a", "b"], n=2, seed=4, max_tokens=20, temperature=0.8)
    wanted = model.generate_results(["a", "b"], num_samples=2, seed=4, max_new_tokens=20, temperature=0.8)
    assert [choice.text for choice in answer.choices] == [result.text for result in wanted]
    assert [choice.finish_reason for choice in answer.choices] == [result.finish_reason for result in wanted]
    assert answer.usage.completion_tokens == sum(len(result.tokens) for result in wanted)


def test_streaming_with_usage(client: Any, model: LanguageModel) -> None:
    stream = client.completions.create(
        model="plain", prompt="a", seed=4, max_tokens=60, stream=True, stream_options={"include_usage": True}
    )
    *events, last = list(stream)
    assert "".join(event.choices[0].text for event in events) == model.generate("a", seed=4, max_new_tokens=60)
    assert last.usage.total_tokens == last.usage.prompt_tokens + last.usage.completion_tokens


def test_logprobs(client: Any, model: LanguageModel) -> None:
    answer = client.completions.create(model="plain", prompt="a", seed=4, max_tokens=10, logprobs=3, echo=True)
    logprobs = answer.choices[0].logprobs
    (wanted,) = model.generate_results("a", seed=4, max_new_tokens=10)
    assert logprobs.token_logprobs[1:] == pytest.approx(wanted.logprobs, abs=1e-4)
    assert all(len(top) <= 3 for top in logprobs.top_logprobs)
    assert answer.choices[0].text == "a" + wanted.text


def test_chat(client: Any, model: LanguageModel) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    values = {"model": "chat", "messages": messages, "seed": 1, "max_completion_tokens": 30}
    whole = client.chat.completions.create(**values, logprobs=True, top_logprobs=2)
    stream = client.chat.completions.create(**values, stream=True)
    pieces = [event.choices[0].delta.content or "" for event in stream]
    wanted = model.generate("user: Hello\n", seed=1, max_new_tokens=30, document_start=False)
    assert whole.choices[0].message.content == "".join(pieces) == wanted
    first = whole.choices[0].logprobs.content[0]
    assert len(first.top_logprobs) == 2
    assert first.logprob <= first.top_logprobs[0].logprob


def test_models(client: Any) -> None:
    assert [entry.id for entry in client.models.list()] == ["plain", "chat"]
    assert client.models.retrieve("chat").owned_by == "jslm"


def test_errors(client: Any, server: tuple[Any, int]) -> None:
    with pytest.raises(openai.NotFoundError, match="no model 'nobody' here"):
        client.completions.create(model="nobody", prompt="a")
    with pytest.raises(openai.BadRequestError, match="has no chat template") as refused:
        client.chat.completions.create(model="plain", messages=[{"role": "user", "content": "a"}])
    assert refused.value.code == "no_chat_template"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="plain", prompt="a" * 600)
    assert (long.value.code, long.value.param) == ("context_length_exceeded", "prompt")
    stranger = openai.OpenAI(base_url=f"http://127.0.0.1:{server[1]}/v1", api_key="wrong", max_retries=0)
    with stranger, pytest.raises(openai.AuthenticationError):
        stranger.completions.create(model="plain", prompt="a")


def test_closing_a_stream_frees_its_slot(client: Any, server: tuple[Any, int]) -> None:
    engine = server[0]
    stream = client.completions.create(model="plain", prompt="a", max_tokens=500, stream=True, n=4)
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while not engine.idle:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_queue_is_a_rate_limit(client: Any) -> None:
    stream = client.completions.create(model="plain", prompt="a", max_tokens=500, stream=True, n=8)
    with pytest.raises(openai.RateLimitError):
        client.completions.create(model="plain", prompt="a", n=4)
    stream.close()


def test_samplers_beyond_openais(client: Any, model: LanguageModel) -> None:
    more: dict[str, Any] = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.2}
    answer = client.completions.create(model="plain", prompt="a", seed=2, max_tokens=20, extra_body=more)
    assert answer.choices[0].text == model.generate("a", seed=2, max_new_tokens=20, **more)
