"""Hugging Face folders without transformers: round trips, what is refused, hostile files. Numbers: tests/peer."""

from __future__ import annotations

import contextlib
import json
import struct
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
from jslm.formats import export_model, import_model, inspect_model
from jslm.formats.huggingface.config import family_of, target_model
from jslm.formats.huggingface.model import read, write
from jslm.runs.bundle import Bundle
from jslm.tokenizer import BpeTokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from tests.random_models import noise_params

GPT2: dict[str, Any] = {"norm": "layernorm", "position": "learned", "activation": "gelu"}


def make_bundle(tokenizer: Tokenizer | None = None, **model: Any) -> Bundle:
    tokenizer = tokenizer or ByteTokenizer()
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_ff": 32, "context_length": 64, "dtype": "float32"}
    config = config_from_dict({"model": {**shape, "vocab_size": tokenizer.vocab_size, **model}}, "test")
    params = noise_params(config.model)
    return Bundle(config, params, tokenizer, figures={"steps": 7, "val/loss": 1.25, "val/bits_per_byte": 2.5})


def arrays(bundle: Bundle) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(bundle.params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize(
    ("model", "family"),
    [
        ({"n_kv_heads": 1, "head_dim": 12}, "llama"),
        ({"tie_embeddings": False, "qkv_bias": True, "out_bias": True, "mlp_bias": True}, "llama"),
        ({"out_bias": True}, "llama"),
        ({"qkv_bias": True}, "qwen2"),
        ({"qk_norm": True, "qkv_bias": True}, "qwen3"),
        ({"activation": "relu2", "n_kv_heads": 1, "tie_embeddings": False}, "arcee"),
        ({"activation": "relu2", "qkv_bias": True, "mlp_bias": True}, "arcee"),
        ({"activation": "gelu_exact"}, "arcee"),
        ({**GPT2, "qkv_bias": True, "tie_embeddings": False}, "gpt2"),
        ({"rope_scaling": {"kind": "llama3", "factor": 4.0, "original_context_length": 16}}, "llama"),
    ],
)
def test_what_is_written_is_read_again(tmp_path: Path, model: dict[str, Any], family: str) -> None:
    bundle = make_bundle(**model)
    assert family_of(bundle.config.model) == family
    write(bundle, tmp_path / "model", "float32")
    again = read(tmp_path / "model")
    wanted = target_model(bundle.config.model, family)
    same = ("n_layers", "d_model", "kv_heads", "dim_per_head", "hidden_dim", "qkv_bias", "out_bias", "mlp_bias")
    for key in (*same, "tie_embeddings", "rope_scaling", "activation", "norm_eps", "qk_norm"):
        assert getattr(again.config.model, key) == getattr(wanted, key), key
    found = arrays(again)
    for name, array in arrays(bundle).items():
        np.testing.assert_array_equal(found.pop(name), array, err_msg=name)
    # What is new are the biases that the architecture always has.
    assert all("bias" in name and not array.any() for name, array in found.items())
    # Once more, and nothing changes: not the files either.
    write(again, tmp_path / "again", "float32")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        if name != "tokenizer.json":
            assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "model" / name).read_bytes(), name
    assert read(tmp_path / "again").tokenizer.fingerprint == again.tokenizer.fingerprint


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_the_tokenizer_gives_the_same_ids(tmp_path: Path, kind: str) -> None:
    text = "The cat didn't  like\n\nthe rain — 漢字 🙂 <|endoftext|>\t<|user|>."
    makers: dict[str, Callable[[], Tokenizer]] = {
        "byte": lambda: ByteTokenizer(["<|user|>"]),
        "char": lambda: CharTokenizer(text.replace("漢", ""), ["<|user|>"]),
        "bpe": lambda: BpeTokenizer.train([text] * 3, 300, ["<|user|>"]),
    }
    tokenizer = makers[kind]()
    write(make_bundle(tokenizer), tmp_path / "model", "bfloat16")
    again = read(tmp_path / "model").tokenizer
    for part in (text, text[5:], "", " ", "never seen: Ω"):
        ids = tokenizer.encode(part, allow_special=True)
        assert again.encode(part, allow_special=True) == ids
        assert again.decode(ids) == tokenizer.decode(ids)
    assert (again.bos_id, again.eot_id, again.adds_bos) == (tokenizer.bos_id, tokenizer.eot_id, True)


