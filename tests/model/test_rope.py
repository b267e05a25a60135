"""Rotary positions: a rotation, and each way of stretching it against a scalar implementation of its paper."""

from __future__ import annotations

import cmath
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import ModelConfig
from jslm.model.rope import apply_rotary, default_positions, rotary_frequencies, rotary_tables

DIM, CONTEXT = 64, 4096


def make(**scaling: Any) -> ModelConfig:
    return ModelConfig.model_validate(
        {"d_model": DIM, "n_heads": 1, "context_length": CONTEXT, "rope_theta": 10000.0, "rope_scaling": scaling}
    )


def plain(pair: int) -> float:
    return float(10000.0 ** (-2 * pair / DIM))


def yarn(pair: int, factor: float, original: float, fast: float, slow: float) -> float:
    """Peng et al. 2023, equations 17 to 23; the band's ends are found by bisection, and rounded as usual."""

    def turns(place: float) -> float:
        return original * 10000.0 ** (-2 * place / DIM) / (2 * math.pi)

    def place_with(rotations: float) -> float:
        low, high = -1000.0, 1000.0
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if turns(middle) > rotations else (low, middle)
        return low

    first, last = max(math.floor(place_with(fast)), 0), min(math.ceil(place_with(slow)), DIM - 1)
    if pair <= first:
        return plain(pair)
    if pair >= last:
        return plain(pair) / factor
    share = (pair - first) / (last - first)
    return (1 - share) * plain(pair) + share * plain(pair) / factor


def llama3(pair: int, factor: float, original: float, low: float, high: float) -> float:
    """By wavelength, as Llama 3.1 describes its bands."""
    wavelength = 2 * math.pi / plain(pair)
    if wavelength < original / high:
        return plain(pair)
    if wavelength > original / low:
        return plain(pair) / factor
    smooth = (original / wavelength - low) / (high - low)
    return (1 - smooth) * plain(pair) / factor + smooth * plain(pair)


def ntk(pair: int, factor: float) -> float:
    """The lowest frequency is divided by the factor, the highest is kept, and those between stay geometric."""
    ratio = (plain(DIM // 2 - 1) / factor) ** (1 / (DIM // 2 - 1))
    return float(ratio**pair)


PAIRS = range(DIM // 2)
CASES: dict[str, tuple[dict[str, Any], list[float], float]] = {
    "none": ({}, [plain(i) for i in PAIRS], 1.0),
    "linear": ({"kind": "linear", "factor": 4.0}, [plain(i) / 4 for i in PAIRS], 1.0),
    "ntk": ({"kind": "ntk", "factor": 4.0}, [ntk(i, 4.0) for i in PAIRS], 1.0),
    "yarn": (
        {"kind": "yarn", "factor": 4.0},
        [yarn(i, 4.0, CONTEXT / 4, 32.0, 1.0) for i in PAIRS],
        0.1 * math.log(4) + 1,
    ),
    "yarn with all keys": (
        {
            "kind": "yarn",
            "factor": 8.0,
            "original_context_length": 2048,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "attention_factor": 1.5,
        },
        [yarn(i, 8.0, 2048, 16.0, 2.0) for i in PAIRS],
        1.5,
    ),
    "llama3": (
        {"kind": "llama3", "factor": 8.0, "original_context_length": 512},
        [llama3(i, 8.0, 512, 1.0, 4.0) for i in PAIRS],
        1.0,
    ),
    "llama3 with all keys": (
        {"kind": "llama3", "factor": 2.0, "low_freq_factor": 2.0, "high_freq_factor": 16.0},
        [llama3(i, 2.0, CONTEXT / 2, 2.0, 16.0) for i in PAIRS],
        1.0,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_frequencies(name: str) -> None:
    keys, wanted, factor = CASES[name]
    found, amplitude = rotary_frequencies(make(**keys))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert amplitude == pytest.approx(factor)
    if name.startswith(("yarn", "llama3")):
        kept = np.isclose(wanted, CASES["none"][1])
        divided = np.isclose(wanted, np.array(CASES["none"][1]) / keys["factor"])
        assert kept.any(), "a case must reach the band that stays"
        assert divided.any(), "and the one that is divided"
        assert (~kept & ~divided).any(), "and the one between"


def test_rotation_is_multiplication_of_complex_numbers() -> None:
    config = ModelConfig(d_model=8, n_heads=1, rope_theta=100.0)
    x = np.random.default_rng(0).standard_normal((1, 3, 2, 8)).astype(np.float32)
    positions = np.array([[0, 5, 7]], np.int32)
    found = np.asarray(apply_rotary(jnp.asarray(x), rotary_tables(config, jnp.asarray(positions))))
    for place, position in enumerate(positions[0]):
        for head in range(2):
            for pair in range(4):
                turned = complex(x[0, place, head, pair], x[0, place, head, pair + 4]) * cmath.exp(
                    1j * int(position) * 100.0 ** (-2 * pair / 8)
                )
                assert found[0, place, head, pair] == pytest.approx(turned.real, abs=1e-5)
                assert found[0, place, head, pair + 4] == pytest.approx(turned.imag, abs=1e-5)


def test_scores_depend_on_distance_alone() -> None:
    config = make()
    noise = np.random.default_rng(1)
    q, k = (jnp.asarray(noise.standard_normal((1, 1, 1, DIM)), jnp.float32) for _ in range(2))

    def score(at: int, other: int) -> float:
        turned = [
            apply_rotary(x, rotary_tables(config, jnp.array([[place]], jnp.int32)))
            for x, place in ((q, at), (k, other))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    assert score(13, 6) == pytest.approx(score(1007, 1000), abs=2e-3)
    assert abs(score(13, 6) - score(13, 7)) > 0.05


def test_amplitude_is_on_both_tables() -> None:
    positions = default_positions(1, 3)
    cos, sin = rotary_tables(make(kind="yarn", factor=4.0, attention_factor=3.0), positions)
    np.testing.assert_allclose(cos**2 + sin**2, 9.0, rtol=1e-5)


def test_narrow_types_are_rotated_in_float32() -> None:
    """bfloat16 angles would give positions 256 and 257 the same rotation."""
    config = make()
    x = jnp.ones((1, 2, 1, DIM), jnp.bfloat16)
    found = apply_rotary(x, rotary_tables(config, jnp.array([[256, 257]], jnp.int32)))
    assert found.dtype == jnp.bfloat16
    wanted = math.cos(257) - math.sin(257)
    assert float(found[0, 1, 0, 0]) == pytest.approx(wanted, abs=0.01)
    assert jnp.abs(found[0, 0, 0, 0] - found[0, 1, 0, 0]) > 0.3


def test_default_positions() -> None:
    positions = default_positions(2, 3)
    assert positions.dtype == jnp.int32
    np.testing.assert_array_equal(positions, [[0, 1, 2], [0, 1, 2]])
    assert isinstance(positions, jax.Array)
