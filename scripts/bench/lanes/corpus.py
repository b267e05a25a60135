"""Stand-ins for what a run needs besides its shape: a tokenizer with just that vocabulary, token files, a model file.

Not measured: opened once a size, by jslm's interpreter, for the files it leaves behind.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jslm.config import Config, config_from_dict
from jslm.formats.formats import format_named
from jslm.model import compute_dtype, count_parameters, flops_per_token, init_params
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, CharTokenizer, Tokenizer
from jslm.tokenizer.bpe import byte_spelling
from jslm.tokens.token_file import TokenWriter
from scripts.bench.sizes import SIZES


class Corpus:
    """Nothing takes turns here: `facts` says what was made."""

    def __init__(self, facts: dict[str, Any]) -> None:
        self.facts = facts

    def turn(self, case: str, seconds: float) -> tuple[float, float]:
        """Never called."""
        raise NotImplementedError


def open_lane(spec: dict[str, Any]) -> Corpus:
    """Writes into `spec["folder"]`: `tokenizer.json`, and `data/` with `spec["tokens"]` random tokens, for a size.

    With `spec["gguf"]`, also `float32.gguf` and `bfloat16.gguf` of random weights.
    """
    folder, size = Path(spec["folder"]), SIZES[spec["size"]]
    tokenizer = stand_in_tokenizer(size.vocab_size)
    tokenizer.save(folder / "tokenizer.json")
    config = run_config(size.name, folder)
    _write_tokens(folder / "data", tokenizer, spec["tokens"])
    model = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
    count = count_parameters(model)
    facts: dict[str, Any] = {
        "parameters": count["total"],
        "flops_per_token_trained": flops_per_token(model),
        # Those that a token is multiplied by: the head's are the embedding's, and positions are looked up.
        "weights": count["layers"] + count["token_embedding"],
        "platform": jax.default_backend(),
        "default_dtype": compute_dtype(model).name,
    }
    if spec.get("gguf"):
        facts["gguf_error"] = _write_gguf(random_bundle(config, tokenizer), folder)
    return Corpus(facts)


def run_config(size: str, folder: Path, **sections: dict[str, Any]) -> Config:
    """The config of a run of that size, whose files are in `folder`; `sections` add to it."""
    values: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        # No source: the token files are there.
        "data": {"dir": str(folder / "data")},
        "tokenizer": {"path": str(folder / "tokenizer.json")},
        "model": SIZES[size].model_section(),
    }
    for section, keys in sections.items():
        values[section] = {**values.get(section, {}), **keys}
    return config_from_dict(values, "benchmark")


def stand_in_tokenizer(vocab_size: int) -> Tokenizer:
    """A tokenizer of exactly so many ids: of characters under 257, else of bytes and of pairs of bytes."""
    if vocab_size < 257:
        # Two are special.
        return CharTokenizer([chr(ord("A") + index) for index in range(vocab_size - 2)])
    letters = sorted(byte_spelling().values())
    pairs = [(left, right) for left in letters for right in letters][: vocab_size - 257]
    return BpeTokenizer([*letters, *(left + right for left, right in pairs)], pairs)


def random_bundle(config: Config, tokenizer: Tokenizer) -> Bundle:
    """A model of random weights whose end-of-text token never has the largest logit: its greedy text never ends."""
    model = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
    params: dict[str, Any] = jax.tree.map(np.array, init_params(model, jax.random.key(0)))
    params["embed"]["tokens"][tokenizer.eot_id] = 0
    return Bundle(config.model_copy(update={"model": model}), params, tokenizer)


def _write_tokens(folder: Path, tokenizer: Tokenizer, tokens: int) -> None:
    noise = np.random.default_rng(0)
    with TokenWriter(folder, tokenizer.vocab_size) as writer:
        for split, count in (("train", tokens), ("val", 4096)):
            # The low ids come more often, as some words do.
            ids = (tokenizer.vocab_size * noise.random(count) ** 2).astype(np.int64)
            writer.append("train" if split == "train" else "val", ids, characters=count, utf8_bytes=count)
        tokenizer.save(writer.partial / "tokenizer.json")
        about = {
            "kind": tokenizer.kind,
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
        }
        writer.commit({"tokenizer": about, "sources": [], "end_of_text": False}, extra_files=["tokenizer.json"])


def _write_gguf(bundle: Bundle, folder: Path) -> str:
    """Why there is no file; empty where there is."""
    write = format_named("gguf").write
    assert write is not None
    try:
        for dtype in ("float32", "bfloat16"):
            write(bundle, folder / f"{dtype}.gguf", dtype)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
