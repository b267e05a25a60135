"""GGUF files read again: exactly what was written, other programs' files, and files that nobody vouches for."""

from __future__ import annotations

import contextlib
import json
import struct
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jslm
from jslm import JslmError
from jslm.config import config_from_dict
from jslm.convert.__main__ import main
from jslm.formats.gguf.header import read_header
from jslm.formats.gguf.model import read, write
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from tests.random_models import noise_params
from tests.tokenizer_layouts import LAYOUTS

gguf = pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")

GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "activation": "gelu", "n_kv_heads": 0}
BIASES: dict[str, Any] = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
YARN: dict[str, Any] = {"kind": "yarn", "factor": 4.0}
LLAMA3: dict[str, Any] = {"kind": "llama3", "factor": 8.0, "original_context_length": 32}
GRID: dict[str, dict[str, Any]] = {
    "gqa": {},
    "mqa_untied": {"n_kv_heads": 1, "tie_embeddings": False},
    "head_dim": {"head_dim": 32, "norm_eps": 1e-3, "rope_theta": 500.0},
    "biases": BIASES,
    "qwen2": {"qkv_bias": True},
    "qwen3": {"qk_norm": True, "head_dim": 32},
    "arcee": {"activation": "relu2", "tie_embeddings": False},
    "gpt2": {**GPT2, **BIASES, "norm_bias": True},
    "linear": {"rope_scaling": {"kind": "linear", "factor": 4.0}},
    "ntk": {"rope_scaling": {"kind": "ntk", "factor": 4.0}, "qk_norm": True},
    "yarn": {"rope_scaling": YARN},
    "yarn_attention": {"rope_scaling": {**YARN, "attention_factor": 1.3}, "qk_norm": True},
    "yarn_betas": {"rope_scaling": {**YARN, "beta_fast": 8.0, "beta_slow": 2.0, "attention_factor": 1.3}},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500000.0},
}
TEXT = "The cat didn't  like\n\nthe rain — 漢字 🙂 in 2024\t<|user|>."


