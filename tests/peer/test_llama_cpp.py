"""Exported GGUF files in llama.cpp itself: the same numbers, the same text, the same token ids.

`pip install llama-cpp-python` builds it from source in about five minutes; without it these tests are skipped.
"""

from __future__ import annotations

import ctypes
import json
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer

import jslm
from jslm.formats import load_model
from jslm.formats.gguf.model import write
from jslm.formats.llama2c.tokenizer import read_tokenizer
from jslm.infer import LanguageModel, make_request
from jslm.runs.bundle import Bundle
from jslm.tokenizer import (
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    Gpt2Tokenizer,
    HuggingFaceTokenizer,
    Tokenizer,
)
from tests.tokenizer_layouts import LAYOUTS

llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")
pytestmark = pytest.mark.peer

CONTEXT = 128
GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "activation": "gelu", "n_kv_heads": 0}
BIASES: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
YARN: dict[str, Any] = {"kind": "yarn", "factor": 4.0}
GRID: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mha": {"n_kv_heads": 4},
    "mqa_untied": {"n_kv_heads": 1, "tie_embeddings": False},
    "head_dim": {"head_dim": 32, "norm_eps": 1e-3, "rope_theta": 500.0},
    "biases": BIASES,
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "qwen3_bias": {"qk_norm": True, "qkv_bias": True, "tie_embeddings": False},
    "arcee": {"activation": "relu2", "qkv_bias": True},
    "arcee_untied": {"activation": "relu2", "tie_embeddings": False, "head_dim": 32, "d_ff": 96},
    "arcee_llama3": {
        "activation": "relu2",
        "rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 32},
    },
    "gpt2": {**GPT2, **BIASES},
    "gpt2_plain": {**GPT2, "norm_bias": False, "tie_embeddings": False},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "ntk": {"rope_scaling": {"kind": "ntk", "factor": 4.0}, "qk_norm": True},
    "yarn": {"rope_scaling": YARN},
    "yarn_qwen3": {"rope_scaling": {**YARN, "attention_factor": 1.3}, "qk_norm": True},
    "yarn_betas": {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.3}},
    "llama3": {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 32}, "qkv_bias": True},
}


class Llama:
    """llama.cpp on one file, in float32 throughout."""

    def __init__(self, path: Path, context: int = CONTEXT, vocab_only: bool = False) -> None:
        # The cache's own type is float16 unless told otherwise; 0 is ggml's float32.
        self.model = llama_cpp.Llama(
            str(path), n_ctx=context, n_batch=context, n_threads=1, logits_all=not vocab_only, type_k=0, type_v=0,
            vocab_only=vocab_only, verbose=False,
        )  # fmt: skip

    def logits(self, ids: list[int]) -> np.ndarray:
        self.model.reset()
        self.model.eval(ids)
        return np.array(self.model.scores[: len(ids)])

    def encode(self, text: str, *, start: bool = False) -> list[int]:
        return list(self.model.tokenize(text.encode(), add_bos=start, special=False))

    def greedy(self, prompt: list[int], count: int) -> list[int]:
        self.model.reset()
        found: list[int] = []
        for token in self.model.generate(prompt, temp=0.0, repeat_penalty=1.0):
            if len(found) == count or token == self.model.token_eos():
                break
            found.append(token)
        return found


@pytest.fixture
def llama(tmp_path: Path) -> Iterator[Callable[..., Llama]]:
    """`llama(bundle, dtype)`: the bundle's file in llama.cpp."""
    opened: list[Llama] = []

    def export(bundle: Bundle, dtype: str = "float32", **options: Any) -> Llama:
        path = tmp_path / f"{len(opened)}.gguf"
        write(bundle, path, dtype)
        opened.append(Llama(path, **options))
        return opened[-1]

    yield export
    for one in opened:
        one.model.close()


def language_model(bundle: Bundle) -> LanguageModel:
    return LanguageModel(bundle.config, bundle.params, bundle.tokenizer, ends_documents=bundle.ends_documents)


