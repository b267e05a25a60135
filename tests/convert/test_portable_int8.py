"""`int8` in the portable file: what it holds, what it costs a trained model, and nothing but one line for a bad one."""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jslm
from jslm import JslmError
from jslm.config import config_from_dict
from jslm.convert.__main__ import main
from jslm.formats import export_model, import_model, inspect_model
from jslm.formats.int8_rows import dequantise_rows, quantise_rows
from jslm.formats.portable import read, write
from jslm.formats.weights import SafetensorsFile
from jslm.model import Params, init_params, loss_sums
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import flatten_tree
from jslm.tokenizer import CharTokenizer

ROOT = Path(__file__).resolve().parents[2]
# Text enough to learn from, and there in any checkout.
TEXT = "".join(path.read_text("utf-8") for path in sorted((ROOT / "jslm").glob("**/*.py"))[::4])


def make_bundle(**model: Any) -> Bundle:
    tokenizer = CharTokenizer(TEXT)
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "d_ff": 64, "context_length": 64}
    values = {**shape, "dtype": "float32", "vocab_size": tokenizer.vocab_size, **model}
    data = {"packing": "documents"} if "conditions" in model else {}
    config = config_from_dict({"model": values, "data": data}, "test")
    params = jax.tree.map(np.array, init_params(config.model, jax.random.key(0)))
    for table in (params["embed"]["tokens"], params.get("head", {}).get("tokens", params["embed"]["tokens"])):
        table[tokenizer.vocab_size :] = 0
    return Bundle(config, params, tokenizer, figures={"steps": 7})


@pytest.fixture(scope="module")
def trained() -> tuple[Bundle, np.ndarray]:
    """A model that has learned a text for some hundred steps, and 64 rows of it that it has not seen."""
    bundle = make_bundle()
    ids = np.array(bundle.tokenizer.encode(TEXT), np.int32)
    rows = ids[: len(ids) // 65 * 65].reshape(-1, 65)
    every = len(rows) // 64
    held, learned = rows[::every][:64], np.delete(rows, slice(None, None, every), axis=0)
    optimizer = optax.adam(5e-3)

    @jax.jit
    def learn(params: Params, state: optax.OptState, batch: jax.Array) -> tuple[Params, optax.OptState]:
        def loss(params: Params) -> jax.Array:
            return loss_sums(params, batch[:, :-1], batch[:, 1:], bundle.config.model)[0] / batch[:, 1:].size

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    params = jax.tree.map(jnp.asarray, bundle.params)
    state = optimizer.init(params)
    order = np.random.default_rng(0)
    for _ in range(300):
        params, state = learn(params, state, jnp.asarray(order.choice(learned, 16)))
    found = jax.tree.map(np.array, params)
    found["embed"]["tokens"][bundle.tokenizer.vocab_size :] = 0
    return Bundle(bundle.config, found, bundle.tokenizer), held


def loss(bundle: Bundle, rows: np.ndarray) -> float:
    """Nats a character."""
    params = jax.tree.map(jnp.asarray, bundle.params)
    total, _ = loss_sums(params, jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:]), bundle.config.model)
    return float(total) / rows[:, 1:].size


def test_its_cost_on_a_trained_model_is_small(tmp_path: Path, trained: tuple[Bundle, np.ndarray]) -> None:
    bundle, held = trained
    write(bundle, tmp_path / "m.safetensors", "int8")
    before, after = loss(bundle, held), loss(read(tmp_path / "m.safetensors"), held)
    # It has learned: a uniform guess costs the logarithm of the vocabulary, over 4.5 nats.
    assert before < np.log(bundle.tokenizer.vocab_size) - 2
    assert after - before <= 0.005, f"{before:.4f} nats became {after:.4f}"


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"tie_embeddings": False, "norm": "layernorm", "position": "learned", "activation": "gelu", "mlp_bias": True},
        {"qk_norm": True, "qkv_bias": True, "out_bias": True, "conditions": [{"name": "style", "labels": ["a", "b"]}]},
    ],
)
def test_each_weight_is_within_half_a_step_and_the_rest_is_exact(tmp_path: Path, model: dict[str, Any]) -> None:
    bundle = make_bundle(**model)
    path = tmp_path / "m.safetensors"
    write(bundle, path, "int8")
    again = read(path)
    assert again.config == bundle.config
    stored = SafetensorsFile(path)
    found = flatten_tree(again.params)
    for name, array in flatten_tree(bundle.params).items():
        if f"{name}/rows" not in stored.shapes:
            assert "norm" in name or "bias" in name or "conditions" in name, name
            np.testing.assert_array_equal(found[name], array, err_msg=name)
            continue
        assert (stored.types[f"{name}/rows"], stored.types[f"{name}/scales"]) == ("I8", "F32")
        scales = stored.get(f"{name}/scales")
        # A kernel [in, out] has a scale an output.
        steps = (
            scales[:, None, :] if name.endswith("/kernel") else np.pad(scales, (0, len(array) - len(scales)))[:, None]
        )
        assert np.all(np.abs(found[name] - array) <= steps * 0.5001), name
    # One table where the head is the embedding.
    assert ("head/tokens/rows" in stored.shapes) == (not bundle.config.model.tie_embeddings)
    weights = sum(np.asarray(leaf).size for leaf in jax.tree.leaves(bundle.params))
    assert path.stat().st_size < 1.35 * weights + 10_000


