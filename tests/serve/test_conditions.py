"""Conditions in requests: each slot has its own, and texts are those of `LanguageModel.with_conditions`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import pytest

from jslm.infer import LanguageModel

CONDITIONS = [{}, {"style": "formal"}, {"style": "casual"}, {"tone": "kind"}, {"style": "casual", "tone": "kind"}]
# The last one is read in two pieces.
PROMPTS = ["", "the one", "x" * 150]


@pytest.fixture(scope="module")
def styled_bench(make_module_bench: Callable[..., Any], styled: LanguageModel) -> Any:
    return make_module_bench({"styled": styled})


@pytest.fixture(scope="module")
def styled_site(make_module_site: Callable[..., Any], styled: LanguageModel, letters: LanguageModel) -> Any:
    return make_module_site({"styled": styled, "letters": letters}, chat="styled")


@pytest.mark.parametrize("settings", [{"greedy": True}, {"seed": 5, "top_p": 0.95}], ids=["greedy", "seeded"])
def test_each_row_of_a_batch_has_its_own(styled_bench: Any, styled: LanguageModel, settings: dict[str, Any]) -> None:
    # More requests than slots: a slot's next row must not keep the conditions of the one before.
    values = {**settings, "max_new_tokens": 25}
    wanted = [styled.with_conditions(conditions).generate(PROMPTS, **values) for conditions in CONDITIONS]
    callers = []
    for conditions in CONDITIONS:
        for prompt in PROMPTS:
            while styled_bench.engine.stats()["styled"].waiting > 4:
                time.sleep(0.005)
            callers.append(styled_bench.ask("styled", [prompt], conditions=conditions, **values))
    found = [caller.wait()[0].text for caller in callers]
    assert found == [text for texts in wanted for text in texts]
    assert len({texts[1] for texts in wanted}) == len(CONDITIONS), "texts that are alike would agree by chance"


def test_scores_of_the_prompt_know_them(styled_bench: Any, styled: LanguageModel) -> None:
    conditions = {"style": "formal", "tone": "kind"}
    values = {"max_new_tokens": 1, "scores_prompt": True, "writes": False}
    (heard,) = styled_bench.ask("styled", ["text"], conditions=conditions, **values).wait()
    logits = jnp.asarray(styled.with_conditions(conditions).logits([256, *b"text"])[0])
    logprobs = logits - jnp.log(jnp.exp(logits).sum(-1, keepdims=True))
    wanted = [float(logprobs[place, token]) for place, token in enumerate(b"text")]
    assert [token.logprob for token in heard.prompt_tokens] == pytest.approx(wanted, abs=1e-4)


def test_a_model_without_them_has_no_room_for_them(letters: LanguageModel, styled: LanguageModel) -> None:
    plain, told = (model.programs.empty(3).settings.labels for model in (letters, styled))
    assert plain.size == 0
    assert told.tolist() == [[-1, -1]] * 3


def test_rewrite_has_them(styled_site: Any, styled: LanguageModel) -> None:
    sentences = ["It is seen.", "We were told."]
    told = {"style": "casual", "tone": "kind"}
    for conditions in ({}, told):
        body = {"model": "styled", "sentences": sentences, "max_tokens": 12, "conditions": conditions}
        answer = styled_site.post("/v1/rewrite", body).json
        prompts = [f"{sentence}\n" for sentence in sentences]
        wanted = styled.with_conditions(conditions).generate(prompts, greedy=True, max_new_tokens=12, stop="\n")
        assert [rewrite["rewrite"] for rewrite in answer["rewrites"]] == wanted


def test_completions_and_chat_have_them(styled_site: Any, styled: LanguageModel) -> None:
    conditions = {"style": "formal"}
    formal = styled.with_conditions(conditions)
    values = {"seed": 3, "max_tokens": 20, "conditions": conditions}
    wanted = formal.generate("a", seed=3, max_new_tokens=20)
    body = {"model": "styled", "prompt": "a", **values}
    assert styled_site.complete(**body).json["choices"][0]["text"] == wanted
    events = styled_site.complete(**body, stream=True).events
    assert "".join(event["choices"][0]["text"] for event in events) == wanted
    chat = {"model": "chat", "messages": [{"role": "user", "content": "Hi"}], **values}
    answer = styled_site.post("/v1/chat/completions", chat).json["choices"][0]["message"]["content"]
    assert answer == formal.generate("user: Hi\na:", seed=3, max_new_tokens=20, document_start=False)


@pytest.mark.parametrize(
    ("conditions", "code", "message"),
    [
        ({"form": "formal"}, "unknown_condition", "styled has no condition 'form'; it has style, tone"),
        ({"tone": "kind", "style": "kind"}, "unknown_label", "style cannot be 'kind'; it can be formal, casual"),
        ({"style": "formal\n"}, "unknown_label", "style cannot be 'formal\\n'; it can be formal, casual"),
        ({"style": 1}, None, "string"),
        (["formal"], None, "object"),
    ],
)
def test_what_the_model_does_not_have_is_400(styled_site: Any, conditions: Any, code: str | None, message: str) -> None:
    for path, more in (("completions", {"prompt": "a"}), ("rewrite", {"sentences": ["a"]})):
        answer = styled_site.post(f"/v1/{path}", {"model": "styled", "conditions": conditions, **more})
        assert (answer.status, answer.error["code"], answer.error["param"]) == (400, code, "conditions")
        assert message in answer.error["message"]


def test_a_model_without_them_says_so(styled_site: Any) -> None:
    answer = styled_site.complete(model="letters", conditions={"style": "formal"})
    assert (answer.status, answer.error["code"]) == (400, "no_conditions")
    assert styled_site.complete(model="letters", conditions={}, max_tokens=2).status == 200


def test_models_list_them(styled_site: Any) -> None:
    listed = {model["id"]: model["conditions"] for model in styled_site.request("GET", "/v1/models").json["data"]}
    assert listed == {
        "styled": {"style": ["formal", "casual"], "tone": ["kind"]},
        "letters": {},
        "chat": listed["styled"],
    }
    document = styled_site.request("GET", "/openapi.json").json
    for name in ("CompletionRequest", "ChatRequest", "RewriteRequest"):
        assert document["components"]["schemas"][name]["properties"]["conditions"]["anyOf"][0]["type"] == "object"


def test_numbers_are_the_same_bits_whoever_is_beside(styled_bench: Any) -> None:
    def ask() -> Any:
        return styled_bench.ask("styled", ["one"], seed=7, max_new_tokens=30, conditions={"style": "formal"})

    (alone,) = ask().wait()
    crowd = [styled_bench.ask("styled", ["two"], seed=n, conditions=CONDITIONS[n]) for n in range(3)]
    (crowded,) = ask().wait()
    assert len(alone.tokens) > 5
    assert [dataclasses.astuple(token) for token in crowded.tokens] == [
        dataclasses.astuple(token) for token in alone.tokens
    ]
    for caller in crowd:
        caller.wait()
