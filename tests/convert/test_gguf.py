"""GGUF files, as the library of llama.cpp's authors reads them; tests/peer/test_llama_cpp.py has llama.cpp itself."""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jslm import JslmError
from jslm.config import Config, ModelConfig, config_from_dict
from jslm.formats.gguf.model import FORMAT, describe, detect, write
from jslm.formats.gguf.vocabulary import from_tokenizer_json
from jslm.model import count_parameters
from jslm.model.rope import apply_rotary, rotary_tables
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from tests.random_models import noise_params
from tests.tokenizer_layouts import LAYOUTS

gguf = pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")

Keys = dict[str, Any]
GPT2: Keys = {"norm": "layernorm", "position": "learned", "activation": "gelu", "n_kv_heads": 0}


def make_bundle(tokenizer: Tokenizer | None = None, *, ends_documents: bool = True, **model: Any) -> Bundle:
    """A random model of two layers; its padding rows are zeros, as a bundle promises."""
    tokenizer = tokenizer or ByteTokenizer()
    shape = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "context_length": 32}
    config = config_from_dict({"model": {**shape, "vocab_size": tokenizer.vocab_size, **model}}, "test")
    params = noise_params(config.model)
    return Bundle(config, params, tokenizer, ends_documents, {"steps": 7, "val/loss": 1.5}, "runs/tiny")


def read(path: Path) -> tuple[Keys, dict[str, np.ndarray], dict[str, str]]:
    """(metadata, dequantised tensors, names of their types)."""
    reader = gguf.GGUFReader(path)
    keys = {name: field.contents() for name, field in reader.fields.items()}
    arrays = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in reader.tensors}
    return keys, arrays, {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}


@pytest.fixture
def export(tmp_path: Path) -> Callable[..., tuple[Keys, dict[str, np.ndarray], dict[str, str]]]:
    def export(bundle: Bundle, dtype: str = "float32") -> tuple[Keys, dict[str, np.ndarray], dict[str, str]]:
        write(bundle, tmp_path / "model.gguf", dtype)
        return read(tmp_path / "model.gguf")

    return export


Export = Callable[..., tuple[Keys, dict[str, np.ndarray], dict[str, str]]]


def test_metadata_of_a_llama(export: Export) -> None:
    bundle = make_bundle(head_dim=32, norm_eps=1e-6, rope_theta=5000.0, d_ff=96)
    keys, _, _ = export(bundle)
    assert {name: value for name, value in keys.items() if name.startswith("llama.")} == {
        "llama.vocab_size": 257,
        "llama.context_length": 32,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 96,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 32,
        "llama.attention.value_length": 32,
        "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-6),
        "llama.rope.dimension_count": 32,
        "llama.rope.freq_base": 5000.0,
    }
    assert keys["general.architecture"] == "llama"
    assert keys["general.name"] == "tiny"
    assert keys["general.license"] == "unknown"
    assert keys["general.parameter_count"] == count_parameters(bundle.config.model)["total"]
    assert keys["general.description"] == "a language model made with jslm (steps 7, val/loss 1.5)"
    assert keys["jslm.tokenizer.fingerprint"] == bundle.tokenizer.fingerprint
    assert (keys["tokenizer.ggml.bos_token_id"], keys["tokenizer.ggml.eos_token_id"]) == (256, 256)
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert export(make_bundle(ends_documents=False))[0]["tokenizer.ggml.add_bos_token"] is False


def test_tensors_of_a_qwen3_are_the_models(export: Export) -> None:
    bundle = make_bundle(qk_norm=True, tie_embeddings=False)
    keys, arrays, _ = export(bundle)
    assert keys["general.architecture"] == "qwen3"
    params, layer = bundle.params, bundle.params["layers"]
    wanted = {
        "token_embd.weight": params["embed"]["tokens"][:257],
        "output.weight": params["head"]["tokens"][:257],
        "output_norm.weight": params["final_norm"]["scale"],
    }
    for i in range(2):
        attention, mlp = layer["attention"], layer["mlp"]
        wanted |= {
            f"blk.{i}.attn_norm.weight": layer["attention_norm"]["scale"][i],
            f"blk.{i}.ffn_norm.weight": layer["mlp_norm"]["scale"][i],
            f"blk.{i}.attn_q.weight": attention["q"]["kernel"][i].T,
            f"blk.{i}.attn_k.weight": attention["k"]["kernel"][i].T,
            f"blk.{i}.attn_v.weight": attention["v"]["kernel"][i].T,
            f"blk.{i}.attn_output.weight": attention["out"]["kernel"][i].T,
            f"blk.{i}.attn_q_norm.weight": attention["q_norm"]["scale"][i],
            f"blk.{i}.attn_k_norm.weight": attention["k_norm"]["scale"][i],
            f"blk.{i}.ffn_gate.weight": mlp["gate"]["kernel"][i].T,
            f"blk.{i}.ffn_up.weight": mlp["up"]["kernel"][i].T,
            f"blk.{i}.ffn_down.weight": mlp["down"]["kernel"][i].T,
        }
    assert arrays.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(arrays[name], array, err_msg=name)


