"""llama2.c's files: a real model both ways, what it cannot express, and files that lie."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jslm import JslmError
from jslm.config import config_from_dict
from jslm.formats.llama2c import checkpoint as llama2c_checkpoint
from jslm.formats.llama2c.model import TABLES_FIGURE, describe, detect, read, write
from jslm.formats.llama2c.tokenizer import read_tokenizer, tokenizer_bytes
from jslm.infer import LanguageModel
from jslm.model import count_parameters
from jslm.runs.bundle import Bundle
from jslm.tokenizer import ByteTokenizer, CharTokenizer
from jslm.tokenizer.sentencepiece import SentencePieceTokenizer
from tests.random_models import noise_params

SHAPE = {"n_layers": 2, "d_model": 16, "n_heads": 2, "n_kv_heads": 1, "d_ff": 24, "context_length": 12}
T = TypeVar("T")
PIECES = [" ", "e", "t", "h", "th", "the", " the", "é"]


def make_tokenizer(end_of_text: str = "<s>") -> SentencePieceTokenizer:
    special = ["<unk>", "\n<s>\n", "\n</s>\n", *(f"<0x{byte:02X}>" for byte in range(256))]
    scores = [0.0] * len(special) + [-float(index) for index in range(len(PIECES))]
    return SentencePieceTokenizer([*special, *PIECES], scores, end_of_text=end_of_text)


def make_bundle(**model: Any) -> Bundle:
    tokenizer = make_tokenizer()
    config = config_from_dict({"model": {**SHAPE, "vocab_size": tokenizer.vocab_size, **model}}, "test")
    return Bundle(config, noise_params(config.model), tokenizer)


@pytest.fixture(scope="module")
def stories(assets: Path) -> Path:
    return assets / "checkpoints" / "stories260K" / "stories260K.bin"


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with its tokenizer."""
    path = tmp_path_factory.mktemp("valid") / "model.bin"
    write(make_bundle(), path, "float32")
    return path


def test_real_model_tells_its_story(stories: Path) -> None:
    bundle = read(stories)
    model = LanguageModel(bundle.config, bundle.params, bundle.tokenizer)
    [result] = model.generate_results("", greedy=True, max_new_tokens=400)
    assert result.text.startswith("Once upon a time, there was a little girl named Lily. She loved to play outside")
    # llama2.c ends a story where the next one would begin.
    assert result.finish_reason == "stop"
    assert "<s>" not in result.text
    [continued] = model.generate_results("Once upon a time,", greedy=True, max_new_tokens=8)
    assert continued.text.startswith(" there was a little")


def test_real_model_comes_out_as_it_went_in(stories: Path, tmp_path: Path) -> None:
    assert detect(stories)
    assert not detect(stories.with_name("tok512.bin"))
    shown = describe(stories)
    assert {name: shown[name] for name in ("parameters", "d_model", "n_kv_heads", "vocab_size", "tied head")} == {
        "parameters": 260_032,
        "d_model": 64,
        "n_kv_heads": 4,
        "vocab_size": 512,
        "tied head": True,
    }
    bundle = read(stories)
    write(bundle, tmp_path / "new" / "stories.bin", "float32")
    assert (tmp_path / "new" / "stories.bin").read_bytes() == stories.read_bytes()
    assert (tmp_path / "new" / "tokenizer.bin").read_bytes() == stories.with_name("tok512.bin").read_bytes()
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["stories.bin", "tokenizer.bin"]


@pytest.mark.parametrize("tied", [True, False])
def test_import_of_an_export_is_the_same(tied: bool, tmp_path: Path) -> None:
    bundle = make_bundle(tie_embeddings=tied)
    write(bundle, tmp_path / "model.bin", "float32")
    again = read(tmp_path / "model.bin")
    jax.tree.map(np.testing.assert_array_equal, again.params, bundle.params)
    assert again.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    assert again.config.model == again.config.model.model_copy(update={**SHAPE, "tie_embeddings": tied})
    assert describe(tmp_path / "model.bin")["parameters"] == count_parameters(bundle.config.model)["total"]
    assert struct.unpack("<i", (tmp_path / "model.bin").read_bytes()[20:24])[0] == (267 if tied else -267)


