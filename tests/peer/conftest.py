"""What the tests beside other programs share: 1,000 strings, random models, and models after some training."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm.config import config_from_dict
from jslm.model import param_shapes
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import CheckpointStore
from jslm.tokenizer import Tokenizer, load_tokenizer
from jslm.train import train

CONTEXT = 128
GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "activation": "gelu", "n_kv_heads": 0}
BIASES: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
WORDS = [
    *("Once", "upon", "a", "time", "little", "café", "naïve", "Straße", "don't", "I'll", "we've", "THE", "x'S", "ﬁ"),
    *("日本語", "漢字", "你好，世界", "한국어", "Привет", "مرحبا", "שלום", "हिन्दी", "ไทย", "e\u0301", "ǅ", "\ufffd"),
    *("🙂", "👩\u200d👩\u200d👧", "🏳️\u200d🌈", "½", "²", "ⅷ", "٣", "12345", "3.14", "1,000", "e=mc²", "--", "...", "▁"),
    *("<|endoftext|>", "<s>", "</s>", "<0x0A>", "http://a.b/c?d=1", "snake_case", "CamelCase", "(x)", '"q"', "\\n"),
    *("\x00", "\x1c", "\u200b", "\ufeff"),
]
STORY = "the cat sat on a mat and saw one big red dog near my old tree while rain fell down there was a time"
SPACES = [
    "",
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\t",
    " \n",
    "\r\n",
    "      ",
    "\n \n",
    "\x0b",
    "\u3000",
    "\u00a0",
    "\u2028",
]


@pytest.fixture(scope="session")
def strings() -> list[str]:
    """1,000 strings: empty, white space, and mixtures of scripts, emoji, numbers and special tokens' spellings."""
    choice = random.Random(0)
    found = ["", " ", "  ", "\n", "\n\n\n", " a", "a ", "  a  b  ", "\t\tx", "🙂", "日本", "\x00", "'"]
    while len(found) < 1000:
        pieces = (choice.choice(SPACES) + choice.choice(WORDS) for _ in range(choice.randint(1, 10)))
        found.append("".join(pieces) + choice.choice(SPACES))
    return found


@pytest.fixture(scope="session")
def random_bundle() -> Callable[..., Bundle]:
    """`random_bundle(tokenizer, **model)`: a small model with weights of a trained one's size."""
    return _random_bundle


def _random_bundle(tokenizer: Tokenizer, **model: Any) -> Bundle:
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "context_length": CONTEXT}
    values = {**shape, "dtype": "float32", "vocab_size": tokenizer.vocab_size, **model}
    config = config_from_dict({"model": values}, "test")
    noise = np.random.default_rng(0)

    def fill(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        array = noise.standard_normal(leaf.shape, np.float32)
        if "scale" in name:
            return 1 + 0.1 * array
        if "bias" in name:
            return 0.1 * array
        # Logits of some units, as a trained model's, and no flat attention.
        return array * (leaf.shape[-2] ** -0.5 if "kernel" in name else 0.3)

    params: dict[str, Any] = jax.tree_util.tree_map_with_path(fill, param_shapes(config.model))
    return Bundle(config, params, tokenizer)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Bundle, np.ndarray]]:
    """`trained(kind)`: (a model after some training, 1,024 tokens it has not seen), made once a kind."""
    made: dict[str, tuple[Bundle, np.ndarray]] = {}

    def make(kind: str) -> tuple[Bundle, np.ndarray]:
        if kind not in made:
            made[kind] = _train(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return make


def _train(kind: str, folder: Path) -> tuple[Bundle, np.ndarray]:
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "context_length": CONTEXT, "dtype": "float32"}
    values = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt"), "split": "position", "end_of_text": "always"},
        "tokenizer": {"kind": kind, "vocab_size": 768},
        "model": shape | ({**GPT2, **BIASES} if kind == "gpt2" else {"qk_norm": True, "n_kv_heads": 2}),
        "optimizer": {"name": "muon", "learning_rate": 5e-3, "warmup_steps": 5},
        "train": {
            "steps": 30 if kind == "gpt2" else 120, "batch_size": 8, "eval_every": 0, "eval_batches": 1,
            "tensorboard": False, "report": False,
        },
    }  # fmt: skip
    config = config_from_dict(values, "test")
    choice = random.Random(0)
    sentences = (" ".join(choice.choice(STORY.split()) for _ in range(8)) + "." for _ in range(3000))
    (folder / "text.txt").write_text("Once upon a time " + "\n".join(sentences), "utf-8")
    train(config)
    store = CheckpointStore(folder / "run" / "checkpoints")
    params = jax.tree.map(np.asarray, store.load_part(store.steps()[-1], "params"))
    tokenizer = load_tokenizer(folder / "run" / "tokenizer.json")
    model = config.model.model_copy(update={"vocab_size": tokenizer.vocab_size})
    held_out = np.fromfile(Path(config.data_dir, "val.bin"), np.uint16)[: 8 * CONTEXT].astype(np.int64)
    return Bundle(config.model_copy(update={"model": model}), params, tokenizer), held_out


@pytest.fixture
def tiktoken_files(assets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(assets / "tiktoken_cache"))