def test_the_card_tells_the_figures(tmp_path: Path) -> None:
    write(make_bundle(), tmp_path / "model", "float32")
    card = (tmp_path / "model" / "README.md").read_text("utf-8")
    assert "| Validation bits per byte | 2.5 |" in card
    assert f"| Parameters | {257 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16:,} |" in card
    settings = json.loads((tmp_path / "model" / "generation_config.json").read_text("utf-8"))
    assert settings == {
        "bos_token_id": 256, "eos_token_id": 256, "max_new_tokens": 200, "do_sample": True, "temperature": 0.8,
        "top_k": 0, "top_p": 1.0,
    }  # fmt: skip
    assert inspect_model(tmp_path / "model")["architecture"] == "llama"


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ({"activation": "relu2", "qk_norm": True}, ["activation = 'relu2' with model.qk_norm"]),
        ({"n_heads": 3, "head_dim": 8}, ["n_heads = 3 (Llama and Arcee have a divisor of d_model = 16)"]),
        ({"activation": "gelu", "norm": "layernorm"}, ["position = 'rope'"]),
        ({"position": "none", "logit_softcap": 30.0}, ["logit_softcap = 30", "position = 'none'"]),
        ({"qk_norm": True, "mlp_bias": True}, ["mlp_bias with model.qk_norm"]),
        ({**GPT2, "n_kv_heads": 1, "head_dim": 16}, ["n_kv_heads = 1", "head_dim = 16"]),
    ],
)
def test_all_that_cannot_be_expressed_is_listed(tmp_path: Path, model: dict[str, Any], wanted: list[str]) -> None:
    with pytest.raises(JslmError, match="--format safetensors") as error:
        write(make_bundle(**model), tmp_path / "model", "float32")
    for part in wanted:
        assert part in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "precious").touch()
    with pytest.raises(JslmError, match="is there already"):
        write(make_bundle(), tmp_path / "model", "float32")
    assert [path.name for path in tmp_path.rglob("*")] == ["model", "precious"]
    # A run is no export's target, nor the other way round.
    with pytest.raises(JslmError, match="is there already"):
        import_model(tmp_path / "model", tmp_path / "model")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "model"
    write(make_bundle(n_layers=1), folder, "float32")
    return folder


