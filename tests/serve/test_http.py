from __future__ import annotations

import copy
import json
import math
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import RewriteConfig
from jslm.infer import LanguageModel
from jslm.infer import programs as step
from jslm.infer.sentences import split_sentences
from jslm.serve import Limits
from jslm.tokenizer import CharTokenizer

KEY = {"Authorization": "Bearer s3cret"}


def test_completion_is_what_generate_writes(site: Any, bytes_model: LanguageModel) -> None:
    body = {"prompt": ["one", "two"], "n": 2, "seed": 5, "max_tokens": 20, "top_p": 0.9}
    answer = site.complete(**body)
    wanted = bytes_model.generate_results(["one", "two"], num_samples=2, seed=5, max_new_tokens=20, top_p=0.9)
    assert answer.status == 200
    assert [c["text"] for c in answer.json["choices"]] == [w.text for w in wanted]
    assert [c["finish_reason"] for c in answer.json["choices"]] == [w.finish_reason for w in wanted]
    assert [c["index"] for c in answer.json["choices"]] == [0, 1, 2, 3]
    written = sum(len(w.tokens) for w in wanted)
    assert answer.json["usage"] == {"prompt_tokens": 8, "completion_tokens": written, "total_tokens": 8 + written}
    assert (answer.json["object"], answer.json["model"]) == ("text_completion", "bytes")


def test_line_breaks_of_a_prompt_are_read_as_in_training(site: Any) -> None:
    body = {"seed": 5, "max_tokens": 5, "echo": True, "logprobs": 1}
    answers = [site.complete(prompt=prompt, **body).json for prompt in ("a\nb", "a\r\nb", ["a\rb"])]
    assert answers[0]["choices"] == answers[1]["choices"] == answers[2]["choices"]
    assert answers[1]["choices"][0]["text"].startswith("a\nb")
    assert answers[1]["usage"]["prompt_tokens"] == answers[0]["usage"]["prompt_tokens"]


def test_without_a_seed_texts_differ(site: Any) -> None:
    texts = {site.complete(prompt="a", max_tokens=20).json["choices"][0]["text"] for _ in range(3)}
    assert len(texts) == 3


def test_defaults_are_those_of_the_run(site: Any, bytes_model: LanguageModel) -> None:
    answer = site.complete(prompt="a", seed=1)
    assert answer.json["choices"][0]["text"] == bytes_model.generate("a", seed=1)