def test_a_llamas_heads_rotate_neighbours(export: Export) -> None:
    """Scores of rotated queries and keys are the same, whichever rows a program takes as a pair."""
    bundle = make_bundle(n_layers=1, qkv_bias=True, out_bias=True)
    keys, arrays, _ = export(bundle)
    assert keys["general.architecture"] == "llama"
    attention, model = bundle.params["layers"]["attention"], bundle.config.model
    x = np.random.default_rng(1).standard_normal((1, 5, 64)).astype(np.float32)
    cos, sin = rotary_tables(model, jnp.arange(5)[None])

    def ours(name: str, heads: int) -> np.ndarray:
        rows = x @ attention[name]["kernel"][0] + attention[name]["bias"][0]
        return np.asarray(apply_rotary(jnp.asarray(rows.reshape(1, 5, heads, 16)), (cos, sin)))[0]

    def theirs(name: str, heads: int) -> np.ndarray:
        rows = x[0] @ arrays[f"blk.0.attn_{name}.weight"].T + arrays[f"blk.0.attn_{name}.bias"]
        pairs = rows.reshape(5, heads, 8, 2)
        turned = (pairs[..., 0] + 1j * pairs[..., 1]) * (np.asarray(cos) + 1j * np.asarray(sin))[0][:, None, :]
        return np.stack([turned.real, turned.imag], axis=-1).reshape(5, heads, 16)

    for head in range(4):
        wanted = ours("q", 4)[:, head] @ ours("k", 2)[:, head // 2].T
        np.testing.assert_allclose(theirs("q", 4)[:, head] @ theirs("k", 2)[:, head // 2].T, wanted, rtol=0, atol=1e-2)
        unrotated = (x @ attention["q"]["kernel"][0])[0, :, head * 16 : head * 16 + 16]
        assert np.abs(theirs("q", 4)[1:, head] - unrotated[1:]).max() > 1.0
    np.testing.assert_array_equal(arrays["blk.0.attn_output.bias"], attention["out"]["bias"][0])


def test_an_arcee_has_no_gate_and_rotates_neighbours(export: Export) -> None:
    bundle = make_bundle(activation="relu2", tie_embeddings=False, qkv_bias=True)
    keys, arrays, _ = export(bundle)
    assert keys["general.architecture"] == "arcee"
    assert not any("ffn_gate" in name for name in arrays)
    layers = bundle.params["layers"]
    np.testing.assert_array_equal(arrays["blk.1.ffn_up.weight"], layers["mlp"]["up"]["kernel"][1].T)
    pairs = layers["attention"]["k"]["kernel"][1].T.reshape(2, 2, 8, 64).swapaxes(1, 2).reshape(32, 64)
    np.testing.assert_array_equal(arrays["blk.1.attn_k.weight"], pairs)


def test_a_gpt2_without_biases_gets_zeros(export: Export) -> None:
    bundle = make_bundle(**GPT2, norm_bias=False)
    keys, arrays, types = export(bundle, "float16")
    assert keys["general.architecture"] == "gpt2"
    attention = bundle.params["layers"]["attention"]
    joined = np.concatenate([attention[name]["kernel"][1] for name in "qkv"], axis=1).T
    np.testing.assert_array_equal(arrays["blk.1.attn_qkv.weight"], joined.astype(np.float16))
    biases = [name for name in arrays if name.endswith(".bias")]
    assert len(biases) == 2 * 6 + 1
    assert all(not arrays[name].any() and types[name] == "F32" for name in biases)
    # Positions are added to the embeddings; llama.cpp wants them in float32.
    np.testing.assert_array_equal(arrays["position_embd.weight"], bundle.params["embed"]["positions"])
    biased = make_bundle(**GPT2, qkv_bias=True, out_bias=True, mlp_bias=True)
    np.testing.assert_array_equal(
        export(biased)[1]["blk.0.ffn_up.bias"], biased.params["layers"]["mlp"]["up"]["bias"][0]
    )


@pytest.mark.parametrize(
    ("dtype", "name", "file_type"),
    [("float32", "F32", 0), ("float16", "F16", 1), ("bfloat16", "BF16", 32), ("q8_0", "Q8_0", 7)],
)
def test_types_keep_their_precision(export: Export, dtype: str, name: str, file_type: int) -> None:
    bundle = make_bundle(qk_norm=True)
    keys, arrays, types = export(bundle, dtype)
    assert keys["general.file_type"] == file_type
    assert {types[tensor] for tensor in arrays if arrays[tensor].ndim == 1} == {"F32"}
    assert {types[tensor] for tensor in arrays if arrays[tensor].ndim > 1} == {name}
    exact = bundle.params["layers"]["mlp"]["up"]["kernel"][0].T
    error = np.abs(arrays["blk.0.ffn_up.weight"] - exact)
    # Half a unit in the last place; for q8_0 half a step of a block's scale, which float16 rounds.
    largest = np.abs(exact.reshape(-1, 2, 32)).max(-1, keepdims=True).repeat(32, -1).reshape(exact.shape)
    bounds = {
        "float32": np.zeros_like(exact),
        "float16": 2.0**-11 * np.abs(exact) + 2.0**-25,
        "bfloat16": 2.0**-8 * np.abs(exact),
        "q8_0": largest * (0.5 / 127 + 2.0**-11),
    }
    assert (error <= bounds[dtype]).all()
    assert (error > 0).any() == (dtype != "float32")


def test_q8_0_leaves_rows_of_other_widths_wider(export: Export, caplog: pytest.LogCaptureFixture) -> None:
    bundle = make_bundle(d_ff=80)
    with caplog.at_level(logging.INFO, logger="jslm"):
        _, arrays, types = export(bundle, "q8_0")
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    np.testing.assert_array_equal(
        arrays["blk.0.ffn_down.weight"], bundle.params["layers"]["mlp"]["down"]["kernel"][0].T.astype(np.float16)
    )
    assert "rows of 80 are float16" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="jslm"):
        export(make_bundle(), "q8_0")
    assert not caplog.records


def test_rope_scaling(export: Export) -> None:
    linear = export(make_bundle(rope_scaling={"kind": "linear", "factor": 4.0}))[0]
    assert (linear["llama.rope.scaling.type"], linear["llama.rope.scaling.factor"]) == ("linear", 4.0)
    ntk = export(make_bundle(rope_scaling={"kind": "ntk", "factor": 2.0}))[0]
    assert ntk["llama.rope.freq_base"] == pytest.approx(10000 * 2 ** (16 / 14))
    yarn = {"kind": "yarn", "factor": 4.0, "original_context_length": 8}
    keys, arrays, _ = export(make_bundle(qk_norm=True, rope_scaling={**yarn, "attention_factor": 1.5}))
    assert (keys["qwen3.rope.scaling.type"], keys["qwen3.rope.scaling.original_context_length"]) == ("yarn", 8)
    assert keys["qwen3.rope.scaling.attn_factor"] == pytest.approx(1.5 / (0.1 * np.log(4) + 1))
    assert "rope_freqs.weight" not in arrays
    # What llama.cpp has no name for goes in as a factor for each frequency, which its Llama reads and its Qwen2 not.
    for kind in ({"kind": "llama3", "factor": 8.0}, {"kind": "yarn", "factor": 4.0, "beta_slow": 2.0}):
        scaling = {**kind, "original_context_length": 512}
        keys, arrays, _ = export(make_bundle(qkv_bias=True, rope_scaling=scaling))
        assert keys["general.architecture"] == "llama"
        assert "llama.rope.scaling.type" not in keys
        factors = arrays["rope_freqs.weight"]
        assert factors.shape == (8,)
        assert factors[0] == pytest.approx(1.0)
        assert factors[-1] == pytest.approx(scaling["factor"])


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"activation": "relu2", "qk_norm": True}, ["model.activation = 'relu2'"]),
        ({"activation": "relu2", "mlp_bias": True, "out_bias": True}, ["model.mlp_bias", "model.out_bias"]),
        ({"activation": "relu"}, ["model.activation = 'relu'"]),
        ({"activation": "geglu", "logit_softcap": 30.0}, ["model.activation = 'geglu'", "model.logit_softcap = 30"]),
        ({"norm": "layernorm"}, ["model.norm = 'layernorm'"]),
        ({"position": "none", "activation": "relu"}, ["model.position = 'none'", "model.activation = 'relu'"]),
        ({"qk_norm": True, "out_bias": True, "mlp_bias": True}, ["model.out_bias", "model.mlp_bias"]),
        ({"qk_norm": True, "rope_scaling": {"kind": "llama3", "factor": 2.0}}, ["model.rope_scaling.kind = 'llama3'"]),
        (
            {**GPT2, "activation": "gelu_exact", "head_dim": 8},
            ["model.activation = 'gelu_exact'", "model.head_dim = 8"],
        ),
        ({**GPT2, "qk_norm": True}, ["model.qk_norm"]),
    ],
)
def test_what_cannot_be_expressed_is_listed(tmp_path: Path, model: Keys, named: list[str]) -> None:
    with pytest.raises(JslmError, match=r"GGUF cannot express .*--format safetensors$") as caught:
        write(make_bundle(**model), tmp_path / "model.gguf", "float32")
    message = str(caught.value)
    assert "\n" not in message
    assert all(option in message for option in named)
    assert message.count("model.") - message.count(" with model.") == len(named)
    assert not list(tmp_path.iterdir())