def copy(good: Path, folder: Path) -> Path:
    folder.mkdir()
    for file in good.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    fields = json.loads(path.read_text("utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), "utf-8")


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown architecture": ({"model_type": "mamba"}, "model_type 'mamba'; jslm reads llama, mistral"),
    "negative": ({"num_hidden_layers": -1}, "num_hidden_layers is -1, expected a whole number of 1 or more"),
    "overflowing": ({"hidden_size": 2**40}, "hidden_size is 1099511627776, expected a whole number"),
    "text for a number": ({"rms_norm_eps": "small"}, "rms_norm_eps is 'small', expected a number"),
    "absent": ({"intermediate_size": None}, "intermediate_size is absent, expected"),
    "fraction": ({"vocab_size": 257.5}, r"vocab_size is 257\.5"),
    "heads": ({"num_attention_heads": 3, "num_key_value_heads": 2}, "n_kv_heads = 2 does not divide"),
    "activation": ({"hidden_act": "relu2"}, "hidden_act is 'relu2', expected one of silu"),
    "window": ({"model_type": "mistral", "sliding_window": 16}, "sliding_window = 16, and jslm's attention"),
    "scaling": ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2}}, "rope scaling 'dynamic'"),
    "part of a head": ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0\.5"),
    "wrong vocabulary": ({"vocab_size": 999}, "embed_tokens.weight is 257x16, expected 999x16"),
    "larger model": ({"intermediate_size": 10**6}, r"gate_proj.weight is 32x16, expected 1000000x16"),
    "more layers": ({"num_hidden_layers": 2**30}, r"no tensor layers\.1\."),
    "fewer tensors wanted": ({"model_type": "qwen2"}, r"no tensor layers\.0\.self_attn\.q_proj\.bias"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_bad_configs_are_one_line(tmp_path: Path, good: Path, name: str) -> None:
    values, message = CONFIGS[name]
    folder = copy(good, tmp_path / "model")
    edit(folder / "config.json", lambda fields: fields.update(values))
    with pytest.raises(JslmError, match=message) as error:
        read(folder)
    assert str(error.value).startswith(str(folder))
    assert "\n" not in str(error.value)


def test_extra_tensors_are_named(tmp_path: Path) -> None:
    write(make_bundle(qk_norm=True), tmp_path / "model", "float32")
    edit(tmp_path / "model" / "config.json", lambda fields: fields.update(model_type="llama"))
    with pytest.raises(JslmError, match=r"self_attn\.k_norm\.weight.*no part of this architecture"):
        read(tmp_path / "model")


def test_missing_files_are_named(tmp_path: Path, good: Path) -> None:
    for name, message in {
        "model.safetensors": "no weights: expected one of model.safetensors",
        "tokenizer.json": "no tokenizer.json, nor vocab.json",
    }.items():
        folder = copy(good, tmp_path / name)
        (folder / name).unlink()
        with pytest.raises(JslmError, match=message):
            read(folder)
    with pytest.raises(JslmError, match="no such run folder or model file"):
        jslm.load(tmp_path / "absent")
    with pytest.raises(JslmError, match="not a run folder: it has no config"):
        jslm.load(tmp_path)


@pytest.mark.parametrize("file", ["../secret.safetensors", "/etc/passwd", "sub/x.safetensors", 7, ".."])
def test_an_index_cannot_lead_out_of_its_folder(tmp_path: Path, good: Path, file: Any) -> None:
    folder = copy(good, tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    table = {"weight_map": {"model.norm.weight": file}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(table), "utf-8")
    with pytest.raises(JslmError, match=r"no file name|missing, though"):
        read(folder)


def test_shards_are_put_together(tmp_path: Path, good: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy(good, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    table = {}
    for index, name in enumerate(sorted(tensors)):
        table[name] = f"part-{index % 3}.safetensors"
    for part in set(table.values()):
        save_file({name: tensors[name] for name in table if table[name] == part}, folder / part)
    index_file = folder / "model.safetensors.index.json"
    index_file.write_text(json.dumps({"metadata": {}, "weight_map": table}), "utf-8")
    for name, array in arrays(read(good)).items():
        np.testing.assert_array_equal(arrays(read(folder))[name], array, err_msg=name)
    edit(index_file, lambda fields: fields["weight_map"].pop("model.norm.weight"))
    with pytest.raises(JslmError, match=r"model\.norm\.weight: in the index and not in the file"):
        read(folder)


def with_tensors(good: Path, folder: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    from safetensors.numpy import load_file, save_file

    copy(good, folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_names_without_prefix_and_old_buffers(tmp_path: Path, good: Path, caplog: pytest.LogCaptureFixture) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = (1e4 ** -np.linspace(0, 0.75, 4)).astype(np.float32)
        # Tied models are sometimes saved with the table twice.
        tensors["lm_head.weight"] = tensors["embed_tokens.weight"].copy()

    folder = with_tensors(good, tmp_path / "model", change)
    for name, array in arrays(read(good)).items():
        np.testing.assert_array_equal(arrays(read(folder))[name], array, err_msg=name)
    assert not caplog.records
    edit(folder / "config.json", lambda fields: fields.update(tie_word_embeddings=False))
    assert "['head']['tokens']" in arrays(read(folder))
    # Of frequencies that the config does not say, the config counts, and not without a word.
    edit(folder / "config.json", lambda fields: fields.update(rope_theta=500.0, rope_parameters={"rope_theta": 500.0}))
    assert read(folder).config.model.rope_theta == 500
    assert "inv_freq is not what its config's rope_theta gives: the config counts" in caplog.text


def test_a_head_that_differs_is_kept(tmp_path: Path, good: Path, caplog: pytest.LogCaptureFixture) -> None:
    head = np.random.default_rng(1).standard_normal((257, 16), np.float32)
    folder = with_tensors(good, tmp_path / "two", lambda tensors: tensors.update({"lm_head.weight": head}))
    assert json.loads((folder / "config.json").read_text("utf-8"))["tie_word_embeddings"]
    bundle = read(folder)
    assert not bundle.config.model.tie_embeddings
    np.testing.assert_array_equal(bundle.params["head"]["tokens"][:257], head)
    assert "holds a head of other weights: kept" in caplog.text
    assert inspect_model(folder)["parameters"] == inspect_model(good)["parameters"] + head.size
    # Written, it says what it is.
    write(bundle, tmp_path / "again", "float32")
    assert read(tmp_path / "again").config.model.tie_embeddings is False


def test_a_tied_table_may_have_the_heads_name(tmp_path: Path, good: Path) -> None:
    def rename(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")

    folder = with_tensors(good, tmp_path / "model", rename)
    for name, array in arrays(read(good)).items():
        np.testing.assert_array_equal(arrays(read(folder))[name], array, err_msg=name)


def test_a_weight_under_two_names_is_one_or_an_error(tmp_path: Path, good: Path) -> None:
    for name, factor in (("same", 1), ("other", 2)):

        def add(tensors: dict[str, np.ndarray], factor: int = factor) -> None:
            tensors["norm.weight"] = factor * tensors["model.norm.weight"]

        folder = with_tensors(good, tmp_path / name, add)
        if factor == 1:
            np.testing.assert_array_equal(
                read(folder).params["final_norm"]["scale"], read(good).params["final_norm"]["scale"]
            )
        else:
            with pytest.raises(JslmError, match=r"norm\.weight is there twice, .* and the two differ"):
                read(folder)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_untied_model_without_its_head(tmp_path: Path, family: str) -> None:
    write(make_bundle(n_layers=1, **(GPT2 if family == "gpt2" else {})), tmp_path / "model", "float32")
    edit(tmp_path / "model" / "config.json", lambda fields: fields.update(tie_word_embeddings=False))
    for look in (read, inspect_model):
        with pytest.raises(JslmError, match=r"no tensor lm_head\.weight: .* lacks tie_word_embeddings = true"):
            look(tmp_path / "model")
    edit(tmp_path / "model" / "config.json", lambda fields: fields.update(tie_word_embeddings=True))
    assert "head" not in read(tmp_path / "model").params


def test_a_mask_that_is_not_causal_is_refused(tmp_path: Path) -> None:
    write(make_bundle(n_layers=1, **GPT2), tmp_path / "gpt2", "float32")
    for name, mask in (("same", np.tri(64)), ("window", np.triu(np.tri(64), -8))):

        def add(tensors: dict[str, np.ndarray], mask: np.ndarray = mask) -> None:
            tensors["transformer.h.0.attn.bias"] = mask.astype(np.float32).reshape(1, 1, 64, 64)

        folder = with_tensors(tmp_path / "gpt2", tmp_path / name, add)
        with contextlib.nullcontext() if name == "same" else pytest.raises(JslmError, match="not a mask of the future"):
            read(folder)


def test_quantised_weights_are_refused(tmp_path: Path, good: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = copy(good, tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].astype(np.int8)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(JslmError, match=r"norm\.weight is of type I8"):
        read(folder)


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_weights_load_or_say_why(tmp_path: Path, good: Path, data: st.DataObject) -> None:
    folder = tmp_path / "model"
    if not folder.exists():
        copy(good, folder)
    original = (good / "model.safetensors").read_bytes()
    header_end = 8 + struct.unpack("<Q", original[:8])[0]
    changed = bytearray(original)
    for at in data.draw(st.lists(st.integers(0, header_end), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    (folder / "model.safetensors").write_bytes(changed[: data.draw(st.just(len(changed)) | st.integers(0, 2000))])
    with contextlib.suppress(JslmError):
        read(folder)


@pytest.mark.parametrize("name", ["hf_tiny_gpt2", "hf_tiny_random_llama"])
def test_real_folders_come_back_equal(tmp_path: Path, assets: Path, name: str) -> None:
    import_model(assets / "checkpoints" / name, tmp_path / "run")
    export_model(tmp_path / "run", tmp_path / "back", format="hf")
    first, second = read(assets / "checkpoints" / name), read(tmp_path / "back")
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    assert arrays(first).keys() == arrays(second).keys()
    for key, array in arrays(first).items():
        np.testing.assert_array_equal(arrays(second)[key], array, err_msg=key)
    assert isinstance(jslm.load(tmp_path / "run").generate("a", max_new_tokens=4, seed=1), str)