@pytest.mark.parametrize("name", GRID)
def test_random_models_compute_the_same(
    llama: Callable[..., Llama], random_bundle: Callable[..., Bundle], name: str
) -> None:
    bundle = random_bundle(ByteTokenizer(), **GRID[name])
    ours, theirs = language_model(bundle), llama(bundle)
    ids = np.random.default_rng(1).integers(0, 256, CONTEXT).tolist()
    # llama.cpp looks GELU up in a table of float16; with SiLU the two agree to 2e-5.
    tolerance = 1e-2 if name.startswith("gpt2") else 1e-4
    np.testing.assert_allclose(theirs.logits(ids), ours.logits(ids)[0], rtol=0, atol=tolerance)
    if tolerance < 1e-3:
        # Random models have near ties, which the table of GELU decides otherwise; trained ones are below.
        [result] = ours.generate_results("ab", greedy=True, max_new_tokens=64)
        assert theirs.greedy(theirs.encode("ab", start=True), 64) == list(result.tokens)


def loss(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean cross-entropy in nats."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return float(np.mean(np.log(np.exp(shifted).sum(-1)) - np.take_along_axis(shifted, targets[:, None], -1)[:, 0]))


@pytest.mark.slow
@pytest.mark.usefixtures("tiktoken_files")
@pytest.mark.parametrize("kind", ["bpe", "char", "gpt2"])
def test_trained_runs_write_the_same(llama: Callable[..., Llama], trained: Any, kind: str) -> None:
    bundle, held_out = trained(kind)
    ours, exact, small = language_model(bundle), llama(bundle), llama(bundle, "q8_0")
    for prompt in ("", "Once upon a time", "the dog "):
        [result] = ours.generate_results(prompt, greedy=True, max_new_tokens=64)
        assert exact.greedy(exact.encode(prompt, start=True), 64) == list(result.tokens)
        assert result.tokens or not prompt
    losses = []
    for window in held_out.reshape(-1, CONTEXT):
        ids, targets = window[:-1].tolist(), window[1:]
        wanted = ours.logits(ids)[0]
        found = exact.logits(ids)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-3 if kind == "gpt2" else 1e-4)
        losses.append([loss(wanted, targets), loss(found, targets), loss(small.logits(ids), targets)])
    of_jslm, of_float32, of_q8_0 = np.mean(losses, axis=0)
    assert of_float32 == pytest.approx(of_jslm, abs=1e-4)
    # docs/formats.md states 0.01; a quickstart run lost 0.0002.
    assert of_q8_0 == pytest.approx(of_jslm, abs=0.01)


@pytest.mark.usefixtures("tiktoken_files")
@pytest.mark.parametrize("kind", ["byte", "char", "bpe", "gpt2"])
def test_the_same_ids(
    llama: Callable[..., Llama], random_bundle: Callable[..., Bundle], strings: list[str], kind: str
) -> None:
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": lambda: ByteTokenizer(["<|user|>"]),
        "char": lambda: CharTokenizer.train(strings[::2], ["<|user|>"]),
        "bpe": lambda: BpeTokenizer.train(strings[:300], 1024, ["<|user|>"]),
        "gpt2": lambda: Gpt2Tokenizer(["<|user|>"]),
    }
    tokenizer = makers[kind]()
    theirs = llama(random_bundle(tokenizer, n_layers=1), "q8_0", vocab_only=True)
    for text in strings:
        ids = tokenizer.encode(text)
        assert theirs.encode(text) == ids
        assert theirs.encode(text, start=True) == [tokenizer.eot_id, *ids]
        assert theirs.model.detokenize(ids).decode() == text
    assert theirs.model.token_eos() == tokenizer.eot_id


WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BY_THREE = WORD.replace("{N}|", "{N}{1,3}|")


