"""The portable file: the same model before and after, and nothing but one clear line for a bad one."""

from __future__ import annotations

import contextlib
import json
import math
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jslm
from jslm import JslmError
from jslm.config import RewriteConfig, config_from_dict, load_config
from jslm.formats import export_model, import_model, inspect_model, load_model, portable
from jslm.formats.portable import detect, read, write
from jslm.infer import LanguageModel
from jslm.model import param_shapes
from jslm.prompts.rewrite_words import REWRITE_WORDS
from jslm.runs.bundle import Bundle
from jslm.tokenizer import ByteTokenizer, CharTokenizer, Tokenizer
from tests.random_models import noise_params

ROOT = Path(__file__).resolve().parents[2]


def make_bundle(tokenizer: Tokenizer | None = None, **model: Any) -> Bundle:
    tokenizer = tokenizer or ByteTokenizer()
    shape = {"n_layers": 2, "d_model": 16, "n_heads": 2, "d_ff": 32, "context_length": 64, "dtype": "float32"}
    config = config_from_dict({"model": {**shape, "vocab_size": tokenizer.vocab_size, **model}}, "test")
    params = noise_params(config.model)
    return Bundle(config, params, tokenizer, ends_documents=False, figures={"steps": 7, "val/loss": 1.5}, source="x")


def arrays(bundle: Bundle) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_flatten_with_path(bundle.params)[0]
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("model", [{}, {"tie_embeddings": False, "norm": "layernorm", "position": "learned"}])
def test_everything_comes_back_bit_equal(tmp_path: Path, model: dict[str, Any]) -> None:
    bundle = make_bundle(**model)
    path = tmp_path / "model.safetensors"
    write(bundle, path, "float32")
    again = read(path)
    assert again.config == bundle.config
    assert again.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    assert (again.ends_documents, again.figures) == (False, {"steps": 7, "val/loss": 1.5})
    for name, array in arrays(bundle).items():
        np.testing.assert_array_equal(arrays(again)[name], array, err_msg=name)
    assert path.stat().st_mode & 0o777 == 0o666 & ~current_umask()
    before = path.read_bytes()
    write(again, path, "float32")
    assert path.read_bytes() == before


def test_other_words_for_the_check_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = make_bundle()
    config = bundle.config.model_copy(update={"rewrite": RewriteConfig(faithful=True)})
    path = tmp_path / "model.safetensors"
    with monkeypatch.context() as older:
        older.setattr(portable, "REWRITE_WORDS", {name: [] for name in REWRITE_WORDS})
        write(replace(bundle, config=config), path, "float32")
    read(path)
    assert "with other words for the check of rewrites" in caplog.text
    caplog.clear()
    write(replace(bundle, config=config), path, "float32")
    read(path)
    assert caplog.text == ""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_rounds_matrices_alone(tmp_path: Path, dtype: str) -> None:
    bundle = make_bundle()
    write(bundle, tmp_path / "m.safetensors", dtype)
    once = read(tmp_path / "m.safetensors")
    for name, array in arrays(once).items():
        expected = arrays(bundle)[name]
        if "norm" not in name:
            expected = expected.astype(dtype).astype(np.float32)
            assert (expected != arrays(bundle)[name]).any()
        np.testing.assert_array_equal(array, expected, err_msg=name)
    write(once, tmp_path / "n.safetensors", dtype)
    assert (tmp_path / "m.safetensors").read_bytes() == (tmp_path / "n.safetensors").read_bytes()


def test_it_stands_in_for_a_run(tmp_path: Path) -> None:
    bundle = make_bundle(CharTokenizer("abc def\n"))
    path = tmp_path / "model.safetensors"
    write(bundle, path, "float32")
    direct = LanguageModel(bundle.config, bundle.params, bundle.tokenizer, ends_documents=False)
    wanted = direct.generate("abc", greedy=True, max_new_tokens=20)
    assert jslm.load(path).generate("abc", greedy=True, max_new_tokens=20) == wanted
    # Into a run folder and out again.
    import_model(path, tmp_path / "run")
    assert jslm.load(tmp_path / "run").generate("abc", greedy=True, max_new_tokens=20) == wanted
    export_model(tmp_path / "run", tmp_path / "again.safetensors", format="safetensors")
    first, second = read(path), read(tmp_path / "again.safetensors")
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    for name, array in arrays(first).items():
        np.testing.assert_array_equal(arrays(second)[name], array, err_msg=name)
    assert load_model(tmp_path / "run").figures == bundle.figures
    with pytest.raises(JslmError, match="holds one set of weights"):
        jslm.load(path, checkpoint="5")