def test_no_option_is_forgotten() -> None:
    """An option that is new must be written into the file, refused, or shown here not to change what is computed."""
    computed_alike = {
        "attention_dropout",
        "dropout",
        "init_std",
        "dtype",
        "attention",
        "remat",
        "unroll",
        "condition_dropout",
    }
    expressed = {"n_layers", "d_model", "n_heads", "n_kv_heads", "head_dim", "d_ff", "context_length", "vocab_size"}
    expressed |= {"norm_eps", "norm_bias", "rope_theta", "rope_scaling", "qkv_bias", "tie_embeddings"}
    refused_at_times = {"norm", "position", "activation", "out_bias", "mlp_bias", "qk_norm", "logit_softcap"}
    refused_at_times |= {"conditions"}
    options = set(ModelConfig.model_fields)
    assert options == computed_alike | expressed | refused_at_times, "tell formats/gguf/weights.py of the new option"


def test_refused_exports_leave_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"before")
    large = make_bundle()
    large.params["layers"]["mlp"]["up"]["kernel"][0, 0, 0] = 1e5
    with pytest.raises(JslmError, match=r"blk\.0\.ffn_up\.weight has a weight of 100000, above what float16"):
        write(large, path, "float16")
    large.params["layers"]["mlp"]["up"]["kernel"][0, 0, 0] = np.nan
    with pytest.raises(JslmError, match="not finite"):
        write(large, path, "float32")
    with pytest.raises(JslmError, match=r"model\.vocab_size = 300, but the tokenizer has 257"):
        write(make_bundle(vocab_size=300), path, "float32")
    # The disk is full in the middle of the file.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(JslmError, match="cannot be written"):
            write(make_bundle(), path, "float32")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(JslmError, match=r"pip install -e '/.*\[convert\]'"):
        write(make_bundle(), path, "float32")
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(JslmError, match="cannot be written"):
        write(make_bundle(), tmp_path / "model.gguf", "float32")
    assert [child.name for child in tmp_path.iterdir()] == ["model.gguf"]


