from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.infer.samplers import (
    Features,
    Sampling,
    choose_tokens,
    draw_tokens,
    filter_logits,
    likeliest_tokens,
    penalise_repetition,
)

VOCAB = 23
ROWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 2.0, "top_k": 4},
    {"top_k": 1},
    {"top_k": 1000},
    {"top_p": 0.6},
    {"top_p": 1e-6},
    {"top_p": 0.9999},
    {"min_p": 0.2},
    {"min_p": 1.0},
    {"temperature": 0.7, "top_k": 7, "top_p": 0.8, "min_p": 0.1},
]

DRAWS = Features(draws=True, sorts=True, penalises=False, tops=False, asks=False)


def make_sampling(rows: list[dict[str, Any]]) -> Sampling:
    defaults = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0}
    defaults |= {"presence_penalty": 0.0, "frequency_penalty": 0.0}
    types = {"top_k": np.int32}
    return Sampling(
        **{
            name: jnp.asarray([row.get(name, value) for row in rows], types.get(name, np.float32))
            for name, value in defaults.items()
        }
    )


def naive_distribution(
    logits: np.ndarray, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> np.ndarray:
    """Token by token, in float64, by sets of tokens in the order of their probability."""

    def shares(kept: list[int]) -> dict[int, float]:
        weights = {token: np.exp((logits[token] - logits.max()) / temperature) for token in kept}
        return {token: weight / sum(weights.values()) for token, weight in weights.items()}

    kept = sorted(range(len(logits)), key=lambda token: -logits[token])
    if top_k:
        kept = kept[:top_k]
    if top_p < 1:
        nucleus, total = [], 0.0
        for token, share in shares(kept).items():
            nucleus.append(token)
            total += share
            if total >= top_p:
                break
        kept = nucleus
    current = shares(kept)
    kept = [token for token in kept if current[token] >= min_p * max(current.values())]
    result = np.zeros(len(logits))
    for token, share in shares(kept).items():
        result[token] = share
    return result


def test_filters_give_the_distributions_of_their_definitions() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (len(ROWS), VOCAB)).astype(np.float32)
    filtered = jax.jit(filter_logits)(logits, make_sampling(ROWS))
    expected = np.stack([naive_distribution(row.astype(np.float64), **s) for row, s in zip(logits, ROWS, strict=True)])
    got = np.asarray(jax.nn.softmax(filtered, axis=-1))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(got > 0, expected > 0)


def test_rows_that_need_no_sort_are_the_same_without_it() -> None:
    logits = np.random.default_rng(1).normal(0, 9, (3, VOCAB)).astype(np.float32)
    sampling = make_sampling([{}, {"temperature": 0.3}, {"min_p": 0.3}])
    with_sort = jax.jit(filter_logits)(logits, sampling)
    without = jax.jit(functools.partial(filter_logits, sort=False))(logits, sampling)
    np.testing.assert_array_equal(with_sort, without)


def test_tokens_that_tie_with_the_last_one_kept_stay() -> None:
    logits = np.array([[2.0, 1.0, 1.0, 0.0]], np.float32)
    kept = np.isfinite(np.asarray(filter_logits(jnp.asarray(logits), make_sampling([{"top_k": 2}]))))
    assert kept.tolist() == [[True, True, True, False]]


def test_repetition_penalty_divides_positive_and_multiplies_negative_logits() -> None:
    logits = np.array([[3.0, -3.0, 3.0, -3.0], [1.0, 1.0, 1.0, 1.0]], np.float32)
    seen = np.array([[True, True, False, False], [True, False, False, False]])
    got = penalise_repetition(jnp.asarray(logits), jnp.asarray(seen), jnp.array([1.5, 1.0]))
    np.testing.assert_allclose(got, [[2.0, -4.5, 3.0, -3.0], [1.0, 1.0, 1.0, 1.0]])


