"""Every field that OpenAI's own Python client knows is taken, as is null where its types allow it, and so are answers
that are sent back; and the answers are what its types say."""

from __future__ import annotations

import copy
import json
import threading
import time
import types as python_types
import typing
import urllib.error
import urllib.request
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
types = pytest.importorskip("openai.types.chat.completion_create_params")
old_types = pytest.importorskip("openai.types.completion_create_params")
messages_of = pytest.importorskip("openai.types.chat")
pytestmark = pytest.mark.peer

IGNORED = "x-ignored-fields"
TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
HELLO = {"role": "user", "content": "Hi"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}

# Fields that this server has, with a value that it takes.
TAKEN: dict[str, Any] = {
    "best_of": 1, "echo": True, "frequency_penalty": 0.5, "function_call": "auto", "logit_bias": {},
    "max_completion_tokens": 3, "max_tokens": 3, "modalities": ["text"], "n": 1, "presence_penalty": 0.5,
    "response_format": {"type": "text"}, "seed": -3, "stop": ["\n\n"], "stream": False,
    "stream_options": {"include_usage": True}, "suffix": "", "temperature": 0, "tool_choice": "none", "top_p": 0,
}  # fmt: skip
# Fields that it has no use for.
UNUSED: dict[str, Any] = {
    "audio": {"format": "wav", "voice": "alloy"}, "functions": [FUNCTION], "metadata": {"a": "b"},
    "moderation": {"model": "m"}, "parallel_tool_calls": True, "prediction": {"type": "content", "content": "a"},
    "prompt_cache_key": "k", "prompt_cache_options": {"mode": "implicit"}, "prompt_cache_retention": "24h",
    "reasoning_effort": "low", "safety_identifier": "s", "service_tier": "auto", "store": True,
    "tools": [{"type": "function", "function": FUNCTION}], "user": "u", "verbosity": "low", "web_search_options": {},
}  # fmt: skip
LOGPROBS = {"chat": {"logprobs": True, "top_logprobs": 2}, "plain": {"logprobs": 2}}
# A message of each kind, with all that it can have.
FULL: dict[str, dict[str, Any]] = {
    "Developer": {"role": "developer", "content": [{"type": "text", "text": "a"}], "name": "n"},
    "System": {"role": "system", "content": "a", "name": "n"},
    "User": {"role": "user", "content": [{"type": "text", "text": "a", "prompt_cache_breakpoint": {}}], "name": "n"},
    "Assistant": {
        "role": "assistant", "content": [{"type": "refusal", "refusal": "a"}], "refusal": "a", "name": "n",
        "audio": {"id": "a"}, "function_call": CALL["function"], "tool_calls": [CALL],
    },
    "Tool": {"role": "tool", "content": [{"type": "text", "text": "a"}], "tool_call_id": "c"},
    "Function": {"role": "function", "content": "a", "name": "f"},
}  # fmt: skip


@pytest.fixture(scope="module")
def port(random_bundle: Callable[..., Bundle]) -> Iterator[int]:
    bundle = random_bundle(ByteTokenizer(), context_length=512)
    model = LanguageModel(bundle.config, jax.tree.map(jax.numpy.asarray, bundle.params), bundle.tokenizer)
    talking = copy.copy(model)
    talking.chat_template = TEMPLATE
    limits = Limits(slots=2)
    served = {"plain": ServedModel("plain", model, limits), "chat": ServedModel("chat", talking, limits)}
    app = create_app(served, limits)
    listener = open_socket("127.0.0.1", 0)
    server = Server(app, drain_seconds=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    while not app.state.service.engine.ready:
        assert app.state.service.engine.failure is None
        time.sleep(0.02)
    yield int(listener.getsockname()[1])
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0) as found:
        yield found