def test_vocabulary_of_characters(export: Export) -> None:
    tokenizer = CharTokenizer("ab é漢🙂", ["<|user|>"])
    keys, arrays, _ = export(make_bundle(tokenizer))
    assert arrays["token_embd.weight"].shape == (9, 64)
    assert keys["tokenizer.ggml.tokens"] == ["<|endoftext|>", "ï¿½", "<|user|>", "Ġ", "a", "b", "Ã©", "æ¼¢", "ðŁĻĤ"]
    assert keys["tokenizer.ggml.token_type"] == [3, 1, 3, 1, 1, 1, 1, 1, 1]
    assert keys["tokenizer.ggml.merges"] == [
        "ï ¿", "ï¿ ½", "Ã ©", "æ ¼", "æ¼ ¢", "ð Ł", "ðŁ Ļ", "ðŁĻ Ĥ",
    ]  # fmt: skip
    assert keys["tokenizer.ggml.unknown_token_id"] == 1
    # Where the alphabet has U+FFFD itself, the unknown character keeps its name.
    names = export(make_bundle(CharTokenizer("a\ufffd")))[0]
    assert names["tokenizer.ggml.tokens"] == ["<|endoftext|>", "<|unk|>", "a", "ï¿½"]
    assert names["tokenizer.ggml.token_type"] == [3, 3, 1, 1]


