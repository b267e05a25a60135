from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm.errors import JslmError
from jslm.infer import LanguageModel, Result, Row, lookup, make_request
from jslm.infer.lookup import DRAFT_TOKENS, guess_next, write_greedy
from jslm.infer.programs import JaxPrograms

MakeModel = Callable[..., LanguageModel]


def looked_up(
    model: LanguageModel, prompts: Sequence[str], draft: int, most: int = 40, stop: str | Sequence[str] = ()
) -> tuple[list[Row], int]:
    options = make_request(model.config.sample, greedy=True, max_new_tokens=most, stop=stop)
    rows = [model.row(prompt, 0, options) for prompt in prompts]
    return rows, write_greedy(model, rows, draft=draft)


def assert_same(rows: Sequence[Row], expected: Sequence[Result]) -> None:
    for row, result in zip(rows, expected, strict=True):
        found = row.result()
        assert (found.tokens, found.text, found.finish_reason) == (result.tokens, result.text, result.finish_reason)
        np.testing.assert_allclose(found.logprobs, result.logprobs, atol=1e-4)


@pytest.mark.parametrize("draft", [0, 3, 11])
def test_output_is_that_of_greedy_decoding(model: LanguageModel, letters: LanguageModel, draft: int) -> None:
    prompts = ["abcabcabcab", "a much longer prompt", "", "x"]
    expected = model.generate_results(prompts, greedy=True)
    assert_same(looked_up(model, prompts, draft)[0], expected)
    assert_same(looked_up(model, prompts[1:2], draft)[0], expected[1:2])
    assert_same(looked_up(letters, prompts, draft)[0], letters.generate_results(prompts, greedy=True))


def test_the_end_of_text_is_scored(rewriter: LanguageModel, pairs: dict[str, str]) -> None:
    (row,), _ = looked_up(rewriter, [next(iter(pairs)) + "\n"], 3)
    assert row.finish_reason == "stop"
    logits = rewriter.logits(row.ids)[0, -1]
    assert row.end_logprob == pytest.approx(float(jax.nn.log_softmax(logits)[rewriter.tokenizer.eot_id]), abs=1e-4)


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_up_to_the_last_token_of_the_context(make_model: MakeModel, position: str) -> None:
    writer = make_model(position=position, context_length=32)
    prompts = ["abcdefghij", "ab"]
    rows, _ = looked_up(writer, prompts, 7, most=100)
    assert_same(rows, writer.generate_results(prompts, greedy=True, max_new_tokens=100))
    assert max(len(row.ids) for row in rows) == 32


def test_more_than_the_first_cache_holds(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = make_model(context_length=160)
    caches: list[int] = []
    write = lookup._write_within

    def counted(*arguments: Any) -> int:
        caches.append(arguments[-1])
        return write(*arguments)

    monkeypatch.setattr(lookup, "_write_within", counted)
    prompts = ["abcdefghij", "ab", "x"]
    for draft in (0, 5):
        assert_same(
            looked_up(writer, prompts, draft, most=90)[0],
            writer.generate_results(prompts, max_new_tokens=90, greedy=True),
        )
    assert caches == [48, 101, 48, 101]
    # Read again, with what is written by then, the prompt is padded to more than the row may grow to.
    long = ["abcdefghijk" * 3]
    assert_same(looked_up(writer, long, 5, most=120)[0], writer.generate_results(long, max_new_tokens=120, greedy=True))
    assert caches[4:] == [144, 160]
    caches.clear()
    rows, _ = looked_up(writer, prompts, 5, most=20)
    assert (caches, [len(row.tokens) for row in rows]) == ([31], [20] * 3)


def test_guesses_may_be_checked_in_another_type(rewriter: LanguageModel, pairs: dict[str, str]) -> None:
    own = rewriter.programs
    assert isinstance(own, JaxPrograms)
    assert (own.drafting is own, own.kind) == (True, "float32")
    narrow = copy.copy(rewriter)
    narrow.programs = JaxPrograms(own.params, own.config, own.dtype, own.mesh, jnp.dtype(jnp.bfloat16))
    assert (narrow.programs.kind, narrow.programs.drafting.kind) == ("float32, rewriting in bfloat16", "bfloat16")
    assert narrow.programs.weights["layers"][0]["mlp"]["up"]["kernel"].dtype == jnp.float32
    assert narrow.programs.drafting.weights["layers"][0]["mlp"]["up"]["kernel"].dtype == jnp.bfloat16
    prompts = [f"{prompt}\n" for prompt in pairs]
    wide, _ = looked_up(rewriter, prompts, 7)
    rows, _ = looked_up(narrow, prompts, 7)
    assert [row.text for row in rows] == list(pairs.values())
    for row, same in zip(rows, wide, strict=True):
        assert row.logprobs != same.logprobs
        np.testing.assert_allclose(row.logprobs, same.logprobs, atol=0.05)
    plain, _ = looked_up(narrow, prompts, 0)
    assert_same(plain, [row.result() for row in looked_up(rewriter, prompts, 0)[0]])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("ab ", max_size=14), min_size=1, max_size=2), st.sampled_from([1, 5]), st.integers(1, 40))