def test_stream_is_the_same_text_in_pieces(site: Any) -> None:
    body = {"model": "letters", "prompt": "ab", "n": 2, "seed": 2, "max_tokens": 60, "logprobs": 1, "echo": True}
    whole = site.complete(**body).json
    answer = site.complete(**body, stream=True, stream_options={"include_usage": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *events, last = answer.events
    assert (last["choices"], last["usage"]) == ([], whole["usage"])
    assert len(events) > 4
    for choice in whole["choices"]:
        pieces = [event["choices"][0] for event in events if event["choices"][0]["index"] == choice["index"]]
        assert "".join(piece["text"] for piece in pieces) == choice["text"]
        for name in ("tokens", "text_offset", "token_logprobs", "top_logprobs"):
            assert [value for piece in pieces for value in piece["logprobs"][name]] == choice["logprobs"][name]
        assert [piece["finish_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + [choice["finish_reason"]]


def test_stop_ends_the_text_and_streams_nothing_of_it(site: Any, letters: LanguageModel) -> None:
    text = str(letters.generate("ab", seed=2, max_new_tokens=60))
    stop = text[20:23]
    cut = text[: text.index(stop)]
    body = {"model": "letters", "prompt": "ab", "seed": 2, "max_tokens": 60, "stop": [stop, "never"]}
    answer = site.complete(**body).json
    assert answer["choices"][0]["text"] == cut
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": len(cut), "total_tokens": 3 + len(cut)}
    events = site.complete(**body, stream=True).events
    assert "".join(event["choices"][0]["text"] for event in events) == cut
    assert events[-1]["choices"][0]["finish_reason"] == "stop"


def test_echo_with_scores_of_the_prompt(site: Any, bytes_model: LanguageModel) -> None:
    (choice,) = site.complete(prompt="xyz", echo=True, logprobs=2, max_tokens=0).json["choices"]
    logits = bytes_model.logits([256, *b"xyz"])[0].astype(float)
    for index, char in enumerate("xyz"):
        wanted = logits[index, ord(char)] - math.log(sum(math.exp(value) for value in logits[index]))
        assert choice["logprobs"]["token_logprobs"][index] == pytest.approx(wanted, abs=1e-4)
    assert (choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["text_offset"]) == (
        "xyz",
        ["x", "y", "z"],
        [0, 1, 2],
    )
    assert [len(top) for top in choice["logprobs"]["top_logprobs"]] == [2, 2, 2]


def test_token_ids_are_read_as_they_are(site: Any, bytes_model: LanguageModel) -> None:
    ids = [256, *b"one"]
    body = {"temperature": 0, "max_tokens": 10, "logprobs": 0}
    text = bytes_model.generate("one", greedy=True, max_new_tokens=10)
    assert site.complete(prompt=ids, **body).json["choices"][0]["text"] == text
    assert [c["text"] for c in site.complete(prompt=[ids, ids], **body).json["choices"]] == [text] * 2


def test_rewrite_is_greedy_and_by_sentence(site: Any, bytes_model: LanguageModel) -> None:
    sentences = ["It is seen.", "We were told."]
    answer = site.post("/v1/rewrite", {"model": "bytes", "sentences": sentences, "max_tokens": 12}).json
    # A model whose config names no template reads a sentence and a line break, as `jslm sample --rewrite` has it.
    prompts = [f"{sentence}\n" for sentence in sentences]
    wanted = bytes_model.generate_results(prompts, greedy=True, max_new_tokens=12, stop="\n")
    assert [r["sentence"] for r in answer["rewrites"]] == sentences
    assert [r["rewrite"] for r in answer["rewrites"]] == [w.text for w in wanted]
    for rewrite, result in zip(answer["rewrites"], wanted, strict=True):
        # None of these has ended by itself, which would count too.
        assert rewrite["finish_reason"] == result.finish_reason == "length"
        mean = sum(result.logprobs) / len(result.logprobs)
        assert rewrite["confidence"] == pytest.approx(math.exp(mean), rel=1e-3)


def test_rewrite_does_what_the_model_does_in_python(make_site: Any, letters: LanguageModel) -> None:
    # 257 tokens, two of them the end of a text and an unknown character. For "Ω" some other letter stands.
    tokenizer = CharTokenizer("\n" + "".join(map(chr, (*range(32, 127), *range(0xC0, 0xC0 + 159)))))
    config = letters.config.model_copy(update={"rewrite": RewriteConfig(sentences=True, threshold=0.05)})
    params = jax.tree.map(np.array, letters.params)
    # The end is as likely as a letter.
    params["head"]["tokens"][tokenizer.eot_id, 0] = 3.2
    model = LanguageModel(config, jax.tree.map(jnp.asarray, params), tokenizer)
    long = "a" * 1100
    texts = [" It is\u0301 seen.\n", "We were told. Was it Ω? ", "", long, f"So. {long} It is. ", "A\nb", "Was it 漢?"]
    wanted = list(model.rewrite(texts))
    site = make_site({"it": model})
    answer = site.post("/v1/rewrite", {"model": "it", "sentences": texts}).json
    for found, expected in zip(answer["rewrites"], wanted, strict=True):
        assert (found["sentence"], found["output"], found["changed"], found["reason"]) == (
            expected.source,
            expected.output,
            expected.changed,
            expected.reason,
        )
        assert (found["confidence"] is None) == (expected.confidence is None)
        if expected.confidence is not None:
            assert found["confidence"] == pytest.approx(expected.confidence, rel=1e-4)
    assert any(found["changed"] for found in answer["rewrites"])
    sure = site.post("/v1/rewrite", {"model": "it", "sentences": texts, "threshold": 1.0}).json["rewrites"]
    assert not any(found["changed"] for found in sure)
    assert any(", and 1.00 is asked for" in found["reason"] for found in sure)
    assert site.post("/v1/rewrite", {"model": "it", "sentences": texts, "threshold": "a"}).status == 400
    # Between the sentences of a text their white space stands, and what could not be read.
    assert answer["rewrites"][1]["rewrite"].endswith(" ")
    assert answer["rewrites"][4]["rewrite"].endswith(f" {long} It is. ")
    many = site.post("/v1/rewrite", {"model": "it", "sentences": ["So it is. " * 200]})
    assert many.status == 400
    assert many.json["error"]["message"] == "200 sentences in all; this server takes 12 a request"
    # Of a run of marks each was once tried for the end: seconds for 20 kB, in which nobody was answered.
    assert split_sentences("." * 100_000 + "a") == ["." * 100_000 + "a"]
    (empty,) = site.post("/v1/rewrite", {"model": "it", "sentences": [" "]}).json["rewrites"]
    assert (empty["output"], empty["reason"], empty["finish_reason"]) == (" ", "blank", None)


def test_chat_renders_the_template(site: Any, letters: LanguageModel) -> None:
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ]
    body = {"model": "chat", "messages": messages, "seed": 3, "max_tokens": 20, "logprobs": True, "top_logprobs": 2}
    answer = site.post("/v1/chat/completions", body).json
    prompt = "system: Be kind.\nuser: Hi\na:"
    wanted = site.complete(model="letters", prompt=list(prompt.encode()), seed=3, max_tokens=20).json["choices"][0]
    (choice,) = answer["choices"]
    assert choice["message"]["content"] == wanted["text"]
    content = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in content) == wanted["text"]
    assert all(len(entry["top_logprobs"]) == 2 for entry in content)
    events = site.post("/v1/chat/completions", {**body, "stream": True}).events
    assert events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == wanted["text"]


def test_chat_reads_special_tokens_in_messages_as_text(site: Any) -> None:
    messages = [{"role": "user", "content": "a <|endoftext|> b"}]
    body = {"seed": 3, "max_tokens": 20}
    answer = site.post("/v1/chat/completions", {"model": "chat", "messages": messages, **body}).json
    prompt = list(b"user: a <|endoftext|> b\na:")
    wanted = site.complete(model="letters", prompt=prompt, **body).json["choices"][0]
    assert answer["choices"][0]["message"]["content"] == wanted["text"]
    assert answer["usage"]["prompt_tokens"] == len(prompt)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{% for", "models cannot chat: chat template: not a chat template in Jinja: .*use /v1/completions"),
        ("{{ nothing.at.all }}", "messages: the chat template refuses the messages: 'nothing' is undefined"),
    ],
)
def test_a_template_that_fails_keeps_from_chat_alone(
    make_site: Callable[..., Any], bytes_model: LanguageModel, template: str, message: str
) -> None:
    talking = copy.copy(bytes_model)
    talking.chat_template = template
    site = make_site({"models": talking})
    body = {"model": "models", "seed": 1, "max_tokens": 5}
    answer = site.post("/v1/chat/completions", {**body, "messages": [{"role": "user", "content": "Hi"}]})
    assert answer.status == 400
    assert re.search(message, answer.json["error"]["message"])
    text = site.post("/v1/completions", {**body, "prompt": "a"}).json["choices"][0]["text"]
    assert text == bytes_model.generate("a", seed=1, max_new_tokens=5)
    assert site.request("GET", "/v1/models").json["data"][0]["chat"] is (message[:6] != "models")


def test_models_and_pages(site: Any) -> None:
    listed = site.request("GET", "/v1/models").json
    assert [m["id"] for m in listed["data"]] == ["bytes", "letters", "chat"]
    assert [m["chat"] for m in listed["data"]] == [False, False, True]
    assert site.request("GET", "/v1/models/letters").json == listed["data"][1]
    for path in ("/health", "/healthz"):
        assert site.request("GET", path).json == {"status": "ok"}
    for path in ("/ready", "/readyz"):
        assert (site.request("GET", path).status, site.request("GET", path).json) == (200, {"status": "ready"})
    document = site.request("GET", "/openapi.json").json
    assert set(document["paths"]["/v1/completions"]["post"]["responses"]) >= {"200", "400", "429", "503"}
    page = site.request("GET", "/docs").raw.decode()
    assert all(path in page for path in document["paths"])
    # The page asks for nothing from elsewhere.
    assert re.findall(r"https?://|<script|<link|url\(", page) == []


def test_metrics_count(site: Any) -> None:
    def value(name: str) -> float:
        text = site.request("GET", "/metrics").raw.decode()
        found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    names = ['jslm_new_tokens_total{model="letters"}', 'jslm_time_to_first_token_seconds_count{model="letters"}']
    names += ['jslm_http_requests_total{method="POST",path="/v1/completions",status="200"}']
    before = [value(name) for name in names]
    site.complete(model="letters", prompt="a", max_tokens=7)
    assert [value(name) - start for name, start in zip(names, before, strict=True)] == [7, 1, 1]
    assert value('jslm_slots{model="letters"}') == 4
    assert value("jslm_ready") == 1


BAD: list[tuple[dict[str, Any], int, str | None, str]] = [
    ({"prompt": 3}, 400, "prompt", "prompt: "),
    ({"prompt": []}, 400, "prompt", "prompt: "),
    ({"prompt": [[]]}, 400, "prompt", "prompt: "),
    ({"prompt": [999]}, 400, "prompt", "token 999 is outside the vocabulary of 257"),
    ({"prompt": [-1]}, 400, "prompt", "prompt: "),
    ({"prompt": "x" * 64}, 400, "prompt", "the prompt is 64 tokens long; this model takes 63"),
    ({"prompt": "x" * 5000}, 400, "prompt", "the prompt is more than 63 tokens long"),
    ({"prompt": [1] * 64}, 400, "prompt", "the prompt is 64 tokens long"),
    ({"model": "gpt-4"}, 404, "model", "no model 'gpt-4' here; there are: bytes, letters, chat"),
    ({"temperature": -1}, 400, "temperature", "greater than or equal to 0"),
    ({"temperature": "hot"}, 400, "temperature", "valid number"),
    ({"top_p": -0.1}, 400, "top_p", "greater than or equal to 0"),
    ({"top_p": float("nan")}, 400, "top_p", ""),
    ({"max_tokens": -1}, 400, "max_tokens", "greater than or equal to 0"),
    ({"max_tokens": 0}, 400, "max_tokens", "asks for nothing"),
    ({"max_tokens": True}, 400, "max_tokens", "valid integer"),
    ({"n": 0}, 400, "n", "greater than or equal to 1"),
    ({"n": 13}, 400, "n", "13 samples (prompts times n); this server takes 12"),
    ({"seed": 2**63}, 400, "seed", "less than"),
    ({"stop": ""}, 400, "stop", "at least 1 character"),
    ({"stop": ["a"] * 17}, 400, "stop", ""),
    ({"logprobs": 21}, 400, "logprobs", "less than or equal to 20"),
    ({"presence_penalty": 3}, 400, "presence_penalty", "less than or equal to 2"),
    ({"best_of": 2}, 400, "best_of", "takes only n, 1"),
    ({"logit_bias": {"5": 1.0}}, 400, "logit_bias", "does not have it"),
    ({"suffix": "end"}, 400, "suffix", ""),
    ({"stream_options": {"include_usage": 3}}, 400, "stream_options", "stream_options.include_usage: "),
    ({"conditions": {"style": 3}}, 400, "conditions", "conditions.style: "),
]


@pytest.mark.parametrize(("body", "status", "param", "message"), BAD, ids=[str(bad[0])[:40] for bad in BAD])
def test_what_is_wrong_is_said(site: Any, body: dict[str, Any], status: int, param: str | None, message: str) -> None:
    answer = site.complete(**{"prompt": "a", **body})
    assert (answer.status, answer.error["param"]) == (status, param)
    assert message in answer.error["message"]
    assert answer.error["type"] == "invalid_request_error"


RAW = [
    (b"", 400),
    (b"{", 400),
    (b"[]", 400),
    (b"null", 400),
    (b'{"model": "bytes", "prompt": "\xff\xfe"}', 400),
    (b'{"model": "bytes", "prompt": "\\ud800"}', 400),
    (b'{"model": "bytes", "prompt": ' + b"[" * 40_000 + b"]" * 40_000 + b"}", 400),
    (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, 400),
    (b"9" * 90_000, 400),
    (b'{"model": "bytes", "prompt": "' + b"x" * 100_000 + b'"}', 413),
]


@pytest.mark.parametrize(("raw", "status"), RAW, ids=range(len(RAW)))
def test_bodies_that_are_no_requests(site: Any, raw: bytes, status: int) -> None:
    answer = site.request("POST", "/v1/completions", raw, Content_Type="application/json")
    assert answer.status == status
    assert answer.error["message"]


def test_a_body_without_a_length_is_cut_off_too(site: Any) -> None:
    with socket.create_connection(("127.0.0.1", site.port), timeout=20) as connection:
        head = "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        try:
            for _ in range(200):
                connection.sendall(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        except OSError:
            pass
        assert b" 413 " in connection.recv(4096)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/completions", {}, 405),
        ("POST", "/health", {}, 405),
        ("GET", "/v2/anything", {}, 404),
        ("GET", "/v1/models/nobody", {}, 404),
        ("GET", "/../../etc/passwd", {}, 404),
        ("POST", "/v1/completions", {"Content_Type": "text/plain"}, 415),
        ("POST", "/v1/completions", {}, 415),
    ],
)
def test_errors_have_the_shape_of_openais(
    site: Any, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = site.request(method, path, b"{}" if method == "POST" else None, **headers)
    assert answer.status == status
    assert answer.error["type"] == "invalid_request_error"


def test_other_origins_are_not_let_in(site: Any) -> None:
    answer = site.request("GET", "/v1/models", Origin="https://example.org")
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_tokens_and_origins(make_site: Callable[..., Any], bytes_model: LanguageModel) -> None:
    site = make_site({"bytes": bytes_model}, token="s3cret", cors_origins=["https://example.org"])
    body = {"model": "bytes", "prompt": "a", "max_tokens": 2}
    for headers in ({}, {"Authorization": "Bearer s3cre"}, {"Authorization": "Basic s3cret"}, {"Authorization": ""}):
        for refused in (site.post("/v1/completions", body, **headers), site.request("GET", "/metrics", **headers)):
            assert (refused.status, refused.error["code"]) == (401, "invalid_api_key")
            assert refused.headers["www-authenticate"] == "Bearer"
    assert site.post("/v1/completions", body, **KEY).status == 200
    assert site.request("GET", "/metrics", **KEY).status == 200
    assert [site.request("GET", path).status for path in ("/health", "/ready", "/docs", "/openapi.json")] == [200] * 4
    asked = {"Origin": "https://example.org", "Access_Control_Request_Method": "POST"}
    allowed = site.request("OPTIONS", "/v1/completions", **asked)
    assert allowed.headers["access-control-allow-origin"] == "https://example.org"
    assert site.request("OPTIONS", "/v1/completions", **{**asked, "Origin": "https://evil.example"}).status == 400


def open_stream(port: int, **body: Any) -> socket.socket:
    """A connection on which a stream has begun."""
    raw = json.dumps({"model": "letters", "prompt": "", "stream": True, "max_tokens": 1000, **body}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}"
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(head.encode() + b"\r\n\r\n" + raw)
    return connection


def kill(connection: socket.socket) -> None:
    """As a process that is killed: what was not sent is lost, and the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


@pytest.mark.slow
def test_a_thousand_clients_that_are_killed_in_mid_stream_leak_nothing(site: Any) -> None:
    for _ in range(1000):
        connection = open_stream(site.port)
        begun = b""
        while b"data: " not in begun:
            begun += connection.recv(4096)
        assert begun.startswith(b"HTTP/1.1 200 ")
        kill(connection)
    site.wait_until_free()
    assert site.complete(prompt="a", max_tokens=3).status == 200


def test_clients_that_are_killed_before_their_answer_leak_nothing(site: Any) -> None:
    for number in range(200):
        connection = open_stream(site.port)
        # Before the request is read, or before it is answered.
        time.sleep(0.005 * (number % 2))
        kill(connection)
    site.wait_until_free()
    assert site.complete(prompt="a", max_tokens=3).status == 200


def test_whole_answers_are_dropped_too_when_the_client_goes(site: Any) -> None:
    connections = [open_stream(site.port, stream=False) for _ in range(4)]
    deadline = time.monotonic() + 30
    while site.engine.stats()["letters"].taken < 4:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    dispatches = site.engine.stats()["letters"].dispatches
    for connection in connections:
        kill(connection)
    site.wait_until_free()
    # 1,000 tokens would be some 60 dispatches.
    assert site.engine.stats()["letters"].dispatches < dispatches + 40


def test_a_full_queue_is_429(site: Any) -> None:
    connections = [open_stream(site.port) for _ in range(4)]
    for connection in connections:
        connection.recv(64)
    waiting = [open_stream(site.port) for _ in range(8)]
    deadline = time.monotonic() + 30
    while site.engine.stats()["letters"].waiting < 8:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    answer = site.complete(model="letters", prompt="a")
    assert (answer.status, answer.error["code"], answer.headers["retry-after"]) == (429, "queue_full", "1")
    for connection in [*connections, *waiting]:
        kill(connection)
    site.wait_until_free()


def test_a_slow_reader_holds_no_slot(site: Any) -> None:
    connection = open_stream(site.port, logprobs=20, n=4, max_tokens=400)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.recv(64)
    # It reads no more: what is written for it waits in the server, and the slots go to others.
    site.wait_until_free()
    assert site.complete(prompt="a", max_tokens=3).status == 200
    kill(connection)


def test_a_request_past_its_time_is_503(make_site: Callable[..., Any], letters: LanguageModel) -> None:
    site = make_site({"letters": letters}, Limits(slots=4, samples=200, seconds=1.0))
    body = {"model": "letters", "prompt": "", "n": 120, "max_tokens": 1000}
    answer = site.post("/v1/completions", body)
    assert (answer.status, answer.error["code"]) == (503, "timeout")
    streamed = site.post("/v1/completions", {**body, "stream": True}).raw.decode()
    error = json.loads(streamed.strip().split("\n\n")[-1].removeprefix("data: "))
    assert error["error"]["code"] == "timeout"
    site.wait_until_free()


def test_a_crash_shows_and_nothing_hangs(
    make_site: Callable[..., Any], letters: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = make_site({"letters": letters})
    connection = open_stream(site.port)
    connection.recv(64)

    def broken(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(step, "write", broken)
    rest = b""
    while piece := connection.recv(1 << 16):
        rest += piece
        if b'"code":' in rest.split(b"data: ")[-1] or b'"code": "stopped"' in rest:
            break
    connection.close()
    assert b'"code": "stopped"' in rest
    ready = site.request("GET", "/ready")
    assert (ready.status, ready.json) == (
        503,
        {"status": "stopped", "reason": "the engine has failed; the log says how"},
    )
    answer = site.post("/v1/completions", {"model": "letters", "prompt": "a"})
    assert (answer.status, answer.error["code"]) == (503, "stopped")
    assert site.request("GET", "/health").status == 200


def test_streams_that_cross_are_each_as_alone(site: Any, letters: LanguageModel) -> None:
    wanted = [letters.generate("", seed=seed, max_new_tokens=100) for seed in range(6)]
    assert len(set(wanted)) == 6
    found: list[tuple[int, str]] = []

    def call(number: int) -> None:
        seed = number % 6
        answer = site.complete(model="letters", prompt="", seed=seed, max_tokens=100, stream=bool(number % 2))
        if number % 2:
            text = "".join(event["choices"][0]["text"] for event in answer.events)
        else:
            text = answer.json["choices"][0]["text"]
        found.append((seed, text))

    threads = [threading.Thread(target=call, args=(n,)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12
    assert all(text == wanted[seed] for seed, text in found)


def test_static_page_is_served_where_it_is_there(site: Any) -> None:
    import jslm.serve

    page = Path(jslm.serve.__file__).parent / "static" / "index.html"
    answer = site.request("GET", "/")
    assert answer.status == (200 if page.is_file() else 404)
