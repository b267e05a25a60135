"""Embeddings of what a text is told to be."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pydantic import ValidationError

from jslm.config import ModelConfig
from jslm.model import (
    apply_decoder,
    count_parameters,
    init_params,
    loss_sums,
)

CONDITIONS = [{"name": "style", "labels": ["formal", "casual"]}, {"name": "domain", "labels": ["home", "work", "sea"]}]


def make_config(**changes: Any) -> ModelConfig:
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "context_length": 12, "vocab_size": 30}
    return ModelConfig(**{**shape, "conditions": CONDITIONS, **changes})


def make_params(config: ModelConfig) -> Any:
    params = init_params(config, jax.random.key(0))
    noise = np.random.default_rng(0)
    tables = params["embed"]["conditions"]
    assert all(not np.asarray(table).any() for table in tables.values())
    params["embed"]["conditions"] = {
        name: jnp.asarray(noise.standard_normal(table.shape, np.float32)) for name, table in tables.items()
    }
    return params


TOKENS = jnp.asarray(np.random.default_rng(1).integers(0, 30, (3, 12)), jnp.int32)


def labels(*rows: tuple[int, int]) -> jax.Array:
    return jnp.asarray(np.repeat(np.array(rows, np.int32)[:, None], 12, axis=1))


def test_a_label_is_added_to_each_token() -> None:
    config = make_config()
    params = make_params(config)
    hidden = apply_decoder(params, TOKENS, config, conditions=labels((1, -1), (-1, 2), (0, 0)))
    # The same by hand: tokens of a vocabulary into which the labels have been added.
    for row, (style, domain) in enumerate([(1, -1), (-1, 2), (0, 0)]):
        added = sum(
            np.asarray(params["embed"]["conditions"][name])[label]
            for name, label in (("style", style), ("domain", domain))
            if label >= 0
        )
        shifted = {**params, "embed": {"tokens": params["embed"]["tokens"] + added[None]}}
        wanted = apply_decoder(shifted, TOKENS[row : row + 1], config)
        np.testing.assert_allclose(hidden[row], wanted[0], rtol=0, atol=1e-5)


def test_none_is_the_model_without_conditions() -> None:
    config = make_config()
    params = make_params(config)
    plain = {**params, "embed": {"tokens": params["embed"]["tokens"]}}
    wanted = apply_decoder(plain, TOKENS, make_config(conditions=[]))
    for conditions in (None, labels((-1, -1), (-1, -1), (-1, -1))):
        np.testing.assert_array_equal(apply_decoder(params, TOKENS, config, conditions=conditions), wanted)


def test_training_drops_whole_documents() -> None:
    config = make_config(condition_dropout=0.5, conditions=CONDITIONS[:1])
    params = make_params(config)
    row = np.repeat(np.array([[1, 1, 2, 2, 2, 3]], np.int32), 2, axis=1)
    segments = jnp.asarray(np.repeat(row, 64, axis=0))
    tokens = jnp.asarray(np.repeat(TOKENS[:1], 64, axis=0))
    conditions = jnp.ones((64, 12, 1), jnp.int32)
    with_label = apply_decoder(params, tokens, config, segments=segments, conditions=conditions)
    without = apply_decoder(params, tokens, config, segments=segments)
    dropped = apply_decoder(
        params, tokens, config, segments=segments, conditions=conditions, dropout_key=jax.random.key(7)
    )
    is_kept = np.abs(np.asarray(dropped - with_label)).max(-1) < 1e-5
    is_dropped = np.abs(np.asarray(dropped - without)).max(-1) < 1e-5
    assert (is_kept ^ is_dropped).all()
    for number in (1, 2, 3):
        of_document = is_kept[:, np.asarray(segments[0]) == number]
        assert (of_document == of_document[:, :1]).all()
        assert 16 < of_document[:, 0].sum() < 48
    # Documents of one row lose theirs independently, and without the key nothing is dropped.
    assert len({tuple(row) for row in is_kept}) > 4
    np.testing.assert_array_equal(
        apply_decoder(params, tokens, config, segments=segments, conditions=conditions), with_label
    )


def test_labels_learn() -> None:
    config = make_config(condition_dropout=0.0)
    params = make_params(config)
    targets = jnp.where(jnp.arange(12)[None] < 3, -1, TOKENS)
    conditions = labels((1, -1), (1, 2), (1, -1))

    def loss(params: Any) -> jax.Array:
        return loss_sums(params, TOKENS, targets, config, conditions=conditions)[0]

    gradient = jax.grad(loss)(params)["embed"]["conditions"]
    assert [bool(row.any()) for row in np.asarray(gradient["style"])] == [False, True]
    assert [bool(row.any()) for row in np.asarray(gradient["domain"])] == [False, False, True]


def test_they_are_counted() -> None:
    with_labels, without = (count_parameters(make_config(conditions=found)) for found in (CONDITIONS, []))
    assert with_labels["condition_embeddings"] == 5 * 16
    assert with_labels["total"] - without["total"] == 5 * 16


@pytest.mark.parametrize(
    "conditions", [[CONDITIONS[0], CONDITIONS[0]], [{"name": "style", "labels": ["formal", "formal"]}]]
)
def test_twice_the_same_is_refused(conditions: Any) -> None:
    with pytest.raises(ValidationError, match="'style' or one of its labels comes twice"):
        make_config(conditions=conditions)
