from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.errors import JslmError
from jslm.infer import LanguageModel, make_request
from jslm.infer.beam import search
from jslm.infer.programs import JaxPrograms
from jslm.infer.state import whole_prompts
from jslm.tokenizer import CharTokenizer

MakeModel = Callable[..., LanguageModel]
LIMIT = 4


@pytest.fixture(scope="module")
def tiny(make_model: MakeModel) -> LanguageModel:
    """Four tokens: end of text, unknown, a and b; any of them at any place."""
    return make_model(CharTokenizer("ab"), d_model=8, context_length=16)


def start(model: LanguageModel, prompt: str) -> list[int]:
    return [model.tokenizer.eot_id, *model.tokenizer.encode(prompt)]


def next_logprobs(model: LanguageModel, texts: list[list[int]]) -> np.ndarray:
    """Of the token after each text; all of one length."""
    return np.asarray(jax.nn.log_softmax(model.logits(np.array(texts))[:, -1]), np.float64)


def every_text(model: LanguageModel, prompt: str, limit: int) -> Iterator[tuple[list[int], float, bool]]:
    """(tokens, log-probability, whether it ended) of every text there is within `limit` tokens."""
    alive: dict[tuple[int, ...], float] = {(): 0.0}
    begin, end = start(model, prompt), model.tokenizer.eot_id
    for _ in range(limit):
        logprobs = next_logprobs(model, [[*begin, *text] for text in alive])
        grown: dict[tuple[int, ...], float] = {}
        for (text, total), row in zip(alive.items(), logprobs, strict=True):
            yield list(text), total + row[end], True
            grown |= {(*text, token): total + row[token] for token in range(len(row)) if token != end}
        alive = grown
    for text, total in alive.items():
        yield list(text), total, False


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 3.0])
@pytest.mark.parametrize("prompt", ["", "abba"])
def test_wide_beams_find_what_an_exhaustive_search_finds(tiny: LanguageModel, prompt: str, alpha: float) -> None:
    found = tiny.beam_search(prompt, beams=81, alpha=alpha, max_new_tokens=LIMIT)
    ended: list[tuple[float, list[int]]] = []
    cut: list[tuple[float, list[int]]] = []
    for tokens, total, ends in every_text(tiny, prompt, LIMIT):
        (ended if ends else cut).append((total / (len(tokens) + ends) ** alpha, tokens))
    assert (len(ended), len(cut)) == (1 + 3 + 9 + 27, 81)
    expected = [*sorted(ended, reverse=True), *sorted(cut, reverse=True)][:81]
    assert [result.tokens for _, result in found] == [tokens for _, tokens in expected]
    np.testing.assert_allclose([score for score, _ in found], [score for score, _ in expected], atol=1e-4)
    assert [result.finish_reason for _, result in found] == ["stop"] * 40 + ["length"] * 41


def naive_beams(model: LanguageModel, prompt: str, beams: int, alpha: float, limit: int) -> list[list[int]]:
    """The texts that end, of a beam search without early stopping; one forward pass of everything a token."""
    end = model.tokenizer.eot_id
    alive: list[tuple[float, list[int]]] = [(0.0, [])]
    ended: list[tuple[float, list[int]]] = []
    for _ in range(limit):
        logprobs = next_logprobs(model, [start(model, prompt) + tokens for _, tokens in alive])
        grown = [
            (total + row[token], [*tokens, token])
            for (total, tokens), row in zip(alive, logprobs, strict=True)
            for token in range(len(row))
        ]
        grown = sorted(grown, reverse=True)[: 2 * beams]
        ended += [(total / len(tokens) ** alpha, tokens[:-1]) for total, tokens in grown if tokens[-1] == end]
        alive = [each for each in grown if each[1][-1] != end][:beams]
    return [tokens for _, tokens in sorted(ended, reverse=True)[:beams]]


@pytest.mark.parametrize(("beams", "alpha"), [(1, 0.0), (2, 1.0), (3, 0.5), (5, 1.0)])
def test_narrow_beams_are_those_of_a_naive_search(tiny: LanguageModel, beams: int, alpha: float) -> None:
    for prompt in ("", "a", "bab"):
        found = tiny.beam_search(prompt, beams=beams, alpha=alpha, max_new_tokens=12)
        expected = naive_beams(tiny, prompt, beams, alpha, 12)
        assert [result.tokens for _, result in found][: len(expected)] == expected
        assert len(found) == beams


def test_logprobs_are_those_of_the_tokens(tiny: LanguageModel) -> None:
    for score, result in tiny.beam_search("ab", beams=3, max_new_tokens=10):
        ids = start(tiny, "ab")
        logprobs = jax.nn.log_softmax(tiny.logits([*ids, *result.tokens])[0])[len(ids) - 1 :]
        expected = [float(row[token]) for row, token in zip(logprobs, result.tokens, strict=False)]
        np.testing.assert_allclose(result.logprobs, expected, atol=1e-4)
        if result.finish_reason == "stop":
            expected.append(float(logprobs[-1][tiny.tokenizer.eot_id]))
        assert score == pytest.approx(float(np.mean(expected)), abs=1e-4)


def test_search_stops_early(rewriter: LanguageModel, pairs: dict[str, str]) -> None:
    """A sure model needs little more than its text, whatever the room; what the search has not reached stays zero."""
    prompt, completion = next(iter(pairs.items()))
    options = make_request(rewriter.config.sample, max_new_tokens=45)
    row = rewriter.row(f"{prompt}\n", 0, options)
    state = rewriter.programs.start(whole_prompts([row], 64, rewriter.settings([row])), 80)
    numbers = (np.int32(45), np.int32(rewriter.tokenizer.eot_id), np.float32(0.0))
    ended, alive = rewriter.programs.run(search, state, *numbers, beams=1, slots=80)
    assert int(alive.length[0]) == int(ended.length[0]) == len(completion) + 1
    assert rewriter.beam_search(f"{prompt}\n", beams=1, max_new_tokens=45)[0][1].text == completion


def test_texts_are_ranked_by_length_normalised_probability(tiny: LanguageModel) -> None:
    lengths = {}
    for alpha in (0.0, 3.0):
        found = tiny.beam_search("", beams=20, alpha=alpha, max_new_tokens=6)
        scores = [score for score, result in found if result.finish_reason == "stop"]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(result.tokens) for _, result in found}) == len(found)
        lengths[alpha] = np.mean([len(result.tokens) for _, result in found[:5]])
    assert lengths[0.0] < lengths[3.0]


@pytest.mark.parametrize(("beams", "alpha"), [(0, 1.0), (2, -1.0), (2, math.nan)])
def test_bad_arguments(tiny: LanguageModel, beams: int, alpha: float) -> None:
    with pytest.raises(JslmError, match="expected 1 or more beams, and an alpha of 0 or more"):
        tiny.beam_search("a", beams=beams, alpha=alpha)


def test_numbers_that_are_none(make_model: MakeModel) -> None:
    broken = make_model(CharTokenizer("ab"))
    assert isinstance(broken.programs, JaxPrograms)
    broken.programs.weights = jax.tree.map(lambda leaf: leaf * jnp.nan, broken.programs.weights)
    with pytest.raises(JslmError, match="logits are not finite"):
        broken.beam_search("ab", beams=2, max_new_tokens=3)