def test_vocabulary_of_bytes_and_of_pieces(export: Export) -> None:
    keys, _, _ = export(make_bundle())
    assert len(keys["tokenizer.ggml.tokens"]) == len(set(keys["tokenizer.ggml.tokens"])) == 257
    assert keys["tokenizer.ggml.merges"] == ["<|endoftext|> <|endoftext|>"]
    tokenizer = BpeTokenizer.train(["low lower lowest low lower " * 9], 264, ["<|user|>"])
    keys, _, _ = export(make_bundle(tokenizer))
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "gpt-2")
    assert keys["tokenizer.ggml.tokens"][:2] == ["<|endoftext|>", "<|user|>"]
    assert keys["tokenizer.ggml.token_type"][:3] == [3, 3, 1]
    assert keys["tokenizer.ggml.merges"][:2] == ["l o", "lo w"]


LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def tokenizer_json(cutter: Keys | None, split: Keys | None = None, **model: Any) -> Keys:
    both = {"type": "Sequence", "pretokenizers": [split, cutter]} if split else cutter
    bpe = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]], **model}
    added = [{"id": 3, "content": "</s>", "special": True}, {"id": 1, "content": "b", "special": False}]
    return {"pre_tokenizer": both, "model": bpe, "added_tokens": added}


def split_by(pattern: str) -> Keys:
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("fields", "pre"),
    [
        (tokenizer_json({**LEVEL, "use_regex": True}), "gpt-2"),
        (tokenizer_json({"type": "ByteLevel"}), "gpt-2"),
        (tokenizer_json({**LEVEL, "use_regex": True}, {"type": "Digits", "individual_digits": True}), "smollm"),
        (tokenizer_json(LEVEL, split_by(WORD)), "qwen2"),
        (tokenizer_json(LEVEL, split_by(WORD.replace("{N}|", "{N}{1,3}|")), ignore_merges=True), "llama-bpe"),
        (tokenizer_json(LEVEL, split_by(WORD.replace("{N}|", "{N}{1,3}|"))), "dbrx"),
        (tokenizer_json(LEVEL), ""),
        (tokenizer_json({**LEVEL, "use_regex": True, "add_prefix_space": True}), ""),
        (tokenizer_json({**LEVEL, "use_regex": True}, {"type": "Digits", "individual_digits": False}), ""),
        (tokenizer_json(LEVEL, split_by(WORD), ignore_merges=True), ""),
        (tokenizer_json(LEVEL, {**split_by(WORD), "invert": True}), ""),
        (tokenizer_json({**LEVEL, "use_regex": True}, split_by(WORD)), ""),
        (tokenizer_json(None), ""),
        (tokenizer_json({"type": "Whitespace"}), ""),
    ],
)
def test_what_cuts_words_is_named_or_refused(fields: Keys, pre: str) -> None:
    if pre:
        vocabulary = from_tokenizer_json(fields)
        assert (vocabulary.model, vocabulary.pre, vocabulary.merges) == ("gpt2", pre, ["a b"])
        assert (vocabulary.tokens, vocabulary.types) == (["a", "b", "ab", "</s>"], [1, 4, 1, 3])
    else:
        with pytest.raises(JslmError, match=r"cuts words in a way .* llama\.cpp would give other ids"):
            from_tokenizer_json(fields)


@pytest.mark.parametrize("ends_documents", [True, False])
@pytest.mark.parametrize(("layout", "adds"), [("llama2", True), ("llama3", True), ("qwen", False), ("gpt2", False)])
def test_what_goes_before_a_text_is_what_jslm_puts_there(
    export: Export, layout: str, adds: bool, ends_documents: bool
) -> None:
    tokenizer = LAYOUTS[layout]().tokenizer()
    keys, _, _ = export(make_bundle(tokenizer, ends_documents=ends_documents))
    assert keys["tokenizer.ggml.add_bos_token"] is (adds and ends_documents)
    assert keys["tokenizer.ggml.add_eos_token"] is False
    assert keys["tokenizer.ggml.bos_token_id"] == tokenizer.bos_id
    assert keys.get("tokenizer.ggml.add_space_prefix", False) is tokenizer.leading_space