def test_writing_what_was_read_keeps_the_integers(tmp_path: Path) -> None:
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    write(make_bundle(), first, "int8")
    write(make_bundle(), second, "int8")
    assert first.read_bytes() == second.read_bytes()
    write(read(first), second, "int8")
    one, other = SafetensorsFile(first), SafetensorsFile(second)
    for name in one.shapes:
        if name.endswith("/rows"):
            np.testing.assert_array_equal(one.get(name, ("I8",)), other.get(name, ("I8",)), err_msg=name)
        else:
            np.testing.assert_array_max_ulp(one.get(name), other.get(name), maxulp=1)


def test_rows_of_zeros_and_of_the_smallest_numbers() -> None:
    rows = np.array([[0, 0, 0], [1e-45, -1e-45, 0], [-2, 1, 0.0079], [3e38, -3e38, 1e36]], np.float32)
    integers, scales = quantise_rows("w", rows)
    assert integers.tolist() == [[0, 0, 0], [0, 0, 0], [-127, 64, 1], [127, -127, 0]]
    back = dequantise_rows("w", integers, scales)
    np.testing.assert_allclose(back, rows, rtol=0, atol=1.3e36)
    np.testing.assert_allclose(back[:3], rows[:3], rtol=0, atol=0.5001 * 2 / 127)


def test_it_stands_in_for_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(make_bundle(), tmp_path / "float.safetensors", "float32")
    path = tmp_path / "int8.safetensors"
    arguments = ["export", str(tmp_path / "float.safetensors"), str(path), "--format", "safetensors", "--dtype", "int8"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "portable file of jslm, version 2" in shown
    assert "F32, I8 in" in shown
    assert "int8 with a scale a row" in shown
    assert inspect_model(path)["parameters"] == inspect_model(tmp_path / "float.safetensors")["parameters"]
    wanted = jslm.load(path).generate("def ", greedy=True, max_new_tokens=20)
    import_model(path, tmp_path / "run")
    assert jslm.load(tmp_path / "run").generate("def ", greedy=True, max_new_tokens=20) == wanted


def test_versions_before_it_refuse_it_by_its_number(tmp_path: Path) -> None:
    for dtype, version in (("float32", 1), ("bfloat16", 1), ("int8", 2)):
        write(make_bundle(), tmp_path / f"{dtype}.safetensors", dtype)
        fields = json.loads(SafetensorsFile(tmp_path / f"{dtype}.safetensors").metadata["jslm"])
        assert fields["version"] == version
        assert ("quantisation" in fields) == (version == 2)


def test_weights_that_are_not_finite_are_told(tmp_path: Path) -> None:
    bundle = make_bundle()
    bundle.params["layers"]["mlp"]["up"]["kernel"][1, 0, 0] = np.nan
    with pytest.raises(JslmError, match="layers/mlp/up/kernel has weights that are not finite"):
        write(bundle, tmp_path / "m.safetensors", "int8")
    assert list(tmp_path.iterdir()) == []


def test_other_formats_have_no_int8(tmp_path: Path) -> None:
    write(make_bundle(), tmp_path / "m.safetensors", "float32")
    with pytest.raises(JslmError, match="--dtype int8: llama2c holds float32"):
        export_model(tmp_path / "m.safetensors", tmp_path / "m.bin", format="llama2c", dtype="int8")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("good") / "m.safetensors"
    write(make_bundle(n_layers=1), path, "int8")
    return path.read_bytes()


def split(data: bytes) -> tuple[dict[str, Any], bytearray]:
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])