def test_draws_follow_the_distribution() -> None:
    """20,000 draws: each share within 5 standard errors."""
    draws = 20_000
    setting: dict[str, Any] = {"temperature": 0.8, "top_k": 9}
    logits = np.random.default_rng(2).normal(0, 1, VOCAB).astype(np.float32)
    sampling = Sampling(*(jnp.broadcast_to(column, (draws,)) for column in make_sampling([setting])))
    keys = jax.random.split(jax.random.key(0), draws)
    run = jax.jit(choose_tokens, static_argnames="features")
    everyone = np.ones(draws, bool)
    tokens = run(np.tile(logits, (draws, 1)), keys, sampling, None, None, everyone, features=DRAWS)
    shares = np.bincount(np.asarray(tokens), minlength=VOCAB) / draws
    expected = naive_distribution(logits.astype(np.float64), **setting)
    assert np.all(np.abs(shares - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws))


def test_temperature_zero_is_greedy_beside_rows_that_draw() -> None:
    logits = np.random.default_rng(4).normal(0, 1, (2, VOCAB)).astype(np.float32)
    sampling = make_sampling([{"temperature": 0.0}, {"temperature": 50.0}])
    run = jax.jit(choose_tokens, static_argnames="features")
    both = np.ones(2, bool)
    drawn = [
        np.asarray(run(logits, jax.random.split(jax.random.key(i), 2), sampling, None, None, both, features=DRAWS))
        for i in range(20)
    ]
    assert {int(tokens[0]) for tokens in drawn} == {int(logits[0].argmax())}
    assert len({int(tokens[1]) for tokens in drawn}) > 5


@pytest.mark.parametrize("name", ["scan", "random_bits", "threefry2x32"])
def test_greedy_plan_pays_for_no_sampling(name: str) -> None:
    logits, keys = jnp.zeros((2, VOCAB)), jax.random.split(jax.random.key(0), 2)

    def program(features: Features) -> str:
        seen, counts, both = jnp.zeros((2, VOCAB), bool), jnp.zeros((2, VOCAB), jnp.int32), jnp.ones(2, bool)
        run = functools.partial(choose_tokens, features=features)
        return str(jax.make_jaxpr(run)(logits, keys, make_sampling([{}, {}]), seen, counts, both))

    assert name not in program(Features(False, False, False, False, asks=False))
    if name != "threefry2x32":
        assert name in program(Features())


@pytest.mark.parametrize("vocab", [3, 128, 300])
def test_draws_follow_the_softmax(vocab: int) -> None:
    rng = np.random.default_rng(vocab)
    logits = rng.normal(0, 2, vocab).astype(np.float32)
    logits[rng.integers(0, vocab, vocab // 3)] = -np.inf
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    count = 40_000
    keys = jax.random.split(jax.random.key(6), count)
    drawn = np.asarray(jax.jit(draw_tokens)(jnp.broadcast_to(jnp.asarray(logits), (count, vocab)), keys))
    found = np.bincount(drawn, minlength=vocab)
    assert not found[shares == 0].any()
    # Each count is binomial; five standard deviations and a little for the rarest.
    np.testing.assert_array_less(np.abs(found - count * shares), 5 * np.sqrt(count * shares) + 3)


def test_a_draw_is_a_row_s_own() -> None:
    logits = jnp.asarray(np.random.default_rng(5).normal(0, 2, (64, VOCAB)), jnp.float32)
    keys = jax.random.split(jax.random.key(6), 64)
    together = draw_tokens(logits, keys)
    for row in range(0, 64, 7):
        assert int(draw_tokens(logits[row : row + 1], keys[row : row + 1])[0]) == int(together[row])


def test_the_likeliest_is_the_first_of_those_that_tie() -> None:
    logits = np.random.default_rng(7).integers(-3, 3, (200, VOCAB)).astype(np.float32)
    logits[0], logits[1] = -np.inf, 0.0
    np.testing.assert_array_equal(likeliest_tokens(jnp.asarray(logits)), logits.argmax(-1))
    assert 0 <= int(likeliest_tokens(jnp.full(VOCAB, jnp.nan))) < VOCAB