@pytest.mark.parametrize(
    ("split", "options"),
    [
        (pre_tokenizers.Digits(True), {}),
        (pre_tokenizers.Split(Regex(WORD), "isolated"), {}),
        (pre_tokenizers.Split(Regex(BY_THREE), "isolated"), {}),
        (pre_tokenizers.Split(Regex(BY_THREE), "isolated"), {"ignore_merges": True}),
    ],
    ids=["smollm", "qwen2", "dbrx", "llama-bpe"],
)
def test_ids_of_a_tokenizer_json(
    llama: Callable[..., Llama],
    random_bundle: Callable[..., Bundle],
    strings: list[str],
    split: Any,
    options: dict[str, Any],
) -> None:
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=isinstance(split, pre_tokenizers.Digits))
    library = LibraryTokenizer(models.BPE(**options))
    library.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(strings[:500], trainer)
    foreign = HuggingFaceTokenizer(json.loads(library.to_str()), bos_id=None, eos_id=2)
    theirs = llama(random_bundle(foreign, n_layers=1), vocab_only=True)
    for text in strings:
        assert theirs.encode(text) == library.encode(text, add_special_tokens=False).ids


def test_ids_of_a_llama_tokenizer_json(
    llama: Callable[..., Llama], random_bundle: Callable[..., Bundle], strings: list[str], assets: Path
) -> None:
    library = LibraryTokenizer.from_file(str(assets / "checkpoints/hf_tiny_random_llama/tokenizer.json"))
    foreign = HuggingFaceTokenizer(json.loads(library.to_str()), bos_id=None, eos_id=2)
    theirs = llama(random_bundle(foreign, n_layers=1), vocab_only=True)
    for text in strings:
        # The library takes the spelling of a special token for the token.
        if "<s>" not in text and "</s>" not in text:
            assert theirs.encode(text) == library.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("ends_documents", [True, False])
@pytest.mark.parametrize(
    "name", ["llama2", "llama3", "gpt2", "qwen", "phi", "deepseek", "byte", "char", "bpe", "sentencepiece"]
)
def test_prompts_are_those_of_jslm(
    llama: Callable[..., Llama],
    random_bundle: Callable[..., Bundle],
    strings: list[str],
    assets: Path,
    name: str,
    ends_documents: bool,
) -> None:
    """What goes before and behind a text, spaces, added tokens, special ones' spelling: all by the file's flags."""
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": lambda: ByteTokenizer(["<|user|>"]),
        "char": lambda: CharTokenizer(set("".join(strings)), ["<|user|>"]),
        "bpe": lambda: BpeTokenizer.train(strings[:300], 600, ["<|user|>"]),
        "sentencepiece": lambda: read_tokenizer(assets / "checkpoints" / "stories260K" / "tok512.bin"),
        **{layout: lambda make=make: make().tokenizer() for layout, make in LAYOUTS.items()},  # type: ignore[misc]
    }
    tokenizer = makers[name]()
    bundle = replace(random_bundle(tokenizer, n_layers=1, context_length=1024), ends_documents=ends_documents)
    ours, theirs = language_model(bundle), llama(bundle, vocab_only=True)
    options = make_request(bundle.config.sample)
    spellings = [f"a{special} b" for special in tokenizer.special_tokens]
    for text in [*spellings, "<tool_call>x</tool_call>", "a        b", *strings[1:300]]:
        if name in ("llama2", "sentencepiece") and "\u2581" in text:
            # To llama.cpp it is a space.
            continue
        # A prompt is read as training text is (CRLF as LF), which no file can say.
        text = ours.as_read(text)
        # Qwen's accents are composed first; llama.cpp, which knows Qwen by its pattern, does not.
        if text and (name != "qwen" or unicodedata.is_normalized("NFC", text)):
            assert theirs.encode(text, start=True) == ours.row(text, 0, options).ids, text
    assert theirs.model.token_eos() == tokenizer.eot_id


def test_ids_of_a_tokenizer_bin(
    llama: Callable[..., Llama], random_bundle: Callable[..., Bundle], strings: list[str], assets: Path
) -> None:
    """llama2.c's tokenizer of 512 pieces."""
    tokenizer = read_tokenizer(assets / "checkpoints" / "stories260K" / "tok512.bin")
    theirs = llama(random_bundle(tokenizer, n_layers=1), vocab_only=True)
    for text in strings:
        # To llama.cpp, as to SentencePiece, U+2581 is a space.
        if "\u2581" not in text:
            assert theirs.encode(text) == tokenizer.encode(text)


