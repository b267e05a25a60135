"""Tiny random models, made once. Models of one shape share their compiled programs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jslm.config import Config, config_from_dict
from jslm.infer import LanguageModel
from jslm.model import Params, init_params, loss_sums
from jslm.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from tests.random_models import spread_params

MakeModel = Callable[..., LanguageModel]


def _config(**model: Any) -> Config:
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "d_ff": 16, "context_length": 64}
    sample = {"temperature": 1.0, "max_new_tokens": 40}
    values = {"model": {**shape, "vocab_size": 257, "dtype": "float32", **model}, "sample": sample}
    return config_from_dict(values, "test")


def _random_params(config: Config) -> Params:
    """Large enough that each step has its own likeliest token."""
    return spread_params(config.model, seed=3)


def _letters_params(config: Config, end_of_text: float) -> Params:
    """The last norm's bias favours the rows of a to z, and that of end of text by `end_of_text` of theirs."""
    params = _random_params(config)
    table, bias = params["head"]["tokens"], params["final_norm"]["bias"]
    table[:, 0], bias[0] = -3.0, 10.0
    table[ord("a") : ord("z") + 1, 0] = 3.0
    table[256] = 0.0
    table[256, 0] = 3.0 * end_of_text
    return params


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    """`make_model(tokenizer, ends_documents, **keys of [model])`: a model that writes arbitrary bytes."""

    def make(tokenizer: Tokenizer | None = None, ends_documents: bool = True, **keys: Any) -> LanguageModel:
        tokenizer = tokenizer or ByteTokenizer()
        config = _config(**{"vocab_size": tokenizer.vocab_size, **keys})
        params = jax.tree.map(jnp.asarray, _random_params(config))
        return LanguageModel(config, params, tokenizer, ends_documents=ends_documents)

    return make


@pytest.fixture(scope="session")
def model(make_model: MakeModel) -> LanguageModel:
    """Writes arbitrary bytes."""
    return make_model()


@pytest.fixture(scope="session")
def letters_config() -> Config:
    return _config(norm="layernorm", tie_embeddings=False)


@pytest.fixture(scope="session")
def letters_params(letters_config: Config) -> Params:
    return jax.tree.map(jnp.asarray, _letters_params(letters_config, end_of_text=-1.0))


@pytest.fixture(scope="session")
def letters(letters_config: Config, letters_params: Params) -> LanguageModel:
    """Writes the letters a to z and never ends by itself."""
    return LanguageModel(letters_config, letters_params, ByteTokenizer())


@pytest.fixture(scope="session")
def ending(letters_config: Config) -> LanguageModel:
    """Writes the letters a to z, and ends after some tens of them."""
    params = jax.tree.map(jnp.asarray, _letters_params(letters_config, end_of_text=1.0))
    return LanguageModel(letters_config, params, ByteTokenizer())


# What `rewriter` has learned by heart.
PAIRS = {
    "The cheese was eaten by a mouse.": "A mouse ate the cheese.",
    "A letter was written by Ann.": "Ann wrote a letter.",
    "The old house was sold by them.": "They sold the old house.",
    "We heard the bells of the town.": "We heard the bells of the town.",
}


@pytest.fixture(scope="session")
def rewriter() -> LanguageModel:
    """Knows the sentences of PAIRS by heart, and is unsure of all others."""
    tokenizer = CharTokenizer("".join(PAIRS) + "".join(PAIRS.values()) + "\n")
    shape = {"n_layers": 2, "d_model": 48, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96, "position": "learned"}
    config = _config(**shape, vocab_size=tokenizer.vocab_size, context_length=80)
    rows = np.zeros((len(PAIRS), 64), np.int32)
    targets = np.full((len(PAIRS), 64), -1, np.int32)
    for row, target, (prompt, completion) in zip(rows, targets, PAIRS.items(), strict=True):
        first, second = tokenizer.encode(prompt + "\n"), [*tokenizer.encode(completion), tokenizer.eot_id]
        row[: len(first) + len(second)] = [tokenizer.eot_id, *first, *second[:-1]]
        target[len(first) : len(first) + len(second)] = second
    optimizer = optax.adam(5e-3)

    @jax.jit
    def learn(params: Params, state: optax.OptState) -> tuple[Params, optax.OptState]:
        batch = jnp.asarray(rows), jnp.asarray(targets)
        gradients = jax.grad(lambda params: loss_sums(params, *batch, config.model)[0] / 100)(params)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params = init_params(config.model, jax.random.key(0))
    state = optimizer.init(params)
    for _ in range(60):
        params, state = learn(params, state)
    return LanguageModel(config, params, tokenizer)


@pytest.fixture(scope="session")
def pairs() -> dict[str, str]:
    """Prompts and completions that `rewriter` knows."""
    return PAIRS