def test_layout_is_that_of_llama2c(valid: Path) -> None:
    bundle = make_bundle()
    floats = np.frombuffer(valid.read_bytes(), "<f4", offset=28)
    layers, vocab = bundle.params["layers"], bundle.config.model.vocab_size
    at = vocab * 16 + 2 * 16
    wq = floats[at : at + 2 * 256].reshape(2, 16, 16)
    ours = layers["attention"]["q"]["kernel"]
    # Head 0 has our columns 0 to 7: their row 1 is our column 4, turned with column 0.
    for theirs, column in ((0, 0), (1, 4), (2, 1), (7, 7), (8, 8), (9, 12)):
        np.testing.assert_array_equal(wq[1, theirs], ours[1, :, column])
    cosines, sines = floats[-2 * 12 * 4 :].reshape(2, 12, 4)
    np.testing.assert_allclose(cosines[3], np.cos(3 * 10000.0 ** -np.array([0, 0.25, 0.5, 0.75])), atol=1e-6)
    np.testing.assert_allclose(sines[3], np.sin(3 * 10000.0 ** -np.array([0, 0.25, 0.5, 0.75])), atol=1e-6)


def test_everything_that_cannot_be_said_is_listed(tmp_path: Path) -> None:
    bundle = make_bundle(
        norm="layernorm", position="learned", activation="gelu", qkv_bias=True, norm_eps=1e-6, logit_softcap=30.0
    )
    tokenizer = CharTokenizer([chr(0x100 + index) for index in range(265)])
    with pytest.raises(JslmError) as caught:
        write(dataclasses.replace(bundle, tokenizer=tokenizer, ends_documents=False), tmp_path / "m.bin", "float32")
    message = str(caught.value)
    for part in ("norm = 'layernorm'", "position = 'learned'", "'gelu'", "qkv_bias = True", "1e-06", "30.0", "'char'"):
        assert part in message
    assert "documents without a token" in message
    assert "--format safetensors" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"rope_theta": 500.0}, "rope_theta = 500.0"),
        ({"head_dim": 16}, "head_dim = 16"),
        ({"qk_norm": True}, "qk_norm"),
        ({"rope_scaling": {"kind": "linear", "factor": 2.0}}, "rope_scaling.kind = 'linear'"),
    ],
)
def test_each_option_is_refused_and_gguf_named(model: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(JslmError, match=f"{named}.*--format gguf"):
        write(make_bundle(**model), tmp_path / "m.bin", "float32")


def test_other_tokenizer_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(b"precious")
    with pytest.raises(JslmError, match="another tokenizer is there"):
        write(make_bundle(), tmp_path / "m.bin", "float32")
    assert (tmp_path / "tokenizer.bin").read_bytes() == b"precious"
    with pytest.raises(JslmError, match="has this name"):
        write(make_bundle(), tmp_path / "other" / "tokenizer.bin", "float32")
    tokenizer = ByteTokenizer()
    with pytest.raises(JslmError, match="the tokenizer has 257 entries"):
        write(dataclasses.replace(make_bundle(), tokenizer=tokenizer), tmp_path / "m.bin", "float32")


def test_tokenizer_is_found_by_its_size(valid: Path, tmp_path: Path) -> None:
    model = tmp_path / "m.bin"
    model.write_bytes(valid.read_bytes())
    with pytest.raises(JslmError, match=r"no tokenizer\.bin and no tok\*\.bin beside it"):
        read(model)
    content = valid.with_name("tokenizer.bin").read_bytes()
    (tmp_path / "tokenizer.bin").write_bytes(content[: -(8 + len("é".encode()))])
    with pytest.raises(JslmError, match=r"has 267 tokens, but tokenizer\.bin has 266; put"):
        read(model)
    (tmp_path / "tok_mine.bin").write_bytes(content)
    assert read(model).tokenizer.vocab_size == 267


def test_tables(valid: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.bin").write_bytes(valid.with_name("tokenizer.bin").read_bytes())
    data, model = bytearray(valid.read_bytes()), tmp_path / "m.bin"
    model.write_bytes(data)
    assert read(model).figures == {}
    data[-4:] = struct.pack("<f", 0.5)
    model.write_bytes(data)
    with pytest.raises(JslmError, match="rotary tables are not those of base 10,000"):
        read(model)
    data[-2 * 12 * 4 * 4 :] = bytes(2 * 12 * 4 * 4)
    model.write_bytes(data)
    jax.tree.map(np.testing.assert_array_equal, read(model).params, make_bundle().params)
    # What cannot belong to this model's tables is left out.
    strange = dataclasses.replace(make_bundle(), figures={TABLES_FIGURE: "AAAA"})
    write(strange, tmp_path / "again" / "m.bin", "float32")
    assert (tmp_path / "again" / "m.bin").read_bytes() == valid.read_bytes()


HEADER = (16, 24, 2, 2, 1, 267, 12)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ((-16, *HEADER[1:]), "d_model = -16"),
        ((16, 24, 0, 2, 1, 267, 12), "n_layers = 0"),
        ((16, 24, 2, 3, 1, 267, 12), "3 n_heads do not divide"),
        ((16, 24, 2, 2, 3, 267, 12), "3 n_kv_heads do not divide"),
        ((16, 24, 2, 16, 1, 267, 12), "which is odd"),
        ((2**30, 2**31 - 1, 2**31 - 1, 2, 1, 2**31 - 1, 2**31 - 1), "its header says"),
        ((16, 24, 2, 2, 1, -(2**31), 12), "its header says"),
        ((16, 24, 2, 2, 1, 268, 12), "its header says"),
        ((0x616B3432, 1, 16, 24, 2, 2, 1), "version 1 of llama2.c's format"),
    ],
)
def test_headers_that_lie(header: tuple[int, ...], said: str, valid: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    path.write_bytes(struct.pack("<7i", *header) + valid.read_bytes()[28:])
    with pytest.raises(JslmError, match=said):
        read(path)
    with pytest.raises(JslmError, match=said):
        describe(path)


def test_files_cut_short_or_too_long(valid: Path, tmp_path: Path) -> None:
    path = tmp_path / "m.bin"
    for content in (valid.read_bytes()[:-1], valid.read_bytes() + b"\0"):
        path.write_bytes(content)
        assert detect(path)
        with pytest.raises(JslmError, match="the file is damaged"):
            read(path)
    path.write_bytes(b"abc")
    assert not detect(path)
    with pytest.raises(JslmError, match="3 bytes"):
        read(path)
    with pytest.raises(JslmError, match="cannot be read"):
        read(tmp_path / "absent.bin")
    assert not detect(tmp_path)


def loaded(read: Callable[[Path], T], path: Path) -> T | None:
    """What `read` makes of the file, or None where it says in one line why it does not."""
    try:
        return read(path)
    except JslmError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return None


mutations = st.lists(st.tuples(st.integers(0, 200), st.binary(min_size=1, max_size=5)), max_size=4)


@given(mutations=mutations, cut=st.none() | st.integers(0, 60_000), extra=st.binary(max_size=8))
@settings(max_examples=150, deadline=None)
def test_fuzzed_model_loads_or_says_why(
    valid: Path, mutations: list[tuple[int, bytes]], cut: int | None, extra: bytes
) -> None:
    data = bytearray(valid.read_bytes())
    for at, replacement in mutations:
        data[at : at + len(replacement)] = replacement
    path = valid.with_name("fuzzed.bin")
    path.write_bytes(bytes(data[:cut]) + extra)
    detect(path)
    bundle = loaded(read, path)
    if bundle:
        assert bundle.config.model.n_layers == len(bundle.params["layers"]["mlp_norm"]["scale"])


@given(mutations=mutations, cut=st.none() | st.integers(0, 4_000), extra=st.binary(max_size=20))
@settings(max_examples=200, deadline=None)
def test_fuzzed_tokenizer_loads_or_says_why(
    valid: Path, mutations: list[tuple[int, bytes]], cut: int | None, extra: bytes
) -> None:
    data = bytearray(valid.with_name("tokenizer.bin").read_bytes())
    for at, replacement in mutations:
        # From the end too, where the pieces are and not only the bytes.
        at = at if at < 100 else len(data) - at
        data[at : at + len(replacement)] = replacement
    content = bytes(data[:cut]) + extra
    path = valid.with_name("fuzzed-tokenizer")
    path.write_bytes(content)
    tokenizer = loaded(read_tokenizer, path)
    if tokenizer:
        assert tokenizer_bytes(tokenizer)[4:] == content[4:]
        assert tokenizer.decode(tokenizer.encode("the café")) == "the café"


def training_checkpoint(bundle: Bundle, valid: Path) -> dict[str, Any]:
    """What train.py saves, from the tensors of the file that export.py makes of it."""
    model = bundle.config.model
    floats = np.frombuffer(valid.read_bytes(), "<f4", offset=28)
    state: dict[str, np.ndarray] = {}
    stacks = {
        "attention_norm": (16,),
        "attention.wq": (16, 16),
        "attention.wk": (8, 16),
        "attention.wv": (8, 16),
        "attention.wo": (16, 16),
        "ffn_norm": (16,),
        "feed_forward.w1": (24, 16),
        "feed_forward.w2": (16, 24),
        "feed_forward.w3": (24, 16),
    }
    at = model.vocab_size * 16
    state["_orig_mod.tok_embeddings.weight"] = floats[:at].reshape(-1, 16)
    for name, shape in stacks.items():
        for layer in range(2):
            size = int(np.prod(shape))
            state[f"_orig_mod.layers.{layer}.{name}.weight"] = floats[at : at + size].reshape(shape)
            at += size
    state["_orig_mod.norm.weight"] = floats[at : at + 16]
    state["_orig_mod.output.weight"] = state["_orig_mod.tok_embeddings.weight"]
    state["_orig_mod.freqs_cos"] = floats[at + 16 : at + 64].reshape(12, 4)
    arguments = {"dim": 16, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 267, "multiple_of": 24}
    return {
        "model": state,
        "optimizer": {"state": {}},
        "model_args": {**arguments, "max_seq_len": 12, "dropout": 0.1},
        "iter_num": 700,
        "best_val_loss": 1.25,
    }


def test_training_checkpoint(valid: Path, torch_save: Callable[..., Path]) -> None:
    bundle = make_bundle()
    checkpoint = training_checkpoint(bundle, valid)
    path = torch_save(checkpoint)
    assert llama2c_checkpoint.detect(path)
    assert not llama2c_checkpoint.detect(valid)
    path.with_name("tokenizer.bin").write_bytes(valid.with_name("tokenizer.bin").read_bytes())
    found = llama2c_checkpoint.read(path)
    jax.tree.map(np.testing.assert_array_equal, found.params, bundle.params)
    assert found.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    assert found.figures == {"steps": 700, "val/loss": 1.25}
    assert found.config.model.dropout == 0.1
    assert found.config.model.tie_embeddings
    head = np.random.default_rng(5).standard_normal((267, 16), np.float32)
    untied = {**checkpoint, "model": {**checkpoint["model"], "_orig_mod.output.weight": head}}
    other = llama2c_checkpoint.read(torch_save(untied))
    np.testing.assert_array_equal(other.params["head"]["tokens"][:267], head)
    tables = {"_orig_mod.freqs_cos": np.ones((12, 4), np.float32)}
    with pytest.raises(JslmError, match=r"freqs_cos is not llama2\.c's table of base 10,000"):
        llama2c_checkpoint.read(torch_save({**checkpoint, "model": {**checkpoint["model"], **tables}}))
    torch_save(checkpoint)
    shown = llama2c_checkpoint.describe(path)
    assert (shown["parameters"], shown["d_ff"], shown["steps"]) == (
        count_parameters(bundle.config.model)["total"],
        24,
        700,
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["model"].pop("_orig_mod.norm.weight"), "no tensor norm.weight"),
        (lambda c: c["model"].update(extra=np.zeros(1, np.float32)), "extra"),
        (lambda c: c["model"].update({"_orig_mod.norm.weight": np.zeros(3, np.float32)}), "norm.weight is 3"),
        (lambda c: c["model"].update(odd=1), "no tensor"),
        (lambda c: c.pop("model_args"), "no model_args"),
        (lambda c: c["model_args"].pop("dim"), "dim"),
        (lambda c: c["model_args"].update(n_layers=2**40), "n_layers"),
        (lambda c: c["model_args"].update(n_heads=3), "does not divide"),
        (lambda c: c["model_args"].update(n_heads=0), "n_heads"),
        (lambda c: c["model_args"].update(n_kv_heads="x"), "n_kv_heads"),
        (lambda c: c["model_args"].update(dropout="x"), "dropout"),
        (lambda c: c["model_args"].update(max_seq_len=-1), "context_length"),
    ],
)
def test_bad_training_checkpoints(
    change: Callable[[dict[str, Any]], Any], said: str, valid: Path, torch_save: Callable[..., Path]
) -> None:
    checkpoint = training_checkpoint(make_bundle(), valid)
    change(checkpoint)
    path = torch_save(checkpoint)
    path.with_name("tokenizer.bin").write_bytes(valid.with_name("tokenizer.bin").read_bytes())
    with pytest.raises(JslmError, match=said):
        llama2c_checkpoint.read(path)