def test_added_words_that_take_spaces_are_refused() -> None:
    fields = tokenizer_json({"type": "ByteLevel"})
    fields["added_tokens"][1] |= {"lstrip": True}
    with pytest.raises(JslmError, match=r"'b' of this tokenizer\.json is lstrip, and llama\.cpp would give other ids"):
        from_tokenizer_json(fields)


def test_tokenizer_files_that_llama_cpp_cannot_hold() -> None:
    with pytest.raises(JslmError, match="of type 'WordPiece'"):
        from_tokenizer_json(tokenizer_json(LEVEL, type="WordPiece"))
    with pytest.raises(JslmError, match="have gaps"):
        from_tokenizer_json(tokenizer_json({"type": "ByteLevel"}, vocab={"a": 0, "b": 1, "ab": 9}))


def test_tokens_spelled_alike_are_refused(tmp_path: Path) -> None:
    # llama.cpp would end the process that opens such a file.
    with pytest.raises(JslmError, match="the tokens 97 and 257 are both spelled 'a'"):
        write(make_bundle(ByteTokenizer(["a"])), tmp_path / "model.gguf", "float32")


def test_describe_and_detect(tmp_path: Path) -> None:
    path = tmp_path / "model"
    bundle = make_bundle(qk_norm=True, d_ff=100)
    write(bundle, path, "q8_0")
    total = count_parameters(bundle.config.model)["total"]
    vectors, wide = 5 * 64 + 4 * 16, 2 * 64 * 100
    assert describe(path) == {
        "format": "GGUF version 3",
        "architecture": "qwen3",
        "parameters": total,
        "weights": f"q8_0 {total - vectors - wide:,}, f16 {wide:,}, f32 {vectors:,} in 24 tensors",
        "name": "tiny",
        "description": "a language model made with jslm (steps 7, val/loss 1.5)",
        "n_layers": 2,
        "d_model": 64,
        "n_heads": 4,
        "n_kv_heads": 2,
        "d_ff": 100,
        "context_length": 32,
        "tokenizer": "gpt2, gpt-2: 257 tokens",
    }
    assert detect(path)
    assert not detect(tmp_path)
    assert not detect(tmp_path / "absent")
    (tmp_path / "short").write_bytes(b"GG")
    assert not detect(tmp_path / "short")
    assert FORMAT.name == "gguf"
    assert FORMAT.read is not None


def test_presets_that_can_be_exported() -> None:
    """Every preset but those whose activation the format does not know for their shape."""
    from jslm.config import load_config
    from jslm.formats.gguf.weights import choose_architecture

    found = {}
    for file in sorted(Path(__file__).parents[2].glob("configs/*.toml")):
        config: Config = load_config(file)
        try:
            found[file.stem] = choose_architecture(config.model)
        except JslmError as error:
            found[file.stem] = str(error).split(";")[0]
    refused = {name: text for name, text in found.items() if text not in ("gpt2", "llama", "qwen3", "arcee")}
    assert refused == {
        "few_books": "GGUF cannot express model.activation = 'relu2' with model.qk_norm (Qwen3 has 'swiglu')",
        "tinystories_1m": "GGUF cannot express model.activation = 'relu' (GPT-2 has 'gelu')",
    }
    assert found["tinystories_5m_fast"] == "arcee"


def test_k_types_need_llama_cpps_quantiser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"before")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(JslmError, match=r"llama-quantize of llama\.cpp on PATH, or pip install .*llamacpp.*q8_0$"):
        write(make_bundle(), path, "q6_k")
    # One that is there and fails.
    program = tmp_path / "llama-quantize"
    program.write_text("#!/bin/sh\necho 'main: failed to quantize' >&2\nexit 1\n", "utf-8")
    program.chmod(0o755)
    with pytest.raises(JslmError, match=r"--dtype q4_k_m: llama\.cpp's quantiser failed: main: failed to quantize"):
        write(make_bundle(), path, "q4_k_m")
    assert path.read_bytes() == b"before"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["llama-quantize", "model.gguf"]