@pytest.mark.slow
def test_stories260k_writes_the_same(llama: Callable[..., Llama], assets: Path) -> None:
    bundle = load_model(assets / "checkpoints" / "stories260K" / "stories260K.bin")
    ours, theirs = language_model(bundle), llama(bundle, context=512)
    for prompt in ("", "One day, Tim"):
        [result] = ours.generate_results(prompt, greedy=True, max_new_tokens=64)
        assert theirs.greedy(theirs.encode(prompt, start=True), 64) == list(result.tokens)


def test_unknown_characters_are_left_out(llama: Callable[..., Llama], random_bundle: Callable[..., Bundle]) -> None:
    tokenizer = CharTokenizer("abc é")
    theirs = llama(random_bundle(tokenizer, n_layers=1), vocab_only=True)
    assert tokenizer.encode("aXb漢c🙂é") == [3, 1, 4, 1, 5, 1, 6]
    assert theirs.encode("aXb漢c🙂é") == [3, 4, 5, 6]
    # The unknown character's own spelling is known, and it is written as jslm writes it.
    assert theirs.encode("a\ufffd") == tokenizer.encode("a\ufffd") == [3, 1]
    assert theirs.model.detokenize([3, 1]).decode() == tokenizer.decode([3, 1]) == "a\ufffd"


def test_other_types_load_and_stay_close(llama: Callable[..., Llama], random_bundle: Callable[..., Bundle]) -> None:
    bundle = random_bundle(ByteTokenizer(), qk_norm=True)
    ids = np.random.default_rng(1).integers(0, 256, CONTEXT).tolist()
    exact = language_model(bundle).logits(ids)[0]
    for dtype, bound in (("float16", 2e-3), ("bfloat16", 2e-2), ("q8_0", 3e-2)):
        error = np.abs(llama(bundle, dtype).logits(ids) - exact)
        assert error.mean() < bound * np.abs(exact).mean(), dtype


@pytest.mark.parametrize(("dtype", "share"), [("q4_k_m", 0.25), ("q6_k", 0.15)])
def test_k_types_of_llama_cpps_own_quantiser(
    tmp_path: Path, random_bundle: Callable[..., Bundle], dtype: str, share: float
) -> None:
    """Written by way of llama.cpp and read again here: the weights that llama.cpp itself unpacks."""
    bundle = random_bundle(ByteTokenizer(), d_model=256, d_ff=512, n_heads=4)
    path = tmp_path / "model.gguf"
    write(bundle, path, dtype)
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]
    assert path.stat().st_size < 0.25 * 4_980_000
    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype, options.allow_requantize = 0, True
    whole = str(tmp_path / "float32.gguf").encode()
    assert not llama_cpp.llama_model_quantize(str(path).encode(), whole, ctypes.byref(options))
    ours, unpacked = load_model(path), load_model(tmp_path / "float32.gguf")
    for here, there in zip(jax.tree.leaves(ours.params), jax.tree.leaves(unpacked.params), strict=True):
        np.testing.assert_allclose(here, there, rtol=0, atol=1e-7)
    assert ours.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    ids = np.random.default_rng(1).integers(0, 256, CONTEXT).tolist()
    exact = language_model(bundle).logits(ids)[0]
    theirs = Llama(path)
    # llama.cpp rounds activations to 8 bits for these types, which jslm does not; random weights are the worst case.
    for found in (theirs.logits(ids), language_model(ours).logits(ids)[0]):
        assert np.abs(found - exact).mean() < share * np.abs(exact).mean()
    theirs.model.close()


def test_k_types_say_what_stays_wider(
    tmp_path: Path, random_bundle: Callable[..., Bundle], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", logger="jslm"):
        write(random_bundle(ByteTokenizer(), d_ff=96), tmp_path / "model.gguf", "q4_k_m")
    assert "K types take rows of a multiple of 256" in caplog.text
    assert "with rows of 64 are q5_0" in caplog.text
    ids = np.random.default_rng(1).integers(0, 256, CONTEXT).tolist()
    assert np.isfinite(jslm.load(tmp_path / "model.gguf").logits(ids)).all()