def ask(client: Any, model: str, **fields: Any) -> tuple[Any, Any]:
    """(headers, JSON) of the answer to a short request with these fields besides what it needs."""
    values = {"model": model, "max_tokens": 2, "seed": 1, **fields}
    if model == "chat":
        path, values = "chat/completions", {"messages": [HELLO], **values}
    else:
        path, values = "completions", {"prompt": "a", **values}
    request = urllib.request.Request(f"{client.base_url}{path}", json.dumps(values).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.headers, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


def fields_of(*kinds: Any) -> dict[str, Any]:
    """The types of all fields of some typed dictionaries, without Required[...] around them."""
    return {name: kind for each in kinds for name, kind in typing.get_type_hints(each).items()}


def takes_null(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, python_types.UnionType) and type(None) in typing.get_args(kind)


REQUESTS = {
    "chat": fields_of(types.CompletionCreateParamsNonStreaming),
    "plain": fields_of(old_types.CompletionCreateParamsNonStreaming),
}


@pytest.mark.parametrize("model", REQUESTS)
def test_every_field_is_taken(client: Any, model: str) -> None:
    known = {*TAKEN, *UNUSED, *LOGPROBS[model], "model", "messages", "prompt"}
    assert set(REQUESTS[model]) <= known, "new in this version of the client: say above whether the server uses it"
    values = {name: value for name, value in {**TAKEN, **UNUSED, **LOGPROBS[model]}.items() if name in REQUESTS[model]}
    headers, _ = ask(client, model, **values)
    ignored = {name for name in values if name in UNUSED}
    assert set(filter(None, headers.get(IGNORED, "").split(", "))) == ignored


@pytest.mark.parametrize("model", REQUESTS)
def test_null_is_taken_where_the_types_have_it(client: Any, model: str) -> None:
    nulls = {name: None for name, kind in REQUESTS[model].items() if takes_null(kind)}
    assert {"n", "stop", "temperature", "logit_bias"} <= set(nulls)
    assert IGNORED not in ask(client, model, **nulls)[0]


@pytest.mark.parametrize("kind", FULL)
def test_every_message_is_taken(client: Any, kind: str) -> None:
    fields = fields_of(getattr(messages_of, f"ChatCompletion{kind}MessageParam"))
    assert set(FULL[kind]) == set(fields), "another version of the client: say above what its messages have"
    ask(client, "chat", messages=[FULL[kind], HELLO])
    nulls = {
        name: None for name, field in fields.items() if takes_null(field) and (kind, name) != ("Function", "content")
    }
    ask(client, "chat", messages=[{**FULL[kind], **nulls}, HELLO])


def test_answers_are_what_the_types_say_and_go_back(client: Any) -> None:
    whole = client.chat.completions.create(model="chat", messages=[HELLO], max_tokens=9, seed=1)
    # The client's own assembly of the pieces; what has ended at max_tokens it gives with this error alone.
    with (
        client.chat.completions.stream(model="chat", messages=[HELLO], max_tokens=9, seed=1) as stream,
        pytest.raises(openai.LengthFinishReasonError) as ended,
    ):
        stream.get_final_completion()
    assembled = ended.value.completion.choices[0].message
    texts = set()
    for message in (whole.choices[0].message, assembled):
        assert message.content
        for sent in (message, message.model_dump(), message.model_dump(exclude_none=True)):
            answer = client.chat.completions.create(
                model="chat", messages=[HELLO, sent, HELLO], max_tokens=9, seed=1, n=None, stop=None
            )
            texts.add(answer.choices[0].message.content)
    assert len(texts) == 1
    messages_of.ChatCompletion.model_validate(ask(client, "chat", **LOGPROBS["chat"])[1])
    openai.types.Completion.model_validate(ask(client, "plain", **LOGPROBS["plain"])[1])
    openai.types.Model.model_validate(client.models.retrieve("chat").model_dump())


def test_parts_that_are_no_text_are_one_line(client: Any) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]
    with pytest.raises(openai.BadRequestError, match=r"messages\[0\].content: part 1 is of the type 'image_url'"):
        client.chat.completions.create(model="chat", messages=[{"role": "user", "content": parts}])