def make_bundle(tokenizer: Tokenizer | None = None, *, ends_documents: bool = True, **model: Any) -> Bundle:
    tokenizer = tokenizer or ByteTokenizer()
    shape: dict[str, Any] = {"n_layers": 2, "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "d_ff": 96}
    shape |= {"context_length": 64, "dtype": "float32", "vocab_size": tokenizer.vocab_size}
    config = config_from_dict({"model": {**shape, **model}}, "test")
    return Bundle(config, noise_params(config.model, deviation=0.2), tokenizer, ends_documents)


def arrays(bundle: Bundle) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(bundle.params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def assert_same_weights(one: Bundle, other: Bundle) -> None:
    first, second = arrays(one), arrays(other)
    assert first.keys() == second.keys()
    for name, array in first.items():
        np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.parametrize("name", GRID)
def test_what_was_written_is_read_exactly(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(**GRID[name])
    write(bundle, tmp_path / "model.gguf", "float32")
    again = read(tmp_path / "model.gguf")
    assert_same_weights(bundle, again)
    wanted = bundle.config.model
    for key in ("n_layers", "d_model", "n_heads", "kv_heads", "dim_per_head", "hidden_dim", "context_length", "norm"):
        assert getattr(again.config.model, key) == getattr(wanted, key), key
    for key in ("vocab_size", "norm_eps", "position", "rope_theta", "rope_scaling", "activation", "tie_embeddings"):
        assert getattr(again.config.model, key) == getattr(wanted, key), key
    for key in ("qkv_bias", "out_bias", "mlp_bias", "qk_norm"):
        assert getattr(again.config.model, key) == getattr(wanted, key), key
    # Once more, and nothing changes.
    write(again, tmp_path / "again.gguf", "float32")
    assert_same_weights(read(tmp_path / "again.gguf"), bundle)


def drop_keys(path: Path, *names: str, **values: Any) -> Path:
    """A copy of the file without some keys, as another program would have written it; `values` are put in place."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    target = path.with_name(f"{path.stem}-{len(list(path.parent.iterdir()))}.gguf")
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        kept = name not in names and not name.startswith("GGUF.") and name != "general.architecture"
        if kept and name not in values:
            kind, inner = field.types[0], field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), kind, sub_type=inner)
    for name, value in values.items():
        kinds = {bool: "BOOL", int: "UINT32", float: "FLOAT32", str: "STRING"}
        writer.add_key_value(name, value, gguf.GGUFValueType[kinds[type(value)]])
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.array(tensor.data), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


@pytest.mark.parametrize("name", ["linear", "yarn", "yarn_attention", "llama3"])
def test_scalings_are_found_in_llama_cpps_own_keys(tmp_path: Path, name: str) -> None:
    from jslm.model.rope import rotary_frequencies

    bundle = make_bundle(**GRID[name])
    write(bundle, tmp_path / "model.gguf", "float32")
    other = read(drop_keys(tmp_path / "model.gguf", "jslm.rope_scaling"))
    assert other.config.model.rope_scaling.kind == GRID[name]["rope_scaling"]["kind"]
    (found, amplitude), (wanted, factor) = map(rotary_frequencies, (other.config.model, bundle.config.model))
    np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=0)
    assert amplitude == pytest.approx(factor, rel=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "original", "factor", "theta", "head_dim"),
    [(1.0, 4.0, 8192, 8.0, 500000.0, 128), (1.0, 4.0, 8192, 32.0, 500000.0, 64), (2.0, 5.0, 3000, 3.0, 10000.0, 64)],
)
def test_bands_of_llama_3(
    tmp_path: Path, low: float, high: float, original: int, factor: float, theta: float, head_dim: int
) -> None:
    from jslm.model.rope import rotary_frequencies

    scaling: dict[str, Any] = {"kind": "llama3", "factor": factor, "original_context_length": original}
    scaling |= {"low_freq_factor": low, "high_freq_factor": high}
    bundle = make_bundle(n_layers=1, head_dim=head_dim, n_heads=1, n_kv_heads=1, rope_scaling=scaling, rope_theta=theta)
    write(bundle, tmp_path / "model.gguf", "float32")
    found = read(drop_keys(tmp_path / "model.gguf", "jslm.rope_scaling")).config.model
    np.testing.assert_allclose(rotary_frequencies(found)[0], rotary_frequencies(bundle.config.model)[0], rtol=1e-5)
    if low == 1:
        assert found.rope_scaling == bundle.config.model.rope_scaling


def test_a_note_that_the_keys_contradict_does_not_count(tmp_path: Path) -> None:
    write(make_bundle(**GRID["linear"]), tmp_path / "model.gguf", "float32")
    edited = drop_keys(tmp_path / "model.gguf", **{"llama.rope.scaling.factor": 2.0})
    assert read(edited).config.model.rope_scaling.factor == 2.0
    # Betas of YaRN are in the note alone: without it the factors are no scaling of jslm's.
    write(make_bundle(**GRID["yarn_betas"]), tmp_path / "yarn.gguf", "float32")
    bare = drop_keys(tmp_path / "yarn.gguf", "jslm.rope_scaling", "llama.rope.scaling.attn_factor")
    with pytest.raises(JslmError, match=r"rope_freqs\.weight holds factors that are not those of Llama 3"):
        read(bare)


MAKERS: dict[str, Callable[[], Tokenizer]] = {
    "byte": lambda: ByteTokenizer(["<|user|>"]),
    "char": lambda: CharTokenizer(TEXT.replace("漢", ""), ["<|user|>"]),
    "char_replacement": lambda: CharTokenizer(TEXT + "\ufffd"),
    "bpe": lambda: BpeTokenizer.train([TEXT] * 3, 300, ["<|user|>"]),
}


@pytest.mark.parametrize("ends_documents", [True, False])
@pytest.mark.parametrize("kind", MAKERS)
def test_tokenizers_of_jslm_come_back_themselves(tmp_path: Path, kind: str, ends_documents: bool) -> None:
    tokenizer = MAKERS[kind]()
    write(make_bundle(tokenizer, n_layers=1, ends_documents=ends_documents), tmp_path / "model.gguf", "float16")
    again = read(tmp_path / "model.gguf")
    assert (again.tokenizer.kind, again.tokenizer.fingerprint) == (tokenizer.kind, tokenizer.fingerprint)
    assert again.ends_documents is ends_documents
    # Without the fingerprint it is a file like any other: the same ids for what the vocabulary can spell.
    stripped = drop_keys(tmp_path / "model.gguf", "jslm.tokenizer.fingerprint")
    if kind.startswith("char"):
        # Parts of a character are no tokens of it, which no byte-level BPE but llama.cpp's can do.
        with pytest.raises(JslmError, match="to what is no token"):
            read(stripped)
        return
    other = read(stripped).tokenizer
    assert other.kind == "hf"
    for part in (TEXT, "", " ", "a  b"):
        ids = tokenizer.encode(part, allow_special=True)
        assert other.encode(part, allow_special=True) == ids
        assert other.decode(ids) == tokenizer.decode(ids)
    assert (other.bos_id, other.eot_id, other.adds_bos) == (tokenizer.bos_id, tokenizer.eot_id, ends_documents)


@pytest.mark.parametrize("layout", ["llama2", "llama3", "gpt2", "qwen", "deepseek"])
def test_tokenizers_of_others_give_the_same_ids(tmp_path: Path, layout: str) -> None:
    tokenizer = LAYOUTS[layout]().tokenizer()
    write(make_bundle(tokenizer, n_layers=1), tmp_path / "model.gguf", "float16")
    again = read(tmp_path / "model.gguf").tokenizer
    assert (again.bos_id, again.eot_id, again.adds_bos) == (tokenizer.bos_id, tokenizer.eot_id, tokenizer.adds_bos)
    assert again.special_tokens == tokenizer.special_tokens
    for text in (TEXT, "", " ", "  the cat\n", "e\u0301 café <tool_call>x</tool_call>", "the<|im_end|> a"):
        ids = tokenizer.encode(text)
        assert again.encode(text) == ids, text
        assert again.decode(ids) == tokenizer.decode(ids)


def test_rows_without_a_token_are_reserved(tmp_path: Path) -> None:
    """Qwen's tables have more rows than its tokenizer has tokens; llama.cpp wants a name for each."""
    from jslm.tokenizer import HuggingFaceTokenizer

    layout = LAYOUTS["qwen"]()
    size = len(layout.ids) + 7
    padded = HuggingFaceTokenizer(layout.fields, vocab_size=size, bos_id=None, eos_id=layout.ids[layout.eos])
    write(make_bundle(padded, n_layers=1), tmp_path / "model.gguf", "float32")
    tokens = gguf.GGUFReader(tmp_path / "model.gguf").fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == len(set(tokens)) == size
    again = read(tmp_path / "model.gguf").tokenizer
    assert again.vocab_size == size
    assert again.encode(TEXT) == padded.encode(TEXT)
    assert again.decode_bytes([size - 1]) == b""


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q5_1", "BF16", "F16"])
def test_blocks_are_unpacked(tmp_path: Path, kind: str) -> None:
    bundle = make_bundle(qk_norm=True)
    write(bundle, tmp_path / "model.gguf", "float32")
    target = gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(tmp_path / "packed.gguf", "qwen3")
    reader = gguf.GGUFReader(tmp_path / "model.gguf")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            inner = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    wanted = {}
    for tensor in reader.tensors:
        data = np.array(tensor.data)
        packed = gguf.quantize(data, target) if data.ndim > 1 else data
        wanted[tensor.name] = gguf.dequantize(packed, target) if data.ndim > 1 else data
        writer.add_tensor(tensor.name, packed, raw_dtype=target if data.ndim > 1 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    params = read(tmp_path / "packed.gguf").params
    np.testing.assert_array_equal(params["embed"]["tokens"][:257], wanted["token_embd.weight"])
    np.testing.assert_array_equal(params["layers"]["mlp"]["down"]["kernel"][1].T, wanted["blk.1.ffn_down.weight"])
    np.testing.assert_array_equal(params["layers"]["attention"]["q"]["kernel"][0].T, wanted["blk.0.attn_q.weight"])


def test_the_same_tokens_and_logits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from jslm.infer import LanguageModel

    bundle = make_bundle(activation="relu2", rope_scaling=LLAMA3)
    before = LanguageModel(bundle.config, bundle.params, bundle.tokenizer)
    write(bundle, tmp_path / "model.gguf", "float32")
    assert main(["import", str(tmp_path / "model.gguf"), str(tmp_path / "run")]) == 0
    assert "imported in" in capsys.readouterr().out
    ids = np.random.default_rng(1).integers(0, 256, 60).tolist()
    for where in ("model.gguf", "run"):
        after = jslm.load(tmp_path / where)
        np.testing.assert_array_equal(after.logits(ids), before.logits(ids))
        assert after.generate("ab", greedy=True, max_new_tokens=16) == before.generate(
            "ab", greedy=True, max_new_tokens=16
        )


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"llama.expert_count": 8}, r"nothing for llama\.expert_count = 8"),
        ({"llama.final_logit_softcapping": 30.0}, r"llama\.final_logit_softcapping = 30"),
        ({"llama.attention.sliding_window": 16}, r"llama\.attention\.sliding_window = 16"),
        ({"llama.brand_new": 1, "llama.logit_scale": 2.0}, r"llama\.brand_new = 1; llama\.logit_scale = 2"),
        ({"general.type": "adapter"}, r"general\.type = 'adapter'"),
        ({"split.count": 3}, r"llama-gguf-split --merge"),
        ({"llama.rope.dimension_count": 8}, r"rope\.dimension_count = 8, and heads are 16 wide"),
        ({"llama.rope.scaling.type": "longrope"}, r"'longrope', whose frequencies change"),
        ({"llama.rope.scaling.attn_factor": 2.0}, "attn_factor = 2 without yarn"),
        ({"llama.vocab_size": 300}, r"vocab_size = 300, but its tokenizer has 257"),
        ({"llama.feed_forward_length": 97}, r"blk\.0\.ffn_gate\.weight is 96x64, expected 97x64"),
        ({"llama.block_count": 1}, r"blk\.1\..*no part of this architecture"),
        ({"llama.block_count": 2**30}, r"no tensor blk\.2\.attn_"),
        ({"llama.attention.layer_norm_rms_epsilon": "small"}, "is 'small', expected a number"),
        ({"tokenizer.ggml.pre": "tekken"}, r"pattern 'tekken'; jslm reads gpt-2, smollm"),
        ({"tokenizer.ggml.model": "t5"}, "of llama.cpp's kind 't5'"),
        ({"tokenizer.ggml.eos_token_id": 900}, r"eos_token_id is 900, expected one of 257 ids"),
        ({"tokenizer.ggml.remove_extra_whitespaces": True}, r"remove_extra_whitespaces = True, by which"),
    ],
)
def test_what_differs_from_jslms_decoder_is_refused(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    write(make_bundle(n_layers=2), tmp_path / "model.gguf", "float32")
    edited = drop_keys(tmp_path / "model.gguf", "jslm.tokenizer.fingerprint", **keys)
    with pytest.raises(JslmError, match=message) as error:
        read(edited)
    assert str(error.value).startswith(str(edited))
    assert "\n" not in str(error.value)


def test_keys_that_change_nothing_do_not_matter(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(make_bundle(n_layers=1), tmp_path / "model.gguf", "float32")
    keys = {"llama.attention.sliding_window": 64, "llama.expert_count": 0, "general.author": "somebody"}
    edited = drop_keys(tmp_path / "model.gguf", **keys, **{"imatrix.chunks": 3})
    with caplog.at_level("INFO", logger="jslm"):
        assert_same_weights(read(edited), make_bundle(n_layers=1))
    assert "left out, as a run has no place for it: imatrix.chunks" in caplog.text


def test_a_head_that_is_the_embedding_is_tied(tmp_path: Path) -> None:
    bundle = make_bundle(n_layers=1, tie_embeddings=False)
    bundle.params["head"]["tokens"] = bundle.params["embed"]["tokens"]
    write(bundle, tmp_path / "model.gguf", "float32")
    again = read(tmp_path / "model.gguf")
    assert again.config.model.tie_embeddings
    assert "head" not in again.params


def test_floats_need_no_library_and_blocks_say_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype in ("float32", "bfloat16", "q8_0"):
        write(make_bundle(n_layers=1), tmp_path / f"{dtype}.gguf", dtype)
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert_same_weights(read(tmp_path / "float32.gguf"), make_bundle(n_layers=1))
    read(tmp_path / "bfloat16.gguf")
    with pytest.raises(JslmError, match=r"is of type q8_0, which needs the package gguf: pip install"):
        read(tmp_path / "q8_0.gguf")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file with all that can be damaged: blocks, strings, arrays, scores."""
    path = tmp_path_factory.mktemp("good") / "model.gguf"
    tokenizer = LAYOUTS["llama2"]().tokenizer()
    write(make_bundle(tokenizer, n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, d_ff=32), path, "q8_0")
    return path.read_bytes()


def header_end(data: bytes, path: Path) -> int:
    path.write_bytes(data)
    return min(tensor.offset for tensor in read_header(path).tensors.values())


def test_every_cut_is_one_line(tmp_path: Path, good: bytes) -> None:
    path = tmp_path / "cut.gguf"
    end = header_end(good, path)
    for length in [*range(0, end, 37), *range(end, len(good), 4099), len(good) - 1]:
        path.write_bytes(good[:length])
        with pytest.raises(JslmError, match=r"cut short|not a GGUF") as error:
            read(path)
        assert "\n" not in str(error.value)


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flips_and_cuts_end_in_a_line_or_a_model(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    path = tmp_path / "flipped.gguf"
    end = header_end(good, path)
    changed = bytearray(good)
    values = st.binary(min_size=1, max_size=4) | st.sampled_from(
        [b"\xff" * 8, b"\x00" * 4, struct.pack("<Q", 2**31), struct.pack("<I", 2**20), b"\x00\x00\x80\x7f"]
    )
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, end - 1) | st.integers(0, len(good) - 1))
        new = data.draw(values)
        changed[at : at + len(new)] = new
    path.write_bytes(changed[: data.draw(st.just(len(changed)) | st.integers(0, len(changed)))])
    outcome = ""
    tracemalloc.start()
    try:
        assert all(np.isfinite(array).all() for array in arrays(read(path)).values())
    except JslmError as error:
        outcome = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert "\n" not in outcome
    assert not outcome or str(path) in outcome
    assert peak < 60 * len(good) + 2_000_000


@given(at=st.integers(0, 2**16), name=st.sampled_from(["tokens", "merges", "scores", "token_type"]), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damaged_vocabularies(tmp_path: Path, at: int, name: str, data: st.DataObject) -> None:
    """The tokenizer's arrays, each changed at one place, in both of llama.cpp's kinds."""
    layout = data.draw(st.sampled_from(["llama2", "llama3"]))
    path = tmp_path / f"{layout}.gguf"
    if not path.exists():
        write(make_bundle(LAYOUTS[layout]().tokenizer(), n_layers=1), path, "float16")
    content = bytearray(path.read_bytes())
    start = content.find(f"tokenizer.ggml.{name}".encode())
    if start < 0:
        return
    place = start + 28 + at % 4000
    content[place : place + 1] = data.draw(st.binary(min_size=1, max_size=1))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(content)
    with contextlib.suppress(JslmError):
        tokenizer = read(damaged).tokenizer
        tokenizer.decode(tokenizer.encode("The cat."))


def test_a_wide_file_takes_no_memory_for_what_it_does_not_hold(tmp_path: Path) -> None:
    """A header that promises much in a file that holds little."""
    write(make_bundle(n_layers=1), tmp_path / "model.gguf", "float32")
    for keys in ({"llama.embedding_length": 2**30}, {"llama.context_length": 2**30}, {"llama.block_count": 2**30}):
        edited = drop_keys(tmp_path / "model.gguf", **keys)
        tracemalloc.start()
        try:
            with contextlib.suppress(JslmError):
                read(edited)
            assert tracemalloc.get_traced_memory()[1] < 20_000_000
        finally:
            tracemalloc.stop()


def test_inspect_says_the_same_as_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(make_bundle(n_layers=1), tmp_path / "model.gguf", "q8_0")
    assert main(["inspect", str(tmp_path / "model.gguf"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["architecture"] == "llama"