def test_any_prompt_any_length(model: LanguageModel, prompts: list[str], draft: int, most: int) -> None:
    rows, rounds = looked_up(model, prompts, draft, most)
    assert_same(rows, model.generate_results(prompts, greedy=True, max_new_tokens=most))
    longest = max(len(row.tokens) for row in rows)
    assert longest / (draft + 1) <= rounds <= longest + 1


def test_copying_takes_few_rounds(rewriter: LanguageModel, pairs: dict[str, str]) -> None:
    prompts = [f"{prompt}\n" for prompt in pairs]
    rows, plain_rounds = looked_up(rewriter, prompts, 0)
    assert [row.text for row in rows] == list(pairs.values())
    assert plain_rounds == 1 + max(map(len, pairs.values()))
    expected = rewriter.generate_results(prompts, greedy=True, max_new_tokens=40)
    rounds = 0
    for prompt, result in zip(prompts, expected, strict=True):
        found, needed = looked_up(rewriter, [prompt], DRAFT_TOKENS)
        assert_same(found, [result])
        rounds += needed
    assert rounds <= sum(len(result.tokens) + 1 for result in expected) / 2
    copy = next(f"{prompt}\n" for prompt, completion in pairs.items() if prompt == completion)
    # 31 characters and the end: three rounds of twelve tokens, and one for the first word.
    assert looked_up(rewriter, [copy], 11)[1] <= 4


def test_stop_string_cuts(letters: LanguageModel) -> None:
    (whole,) = letters.generate_results("abc", greedy=True)
    stop = whole.text[5:7]
    assert_same(looked_up(letters, ["abc"], 4, stop=stop)[0], letters.generate_results("abc", greedy=True, stop=stop))


def test_no_rows_and_no_numbers(make_model: MakeModel) -> None:
    broken = make_model()
    assert write_greedy(broken, []) == 0
    assert isinstance(broken.programs, JaxPrograms)
    broken.programs.weights = jax.tree.map(lambda leaf: leaf * jnp.nan, broken.programs.weights)
    with pytest.raises(JslmError, match="logits are not finite"):
        looked_up(broken, ["abc"], 3)


def naive_guess(ids: list[int], count: int) -> list[int]:
    """The tokens after the first of the longest matches of up to 8 tokens, repeated where there are too few."""
    best, follows = 0, 1
    for end in range(1, len(ids)):
        size = 0
        while size < min(8, end) and ids[end - 1 - size] == ids[-1 - size]:
            size += 1
        if size > best:
            best, follows = size, end
    tail = ids[follows:]
    return [tail[index % len(tail)] for index in range(count)] if best else []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=24), min_size=2, max_size=2))
def test_guesses_are_what_followed_the_longest_match(rows: list[list[int]]) -> None:
    tokens = np.full((2, 32), 3, np.int32)
    for padded, ids in zip(tokens, rows, strict=True):
        padded[: len(ids)] = ids
    found = guess_next(jnp.asarray(tokens), jnp.asarray([len(ids) for ids in rows], jnp.int32), 5)
    for guessed, ids in zip(found.tolist(), rows, strict=True):
        if expected := naive_guess(ids, 5):
            assert guessed == expected
