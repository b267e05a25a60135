"""Tiny random models, and a run folder with its prepared data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jslm.config import Config, config_from_dict, config_to_toml
from jslm.infer import LanguageModel
from jslm.model import Params
from jslm.runs.checkpoint import CheckpointStore
from jslm.tokenizer import ByteTokenizer, Tokenizer
from jslm.tokens.token_file import TokenWriter
from tests.random_models import spread_params

CONTEXT = 32
DOCUMENTS = {
    "train": ["The cat saw the dog, and the dog saw the cat. ", "A café is öpen. " * 6, "zzz " * 20],
    "val": ["The dog saw the cat in the café. ", "", "A naïve 🙂 cat. " * 5],
}


def tiny_config(tokenizer: Tokenizer, **sections: Any) -> Config:
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "d_ff": 16, "context_length": CONTEXT}
    model = {**shape, "vocab_size": tokenizer.vocab_size, "dtype": "float32", **sections.pop("model", {})}
    values = {"model": model, "sample": {"temperature": 1.0, "max_new_tokens": 30}, **sections}
    return config_from_dict(values, "test")


def random_params(config: Config) -> Params:
    """Large enough that probabilities differ."""
    return spread_params(config.model, seed=5)


@pytest.fixture(scope="session")
def make_model() -> Callable[..., LanguageModel]:
    """`make_model(tokenizer, ends_documents, never_ends, **sections of the config)`."""

    def make(
        tokenizer: Tokenizer | None = None, ends_documents: bool = True, never_ends: bool = False, **sections: Any
    ) -> LanguageModel:
        tokenizer = tokenizer or ByteTokenizer()
        if never_ends:
            sections["model"] = {"norm": "layernorm", "tie_embeddings": False}
        config = tiny_config(tokenizer, **sections)
        params = random_params(config)
        if never_ends:
            # What is the same in every hidden state counts against the end of text alone.
            params["final_norm"]["bias"][0], params["head"]["tokens"][:, 0] = 10.0, 0.0
            params["head"]["tokens"][tokenizer.eot_id, 0] = -10.0
        return LanguageModel(config, jax.tree.map(jnp.asarray, params), tokenizer, ends_documents=ends_documents)

    return make


@pytest.fixture(scope="session")
def model(make_model: Callable[..., LanguageModel]) -> LanguageModel:
    return make_model()


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of prepared data, bytes as tokens, each document with its end-of-text token."""
    folder = tmp_path_factory.mktemp("data")
    tokenizer = ByteTokenizer()
    with TokenWriter(folder, tokenizer.vocab_size) as writer:
        for split, documents in DOCUMENTS.items():
            for text in documents:
                ids = [*tokenizer.encode(text), tokenizer.eot_id]
                assert split in ("train", "val")
                writer.append(split, ids, characters=len(text), utf8_bytes=len(text.encode()))  # type: ignore[arg-type]
        writer.commit({"tokenizer": {"fingerprint": tokenizer.fingerprint}, "end_of_text": True, "sources": []})
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run folder whose data is `data`, with one checkpoint of step 7."""
    tokenizer = ByteTokenizer()
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    folder.mkdir()
    config = tiny_config(tokenizer, run_dir=str(folder), data={"dir": str(data)})
    (folder / "config.toml").write_text(config_to_toml(config), "utf-8")
    (folder / "run.json").write_text(json.dumps({"data": {"end_of_text": True}}), "utf-8")
    tokenizer.save(folder / "tokenizer.json")
    store = CheckpointStore(folder / "checkpoints")
    metadata = {"val_loss": 1.0, "tokenizer_fingerprint": tokenizer.fingerprint}
    store.save(7, {"params": random_params(config)}, metadata)
    store.wait()
    return folder
