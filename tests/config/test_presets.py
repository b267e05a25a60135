"""Every preset loads, and has the parameters that its name says; nothing is allocated."""

from __future__ import annotations

from pathlib import Path

import pytest

from jslm.config import Config, load_config
from jslm.model import count_parameters

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

# (vocabulary, total parameters over the true vocabulary); 98 characters stand in for a corpus's own.
EXPECTED = {
    "quickstart": (1024, 225_728),
    "shakespeare_char_cpu": (67, 804_352),
    "shakespeare_char_modern": (67, 796_416),
    "rewriter_char": (98, 1_790_400),
    "rewriter_char_sft": (98, 1_790_400),
    "rewriter_natural": (98, 10_195_904),
    "rewriter_natural_sft": (98, 10_195_904),
    "movie_scripts": (50257, 51_213_824),
    "tinystories_1m": (2048, 1_447_168),
    "tinystories_5m": (4096, 5_475_584),
    "tinystories_5m_fast": (4096, 6_524_160),
    "lillm_39m": (8192, 39_596_544),
    "few_books": (2048, 2_164_672),
    "books_40m": (50257, 44_909_056),
    "books_124m": (50257, 124_439_808),
    "gpt2_124m": (50257, 124_439_808),
    "lillm_39m_sft": (8192, 39_596_544),
    "gpt2_chat": (50257, 124_439_808),
}


def test_each_preset_is_listed() -> None:
    assert {path.stem for path in CONFIGS.glob("*.toml")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_parameter_count(name: str) -> None:
    vocab_size, total = EXPECTED[name]
    config = load_config(CONFIGS / f"{name}.toml", [f"model.vocab_size={vocab_size}"])
    assert count_parameters(config.model)["total"] == total


def test_vocabulary_of_presets_is_their_tokenizers() -> None:
    fixed = {"gpt2": 50257, "byte": 257}
    for name, (vocab_size, _) in EXPECTED.items():
        tokenizer = load_config(CONFIGS / f"{name}.toml").tokenizer
        expected = tokenizer.vocab_size if tokenizer.kind == "bpe" else fixed.get(tokenizer.kind, vocab_size)
        assert vocab_size == expected, name


def test_presets_are_deltas_from_the_defaults() -> None:
    default = Config().model_dump()
    for path in CONFIGS.glob("*.toml"):
        dumped = load_config(path).model_dump()
        assert dumped != default
        assert dumped["run_dir"] == f"runs/{path.stem}"