def joined(header: dict[str, Any], body: bytes | bytearray) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def with_bytes(name: str, new: bytes) -> Callable[[bytes], bytes]:
    """The first bytes of a tensor are others."""

    def change(data: bytes) -> bytes:
        header, body = split(data)
        start = header[name]["data_offsets"][0]
        body[start : start + len(new)] = new
        return joined(header, body)

    return change


def with_entry(name: str, **fields: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        header, body = split(data)
        header[name].update(fields)
        return joined(header, body)

    return change


def renamed(before: str, after: str) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        header, body = split(data)
        return joined({key.replace(before, after): value for key, value in header.items()}, body)

    return change


def with_fields(**fields: Any) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        header, body = split(data)
        found = json.loads(header["__metadata__"]["jslm"]) | fields
        header["__metadata__"]["jslm"] = json.dumps(found)
        return joined(header, body)

    return change


def with_model(**keys: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        config = json.loads(split(data)[0]["__metadata__"]["jslm"])["config"]
        config["model"].update(keys)
        return with_fields(config=config)(data)

    return change


Q = "layers/attention/q/kernel"
HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-1], "no safetensors file, or damaged"),
    "scale of nothing": (
        with_bytes(f"{Q}/scales", struct.pack("<f", float("nan"))),
        f"{Q}/scales: a scale is negative",
    ),
    "infinite scale": (with_bytes(f"{Q}/scales", struct.pack("<f", float("inf"))), "too large or not finite"),
    "scale near infinity": (with_bytes(f"{Q}/scales", struct.pack("<f", 3e38)), "too large or not finite"),
    "negative scale": (
        with_bytes("embed/tokens/scales", struct.pack("<f", -1.0)),
        "embed/tokens/scales: a scale is neg",
    ),
    "-128": (with_bytes(f"{Q}/rows", b"\x80"), f"{Q}/rows: holds -128"),
    "scales of another shape": (with_entry(f"{Q}/scales", shape=[32, 1]), r"scales is \[32, 1\], expected \[1, 32\]"),
    "rows of another shape": (with_entry("layers/mlp/up/kernel/rows", shape=[1, 32, 64]), r"expected \[1, 64, 32\]"),
    "scales of another type": (with_entry(f"{Q}/scales", dtype="I32"), "scales is of type I32; jslm reads F32"),
    "rows of another type": (with_entry(f"{Q}/rows", dtype="U8"), "rows is of type U8; jslm reads I8"),
    "scales missing": (renamed(f"{Q}/scales", f"{Q}/scale"), r"scale is \[1, 32\], expected nothing of that name"),
    "huge layers": (with_model(d_ff=2**40), r"is \[1, 32, 64\], expected \[1, 32, 1099511627776\]"),
    "a billion layers": (with_model(n_layers=10**9), r"expected \[1000000000, "),
    "called float": (with_fields(version=1), "rows is .* expected nothing of that name"),
    "another quantisation": (with_fields(quantisation="int4"), "quantisation 'int4'; this jslm reads 'int8_rows'"),
    "quantisation of 3 MB": (with_fields(quantisation="x" * 3_000_000), "quantisation 'xxx"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_bad_files_are_one_line(tmp_path: Path, good: bytes, name: str) -> None:
    change, message = HOSTILE[name]
    path = tmp_path / "bad.safetensors"
    path.write_bytes(change(good))
    with pytest.raises(JslmError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


def test_a_missing_tensor_is_named(tmp_path: Path, good: bytes) -> None:
    header, body = split(good)
    *_, last = sorted(header, key=lambda name: header[name].get("data_offsets", [0])[0])
    start = header.pop(last)["data_offsets"][0]
    (tmp_path / "bad.safetensors").write_bytes(joined(header, body[:start]))
    with pytest.raises(JslmError, match=f"no tensor {last}, which its config asks for; the file is incomplete"):
        read(tmp_path / "bad.safetensors")


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_load_or_say_why(tmp_path: Path, good: bytes, data: st.DataObject) -> None:
    changed = bytearray(good)
    for at in data.draw(st.lists(st.integers(0, 6000) | st.integers(0, len(good) - 1), min_size=1, max_size=4)):
        changed[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.just(len(good)) | st.integers(0, len(good)))
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(bytes(changed[:end]))
    for what in (read, inspect_model):
        with contextlib.suppress(JslmError):
            what(path)
