"""What OpenAI's schema allows and this server has no use for: nulls, parts, unknown fields, its own answers."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest

from jslm.infer import LanguageModel
from jslm.serve import Limits, ServedModel
from jslm.serve.schemas import ChatRequest, CompletionRequest, RewriteRequest

IGNORED = "x-ignored-fields"
HELLO = {"role": "user", "content": "Hi"}
PATHS = {"/v1/completions": "letters", "/v1/chat/completions": "chat", "/v1/rewrite": "letters"}
SAID: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "ab"},
    "/v1/chat/completions": {"messages": [HELLO]},
    "/v1/rewrite": {"sentences": ["ab"]},
}
SCHEMAS: dict[str, Any] = {
    "/v1/completions": CompletionRequest,
    "/v1/chat/completions": ChatRequest,
    "/v1/rewrite": RewriteRequest,
}


def ask(site: Any, path: str, **body: Any) -> Any:
    return site.post(path, {"model": PATHS[path], **SAID[path], "max_tokens": 4, "seed": 1, **body})


def chat(site: Any, *messages: Any, **body: Any) -> Any:
    return ask(site, "/v1/chat/completions", messages=list(messages), **body)


def written(answer: Any) -> str:
    assert answer.status == 200, answer.raw
    return str(answer.json["choices"][0]["message"]["content"])


@pytest.mark.parametrize("path", PATHS)
def test_null_is_as_good_as_nothing(site: Any, path: str) -> None:
    required = [name for name, field in SCHEMAS[path].model_fields.items() if field.is_required()]
    nulls = {name: None for name in SCHEMAS[path].model_fields if name not in (*required, "max_tokens", "seed")}
    plain, with_nulls = ask(site, path), ask(site, path, **nulls, something="x", nothing=None)
    if path == "/v1/completions":
        plain = ask(site, path, prompt="")
    assert with_nulls.status == 200, with_nulls.raw
    assert with_nulls.headers[IGNORED] == "something"
    assert IGNORED not in plain.headers
    for key in ("choices", "rewrites", "usage"):
        assert with_nulls.json.get(key) == plain.json.get(key)


@pytest.mark.parametrize("path", PATHS)
def test_the_document_says_where_null_is_allowed(site: Any, path: str) -> None:
    schemas = site.request("GET", "/openapi.json").json["components"]["schemas"]
    for schema in (schemas[SCHEMAS[path].__name__], schemas["Message"], schemas["StreamOptions"]):
        for name, field in schema["properties"].items():
            assert ({"type": "null"} in field.get("anyOf", ())) is (name not in schema.get("required", ()))


def test_an_answer_goes_back_as_it_came(site: Any) -> None:
    own = chat(site, HELLO).json["choices"][0]["message"]
    assert own["refusal"] is None
    deltas = [event["choices"][0]["delta"] for event in chat(site, HELLO, stream=True).events]
    streamed = {"role": deltas[0]["role"], "content": "".join(delta.get("content") or "" for delta in deltas)}
    more = {"annotations": None, "audio": None, "function_call": None, "tool_calls": None, "parsed": None}
    texts = set()
    for message in (own, streamed, {**own, **more}):
        answer = chat(site, HELLO, message, HELLO)
        assert IGNORED not in answer.headers
        texts.add(written(answer))
    assert len(texts) == 1


def test_messages_of_every_role_and_shape(site: Any) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [
        {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "kind."}]},
        {"role": "user", "content": "Hi", "name": "Ann"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "4"}], "tool_call_id": "c"},
        {"role": "function", "content": "5", "name": "f"},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "refusal": None},
        {"role": "assistant", "content": None, "refusal": "No."},
        HELLO,
    ]
    answer = chat(site, *messages)
    prompt = (
        "developer: Be kind.\nuser: Hi\nassistant: \ntool: 4\nfunction: 5\nassistant: No.\nassistant: No.\nuser: Hi\na:"
    )
    assert answer.headers[IGNORED] == "messages.name, messages.tool_calls, messages.tool_call_id"
    alone = ask(site, "/v1/completions", prompt=list(prompt.encode())).json
    assert written(answer) == alone["choices"][0]["text"]


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]},
            "messages[1].content: part 1 is of the type 'image_url'; these models read text alone",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages[1].content: part 0 is of the type 'input_"),
        ({"role": "user", "content": [{"text": "a"}]}, "messages[1].content: part 0 has no type"),
        ({"role": "user", "content": ["a"]}, "messages[1].content: part 0 has no type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content: part 0 has no text"),
        ({"role": "user", "content": 3}, "messages[1].content: expected a text or a list of parts"),
        ({"role": "user", "content": None}, "messages[1]: no content"),
        ({"role": "tool", "tool_call_id": "c"}, "messages[1]: no content"),
        ({"role": "narrator", "content": "a"}, "messages[1].role: Input should be 'system'"),
        ("Hi", "messages[1]: "),
    ],
)
def test_what_is_no_text_gets_one_line(site: Any, message: Any, said: str) -> None:
    answer = chat(site, HELLO, message)
    assert (answer.status, answer.error["param"]) == (400, "messages")
    assert answer.error["message"].startswith(said)
    assert "\n" not in answer.error["message"]


ASKED_IN_VAIN = [
    ("response_format", {"type": "json_object"}, "response_format.type: Input should be 'text'"),
    ("tool_choice", "required", "tool_choice: Input should be 'none' or 'auto'"),
    ("function_call", {"name": "f"}, "function_call: Input should be 'none' or 'auto'"),
    ("modalities", ["text", "audio"], "modalities[1]: Input should be 'text'"),
    ("logit_bias", {"5": 1}, "logit_bias: this server does not have it"),
    ("top_logprobs", 2, "top_logprobs needs logprobs = true"),
]


@pytest.mark.parametrize(("name", "value", "said"), ASKED_IN_VAIN, ids=[name for name, *_ in ASKED_IN_VAIN])
def test_what_would_make_another_answer_is_refused(site: Any, name: str, value: Any, said: str) -> None:
    answer = chat(site, HELLO, **{name: value})
    assert (answer.status, answer.error["param"]) == (400, name)
    assert answer.error["message"].startswith(said)


def test_unknown_fields_are_told_in_the_header_and_once_in_the_log(site: Any, caplog: pytest.LogCaptureFixture) -> None:
    fields = {"tools": [{"type": "function"}], "metadata": {}, "store": False, "temprature": 2, "ä\r\nX: y": 1}
    with caplog.at_level(logging.WARNING, "jslm"):
        for stream in (False, True):
            answer = chat(site, HELLO, **fields, stream=stream, stream_options={"include_obfuscation": False})
            told = "tools, metadata, store, temprature, ???X??y, stream_options.include_obfuscation"
            assert answer.headers[IGNORED] == told
    (record,) = [record for record in caplog.records if "temprature" in record.getMessage()]
    assert "/v1/chat/completions: a request has fields that this server ignores: " in record.getMessage()


def test_a_flood_of_unknown_fields_stays_short(site: Any) -> None:
    answer = ask(site, "/v1/completions", **{f"{number:03}{'x' * 100}": 1 for number in range(300)})
    assert answer.status == 200
    assert len(answer.headers[IGNORED]) < 1500
    assert answer.headers[IGNORED].endswith(", and 280 more")


def test_top_p_0_is_greedy_and_seeds_may_be_negative(site: Any) -> None:
    texts = [ask(site, "/v1/completions", **more).json["choices"] for more in ({"top_p": 0}, {"temperature": 0})]
    assert texts[0] == texts[1]
    texts = [ask(site, "/v1/completions", seed=seed).json["choices"] for seed in (-1, 2**63 - 1)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("most", [65, 10**30])
def test_max_tokens_past_the_context_is_cut(site: Any, most: int) -> None:
    whole = ask(site, "/v1/completions", model="bytes", prompt=[97] * 60, seed=2, max_tokens=most, logprobs=0)
    (choice,) = whole.json["choices"]
    assert (choice["finish_reason"], len(choice["logprobs"]["tokens"])) == ("length", 4)


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_max_tokens_of_chats_past_the_context_is_cut(site: Any, name: str) -> None:
    answer = chat(site, {"role": "user", "content": "x" * 1000}, **{"max_tokens": None, name: 5000})
    assert (answer.status, answer.json["choices"][0]["finish_reason"]) == (200, "length")
    assert answer.json["usage"]["total_tokens"] == 1024


def test_max_tokens_past_a_limit_that_was_set_is_refused(
    make_site: Callable[..., Any], bytes_model: LanguageModel
) -> None:
    site = make_site({"bytes": bytes_model}, Limits(slots=2, new_tokens=8))
    assert site.complete(prompt="a", max_tokens=8).status == 200
    refused = site.complete(prompt="a", max_tokens=9)
    assert (refused.status, refused.error["param"]) == (400, "max_tokens")
    assert "at most 8 tokens" in refused.error["message"]
    assert site.request("GET", "/v1/models/bytes").json["max_tokens"] == 8


@pytest.mark.parametrize(
    ("data", "rewrites"),
    [
        ({}, False),
        ({"prompt_end": "\t", "packing": "documents"}, True),
        ({"template": "{prompt} => {completion}"}, True),
        # What it needs besides a sentence, nobody types into one field.
        ({"template": "{tone}: {prompt} => {completion}"}, False),
        ({"messages": "messages", "packing": "documents"}, False),
    ],
)
def test_models_say_whether_they_rewrite(bytes_model: LanguageModel, data: dict[str, str], *, rewrites: bool) -> None:
    model = copy.copy(bytes_model)
    model.config = model.config.model_copy(update={"data": model.config.data.model_copy(update=data)})
    assert ServedModel("m", model, Limits()).rewrites is rewrites


def test_the_list_of_models_says_it_too(site: Any) -> None:
    assert [model["rewrites"] for model in site.request("GET", "/v1/models").json["data"]] == [False, False, False]