def test_the_rewriter_fits_in_30_megabytes() -> None:
    config = load_config(ROOT / "configs" / "rewriter_char.toml")
    # More characters than English text has.
    model = config.model.model_copy(update={"vocab_size": 256})
    numbers = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(param_shapes(model)))
    assert 2 * numbers + 100_000 < 30e6


def test_inspect_tells_what_it_is(tmp_path: Path) -> None:
    write(make_bundle(), tmp_path / "m.safetensors", "bfloat16")
    assert detect(tmp_path / "m.safetensors")
    found = inspect_model(tmp_path / "m.safetensors")
    assert found["parameters"] == 257 * 16 + 2 * (4 * 16 * 16 + 3 * 16 * 32 + 2 * 16) + 16
    assert "BF16" in found["weights"]
    assert found["val/loss"] == 1.5


def test_too_large_for_float16_is_told(tmp_path: Path) -> None:
    bundle = make_bundle()
    bundle.params["embed"]["tokens"][0, 0] = 1e6
    with pytest.raises(JslmError, match=r"embed/tokens has a weight of 1e\+06"):
        write(bundle, tmp_path / "m.safetensors", "float16")
    bundle.params["embed"]["tokens"][0, 0] = np.nan
    with pytest.raises(JslmError, match="not finite"):
        write(bundle, tmp_path / "m.safetensors", "float32")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m.safetensors"
    write(make_bundle(n_layers=1), path, "float32")
    return path.read_bytes()


def header_of(data: bytes) -> dict[str, Any]:
    size = struct.unpack("<Q", data[:8])[0]
    header: dict[str, Any] = json.loads(data[8 : 8 + size])
    return header


def with_header(data: bytes, header: dict[str, Any]) -> bytes:
    size = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def change_metadata(data: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    header = header_of(data)
    fields = json.loads(header["__metadata__"]["jslm"])
    change(fields)
    header["__metadata__"]["jslm"] = json.dumps(fields)
    return with_header(data, header)


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", "no safetensors file, or damaged"),
    "truncated": (lambda data: data[:-100], "no safetensors file, or damaged"),
    "header past the end": (lambda data: struct.pack("<Q", 10**6) + data[8:], "no safetensors file, or damaged"),
    "header of 2**63": (lambda data: struct.pack("<Q", 2**63) + data[8:], "no safetensors file, or damaged"),
    "another program's": (
        lambda data: with_header(data, header_of(data) | {"__metadata__": {"format": "pt"}}),
        "not one that jslm wrote",
    ),
    "newer": (lambda data: change_metadata(data, lambda f: f.update(version=3)), "version 3 of the portable file"),
    "version of another type": (lambda data: change_metadata(data, lambda f: f.update(version=True)), "version True"),
    "int8 without int8": (lambda data: change_metadata(data, lambda f: f.update(version=2)), "quantisation None"),
    "no tokenizer": (lambda data: change_metadata(data, lambda f: f.pop("tokenizer")), "has no tokenizer"),
    "edited tokenizer": (
        lambda data: change_metadata(data, lambda f: f["tokenizer"]["special_tokens"].update({"<|x|>": 257})),
        "tokenizer",
    ),
    "unknown key": (
        lambda data: change_metadata(data, lambda f: f["config"]["model"].update(colour=1)),
        r"config: model\.colour",
    ),
    "huge model": (
        lambda data: change_metadata(data, lambda f: f["config"]["model"].update(d_ff=2**40)),
        r"layers/mlp/down/kernel is \[1, 32, 16\], expected \[1, 1099511627776, 16\]",
    ),
    "another vocabulary": (
        lambda data: change_metadata(data, lambda f: f["config"]["model"].update(vocab_size=300)),
        "its tokenizer has 257",
    ),
    "missing tensor": (
        lambda data: with_header(data, {k.replace("final_norm", "first_norm"): v for k, v in header_of(data).items()}),
        "first_norm/scale is .* expected nothing of that name",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_files_are_one_line(tmp_path: Path, good: bytes, name: str) -> None:
    change, message = HOSTILE[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(change(good))
    with pytest.raises(JslmError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


@given(data=st.data())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_load_or_say_why(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    changed = bytearray(good)
    # Mostly the header, where sizes and offsets are.
    for at in data.draw(st.lists(st.integers(0, 4000) | st.integers(0, len(good) - 1), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(good)) | st.integers(0, len(good)))
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(bytes(changed[:end]))
    for what in (read, inspect_model):
        with contextlib.suppress(JslmError):
            what(path)
