"""ONNX: the same numbers and the same tokens in onnxruntime, and nothing run that jslm did not write."""

from __future__ import annotations

import contextlib
import functools
import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jslm import JslmError
from jslm.config import ModelConfig, config_from_dict, load_config
from jslm.convert.__main__ import main
from jslm.formats import inspect_model, load_model
from jslm.formats.onnx.check import check_onnx
from jslm.formats.onnx.decoder import decoder_graph
from jslm.formats.onnx.file import read_onnx
from jslm.formats.onnx.folder import read_folder
from jslm.formats.onnx.model import write
from jslm.formats.onnx.products import Layout
from jslm.formats.onnx.runtime import OnnxDecoder
from jslm.model import apply_decoder, count_parameters, logits_from_hidden, param_shapes
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import flatten_tree
from jslm.tokenizer import ByteTokenizer
from jslm.train import train
from tests.random_models import lively_params

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = 64
# Greedy tokens, after prompts of these lengths.
NEW, LENGTHS = 12, (9, 4, 1)
STYLES = [{"name": "style", "labels": ["plain", "formal"]}, {"name": "mood", "labels": ["glad"]}]
BIASES = {"qkv_bias": True, "out_bias": True, "mlp_bias": True}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "gqa untied": {"n_kv_heads": 2, "tie_embeddings": False},
    "mqa head_dim": {"n_kv_heads": 1, "head_dim": 16},
    "qk_norm": {"qk_norm": True, "n_kv_heads": 2, **BIASES},
    "gpt2": {"norm": "layernorm", "position": "learned", "activation": "gelu", **BIASES},
    "no positions": {"norm": "layernorm", "norm_bias": False, "position": "none", "activation": "relu2"},
    "softcap geglu": {"activation": "geglu", "logit_softcap": 5.0, "rope_theta": 500.0, "norm_eps": 1e-3},
    "linear exact": {"activation": "gelu_exact", "rope_scaling": {"kind": "linear", "factor": 2.0}},
    "ntk relu": {"activation": "relu", "rope_scaling": {"kind": "ntk", "factor": 2.0}},
    "yarn": {"rope_scaling": {"kind": "yarn", "factor": 4.0, "attention_factor": 1.3}},
    "llama3": {"rope_scaling": {"kind": "llama3", "factor": 8.0, "original_context_length": 16}},
    "conditions": {"conditions": STYLES, "qk_norm": True},
}


def make_bundle(**model: Any) -> Bundle:
    tokenizer = ByteTokenizer()
    shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "d_ff": 48, "context_length": CONTEXT, "dtype": "float32"}
    values = {"model": {**shape, "vocab_size": tokenizer.vocab_size, **model}, "data": {"packing": "documents"}}
    config = config_from_dict(values, "test")
    params = lively_params(config.model)
    return Bundle(config, params, tokenizer, figures={"val/loss": 1.5}, source="runs/tiny")


def own_logits(bundle: Bundle, ids: np.ndarray, labels: list[int] | None = None) -> np.ndarray:
    """jslm's, `[batch, length, vocab]`."""
    kinds = None if labels is None else np.tile(np.array(labels, np.int32), (*ids.shape, 1))
    return np.asarray(_own_logits(bundle.params, ids.astype(np.int32), kinds, bundle.config.model))


@functools.partial(jax.jit, static_argnames="model")
def _own_logits(params: Any, ids: jax.Array, kinds: jax.Array | None, model: ModelConfig) -> jax.Array:
    return logits_from_hidden(params, apply_decoder(params, ids, model, conditions=kinds), model)


def prompts() -> tuple[np.ndarray, np.ndarray]:
    """Ids `[batch, length]` padded on the right with what must not matter, and their lengths."""
    return np.random.default_rng(1).integers(0, 256, (len(LENGTHS), max(LENGTHS))), np.array(LENGTHS)


def own_greedy(bundle: Bundle) -> np.ndarray:
    """jslm's `[batch, NEW]`, each from the whole text before it."""
    ids, lengths = prompts()
    ids = np.pad(ids, ((0, 0), (0, NEW)))
    rows, found = np.arange(len(ids)), []
    for step in range(NEW):
        found.append(own_logits(bundle, ids)[rows, lengths + step - 1].argmax(-1))
        ids[rows, lengths + step] = found[-1]
    return np.stack(found, 1)


def cached_greedy(decoder: Any) -> np.ndarray:
    """Of an OnnxDecoder or OwnDecoder, `[batch, NEW]`."""
    ids, lengths = prompts()
    cache, logits = decoder.prefill(ids, lengths)
    found = [logits.argmax(-1)]
    for step in range(1, NEW):
        cache, logits = decoder.step(found[-1], cache, lengths + step - 1)
        found.append(logits.argmax(-1))
    return np.stack(found, 1)


def uncached_greedy(decoder: OnnxDecoder) -> np.ndarray:
    rows = []
    for ids, length in zip(*prompts(), strict=True):
        text = list(ids[:length])
        for _ in range(NEW):
            text.append(int(decoder.logits([text])[0, -1].argmax()))
        rows.append(text[length:])
    return np.array(rows)


def left_padded_greedy(path: Path, kv_heads: int, head_dim: int) -> np.ndarray:
    """As transformers feeds a graph: padding in front, positions counted from each row's first token."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    outputs = [value.name for value in session.get_outputs()]
    right, lengths = prompts()
    width = right.shape[1]
    ids = np.stack([np.roll(row, width - length) for row, length in zip(right, lengths, strict=True)])
    mask = (np.arange(width)[None] >= width - lengths[:, None]).astype(np.int64)
    past = {name: np.zeros((len(ids), kv_heads, 0, head_dim), np.float32) for name in names if "past" in name}
    found: list[np.ndarray] = []
    for _ in range(NEW):
        places = np.where(mask == 1, np.cumsum(mask, 1) - 1, 1)[:, -ids.shape[1] :]
        feeds = {"input_ids": ids, "attention_mask": mask, "position_ids": places, **past}
        made = dict(zip(outputs, session.run(None, {name: feeds[name] for name in names}), strict=True))
        past = {name: made[name.replace("past_key_values", "present")] for name in past}
        ids = made["logits"][:, -1].argmax(-1)[:, None]
        mask = np.pad(mask, ((0, 0), (0, 1)), constant_values=1)
        found.append(ids[:, 0])
    return np.stack(found, 1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Bundle, Path]]:
    made: dict[tuple[str, int], tuple[Bundle, Path]] = {}

    def export(shape: str, opset: int) -> tuple[Bundle, Path]:
        if (shape, opset) not in made:
            bundle, path = make_bundle(**SHAPES[shape]), tmp_path_factory.mktemp("onnx") / "folder"
            write(bundle, path, "float32", opset=opset)
            made[shape, opset] = bundle, path
        return made[shape, opset]

    return export


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_same_logits_and_tokens(
    exported: Callable[[str, int], tuple[Bundle, Path]], shape: str, opset: int
) -> None:
    bundle, path = exported(shape, opset)
    model = bundle.config.model
    ids, _ = prompts()
    decoder = OnnxDecoder(path)
    assert np.abs(decoder.logits(ids) - own_logits(bundle, ids)).max() < 2e-5
    wanted = own_greedy(bundle)
    np.testing.assert_array_equal(cached_greedy(decoder), wanted)
    np.testing.assert_array_equal(uncached_greedy(decoder), wanted)
    if not model.conditions:
        padded = left_padded_greedy(path / "onnx" / "model.onnx", model.kv_heads, model.dim_per_head)
        np.testing.assert_array_equal(padded, wanted)
    onnx.checker.check_model(str(path / "onnx" / "model.onnx"), full_check=True)
    operators = {node.op_type for node in onnx.load(path / "onnx" / "model.onnx").graph.node}
    assert ("Attention" in operators) == (opset == 23)


def test_integers_and_16_bits_are_near(exported: Callable[[str, int], tuple[Bundle, Path]], tmp_path: Path) -> None:
    bundle, path = exported("qk_norm", 20)
    ids, _ = prompts()
    wanted = own_logits(bundle, ids)
    for kind, allowed in (("float16", 0.01), ("int8", 0.15), ("int7", 0.3)):
        write(bundle, tmp_path / kind, kind)
        found = OnnxDecoder(tmp_path / kind)
        assert found.kind == kind
        error = float(np.sqrt(np.mean(np.square(found.logits(ids) - wanted))))
        assert 1e-6 < error < allowed, (kind, error)
    # What float32 brings along is that int8.
    assert (tmp_path / "int8/onnx/model_quantized.onnx").read_bytes() == (
        path / "onnx/model_quantized.onnx"
    ).read_bytes()


def test_a_tied_table_is_there_once_in_8_bits(exported: Callable[[str, int], tuple[Bundle, Path]]) -> None:
    _, path = exported("llama", 20)
    tensors = read_onnx(path / "onnx/model_quantized.onnx").tensors
    wide = {name: tensor.size for name, tensor in tensors.items() if tensor.size >= 257 * 32}
    assert wide == {"embed.tokens": 257 * 32}


@pytest.mark.parametrize(("kind", "most"), [("rewriter", 3.8e6), ("15m", 16e6)])
def test_sizes(kind: str, most: float) -> None:
    if kind == "rewriter":
        # More characters than English text has.
        model = load_config(ROOT / "configs/rewriter_char.toml").model.model_copy(update={"vocab_size": 256})
    else:
        values = {"n_layers": 6, "d_model": 288, "n_heads": 6, "d_ff": 768, "context_length": 256, "vocab_size": 32000}
        model = config_from_dict({"model": values}, "test").model
    params = {name: np.zeros(leaf.shape, np.float32) for name, leaf in flatten_tree(param_shapes(model)).items()}
    size = decoder_graph(Layout(model, "int8"), params).model({}).ByteSize()
    assert count_parameters(model)["total"] < size < most


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model after some training on text with something to learn."""
    folder = tmp_path_factory.mktemp("trained")
    choice = random.Random(0)
    people, things, places = ["Mia", "Tom", "the old fox"], ["a drum", "the red kite", "some jam"], ["home", "away"]
    stories = (
        f"One day {choice.choice(people)} found {choice.choice(things)} and took it {choice.choice(places)}."
        for _ in range(3000)
    )
    (folder / "text.txt").write_text("\n\n".join(stories), "utf-8")
    values = {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt"), "split": "position", "end_of_text": "always", "separator": "\n\n"},
        "tokenizer": {"kind": "bpe", "vocab_size": 320},
        "model": {"n_layers": 2, "d_model": 48, "n_heads": 4, "n_kv_heads": 2, "context_length": 64, "qk_norm": True},
        "optimizer": {"name": "muon", "learning_rate": 5e-3, "warmup_steps": 5},
        "train": {
            "steps": 120, "batch_size": 8, "eval_every": 0, "eval_batches": 1, "tensorboard": False, "report": False,
        },
    }  # fmt: skip
    train(config_from_dict(values, "test"))
    return folder / "run"


def test_int8_costs_little_of_a_trained_model(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(trained), str(tmp_path / "out"), "--format", "onnx"]) == 0
    told = capsys.readouterr().out
    graphs = read_folder(tmp_path / "out").graphs
    whole, rounded = graphs["onnx/model.onnx"], graphs["onnx/model_quantized.onnx"]
    assert abs(whole["cost"]) < 1e-4
    assert 1e-6 < abs(rounded["cost"]) < 0.005
    # It has learned something: 320 tokens would be 5.8 nats.
    assert whole["loss"] < 2
    assert f"int8 ({rounded['bytes'] / 1e6:.2f} MB, loss {rounded['cost']:+.4f})" in told
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert f"| {rounded['loss']:.4f} | {rounded['cost']:+.4f} |" in card
    assert "the run's validation split" in card


def test_held_text_can_be_named(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = tmp_path / "held.txt"
    held.write_text("One day Mia found some jam and took it away.\n\nOne day Tom found a drum.", "utf-8")
    options = ["--format", "onnx", "--dtype", "int7", "--text", str(held)]
    assert main(["export", str(trained), str(tmp_path / "out"), *options]) == 0
    card = (tmp_path / "out/README.md").read_text("utf-8")
    assert "tokens of held.txt" in card
    assert abs(read_folder(tmp_path / "out").graphs["onnx/model_quantized.onnx"]["cost"]) < 0.05
    assert not (tmp_path / "out/onnx/model.onnx").exists()
    capsys.readouterr()
    assert main(["export", str(trained), str(tmp_path / "no"), *options[:-1], str(tmp_path / "absent.txt")]) == 2
    assert "absent.txt" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()


def test_without_text_the_card_says_so(exported: Callable[[str, int], tuple[Bundle, Path]]) -> None:
    _, path = exported("llama", 20)
    assert "was not measured: no held-out text" in (path / "README.md").read_text("utf-8")


def test_conditions_are_an_input_or_built_in(
    exported: Callable[[str, int], tuple[Bundle, Path]], tmp_path: Path
) -> None:
    bundle, path = exported("conditions", 20)
    ids, _ = prompts()
    both = OnnxDecoder(path)
    assert both.open_conditions == ["style", "mood"]
    wanted = own_logits(bundle, ids, [1, 0])
    np.testing.assert_allclose(both.logits(ids, [[1, 0]] * len(ids)), wanted, atol=2e-5)
    np.testing.assert_allclose(both.logits(ids), own_logits(bundle, ids), atol=2e-5)
    assert "style: 0 plain, 1 formal; mood: 0 glad" in (path / "README.md").read_text("utf-8")
    write(bundle, tmp_path / "one", "float32", condition={"style": "formal"})
    one = OnnxDecoder(tmp_path / "one")
    assert one.open_conditions == ["mood"]
    np.testing.assert_allclose(one.logits(ids, [[0]] * len(ids)), wanted, atol=2e-5)
    write(bundle, tmp_path / "all", "float32", condition={"style": "formal", "mood": ""})
    whole = OnnxDecoder(tmp_path / "all")
    assert "conditions" not in read_onnx(whole.path).inputs
    np.testing.assert_allclose(whole.logits(ids), own_logits(bundle, ids, [1, -1]), atol=2e-5)
    assert read_folder(tmp_path / "all").folded == {"style": "formal", "mood": ""}
    assert inspect_model(tmp_path / "all")["conditions built in"] == "style = formal, mood = none"
    for wrong, says in (({"tone": "x"}, "the model has style, mood"), ({"style": "x"}, "labels plain, formal")):
        with pytest.raises(JslmError, match=says):
            write(bundle, tmp_path / "no", "float32", condition=wrong)


def test_the_same_model_gives_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(make_bundle(), tmp_path / name, "float32")
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file())
    assert [str(file) for file in files] == [
        "README.md", "config.json", "genai_config.json", "generation_config.json", "jslm.json", "onnx/model.onnx",
        "onnx/model_quantized.onnx", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes(), file


def test_the_folder_knows_its_model(exported: Callable[[str, int], tuple[Bundle, Path]]) -> None:
    bundle, path = exported("mqa head_dim", 20)
    found = read_folder(path)
    assert found.config == bundle.config
    assert found.tokenizer.fingerprint == bundle.tokenizer.fingerprint
    assert (found.ends_documents, found.figures) == (True, {"val/loss": 1.5})
    config = json.loads((path / "config.json").read_text("utf-8"))
    assert [config[key] for key in ("num_key_value_heads", "head_dim", "num_hidden_layers")] == [1, 16, 2]
    assert config["eos_token_id"] == bundle.tokenizer.eot_id
    described = inspect_model(path)
    assert described["format"] == "ONNX folder of jslm"
    assert described["parameters"] == count_parameters(bundle.config.model)["total"]
    assert inspect_model(path / "onnx/model_quantized.onnx")["kind"] == "int8"
    with pytest.raises(JslmError, match=r"no kind float16; jslm\.json lists float32, int8"):
        OnnxDecoder(path, kind="float16")


def test_a_cache_can_be_gone_on_from_twice(exported: Callable[[str, int], tuple[Bundle, Path]]) -> None:
    bundle, path = exported("gpt2", 20)
    decoder = OnnxDecoder(path, threads=1)
    ids, lengths = prompts()
    cache, _ = decoder.prefill(ids, lengths)
    first = decoder.step([1, 2, 3], cache, lengths)[1]
    decoder.step([4, 5, 6], cache, lengths)
    np.testing.assert_array_equal(decoder.step([1, 2, 3], cache, lengths)[1], first)
    # More of a row at once: what was read and what follows make one text.
    more = np.random.default_rng(2).integers(0, 256, (3, 5))
    counts = np.array([5, 1, 3])
    _, logits = decoder.read(more, counts, cache, lengths)
    for row, count in enumerate(counts):
        text = np.concatenate([ids[row, : lengths[row]], more[row, :count]])[None]
        np.testing.assert_allclose(logits[row], own_logits(bundle, text)[0, -1], atol=2e-5)
    with pytest.raises(JslmError, match="context is 64 tokens"):
        decoder.prefill(np.zeros((1, 65), int), [65])
    with pytest.raises(JslmError, match="onnxruntime cannot run it"):
        decoder.logits([[999]])


def test_what_is_not_written_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle()
    with pytest.raises(JslmError, match="--opset 21: jslm writes 20 and 23"):
        write(bundle, tmp_path / "out", "float32", opset=21)
    bundle.params["layers"]["mlp"]["up"]["kernel"][0, 0, 0] = 1e6
    with pytest.raises(JslmError, match="mlp/up/kernel has a weight of 1e\\+06, above what float16 holds"):
        write(bundle, tmp_path / "out", "float16")
    bundle.params["layers"]["mlp"]["up"]["kernel"][0, 0, 0] = np.nan
    with pytest.raises(JslmError, match="not finite"):
        write(bundle, tmp_path / "out", "int8")
    assert main(["export", "x", "y", "--format", "gguf", "--opset", "20"]) == 2
    assert "--opset: gguf has no such option" in capsys.readouterr().err
    assert main(["export", "x", "y", "--format", "onnx", "--condition", "style"]) == 2
    assert "is no NAME=LABEL" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def altered(source: Path, target: Path, change: Callable[[Any], None]) -> Path:
    """A copy of an `.onnx` file whose message `change` has changed."""
    model = onnx.load(source)
    change(model)
    onnx.save(model, target)
    return target


def _metadata(part: str = "", **changes: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        entry = model.metadata_props[0]
        fields = json.loads(entry.value)
        (fields[part] if part else fields).update(changes)
        entry.value = json.dumps(fields)

    return change


def _external(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def _larger(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 1 << 40


def _swapped(model: Any) -> None:
    constant = next(tensor for tensor in model.graph.initializer if tensor.name.startswith("constant.int64"))
    constant.raw_data = np.full(len(constant.raw_data) // 8, 1 << 40, np.int64).tobytes()


CHANGES: Mapping[str, tuple[Callable[[Any], None], str]] = {
    "another operator": (lambda model: setattr(model.graph.node[3], "op_type", "Loop"), "is not as jslm writes it"),
    "another domain": (lambda model: setattr(model.graph.node[3], "domain", "evil"), "is not as jslm writes it"),
    "one node more": (lambda model: model.graph.node.add(op_type="Identity"), "nodes, expected"),
    "one input more": (lambda model: model.graph.input.add(name="extra"), "inputs, expected .*extra"),
    "an attribute": (lambda model: model.graph.node[1].attribute.add(name="x"), "is not as jslm writes it"),
    "a function": (lambda model: model.functions.add(name="f"), "functions, which jslm does not write"),
    "a sparse weight": (lambda model: model.graph.sparse_initializer.add(), "sparse_initializer"),
    "an operator set": (lambda model: setattr(model.opset_import[0], "version", 19), "operator sets"),
    "weights elsewhere": (_external, "a weight with field"),
    "a larger weight": (_larger, "expected"),
    "a constant": (_swapped, "another value than its name"),
    "a weight less": (lambda model: model.graph.initializer.pop(), "is not there"),
    "more layers": (_metadata("model", n_layers=10**9), "larger than the file"),
    "wider": (_metadata("model", d_model=10**12), "larger than the file"),
    "longer": (_metadata("model", context_length=10**12), "larger than the file"),
    "narrower": (_metadata("model", d_ff=16), "is not as jslm writes it"),
    "another kind": (_metadata(kind="int4"), "kind 'int4'"),
    "another version": (_metadata(version=2), "graph version 2"),
    "a strange label": (_metadata(conditions={"x": "y"}), "no condition 'x'"),
    "no numbers": (_metadata("model", n_heads="many"), "n_heads"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_graph_is_not_run(
    exported: Callable[[str, int], tuple[Bundle, Path]], tmp_path: Path, name: str
) -> None:
    change, says = CHANGES[name]
    path = altered(exported("llama", 20)[1] / "onnx/model.onnx", tmp_path / "changed.onnx", change)
    with pytest.raises(JslmError, match=says) as caught:
        OnnxDecoder(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_graph_of_others_is_named(tmp_path: Path) -> None:
    helper = onnx.helper
    value = helper.make_tensor_value_info("pixels", 1, [1])
    node = helper.make_node("Identity", ["pixels"], ["classes"])
    graph = helper.make_graph([node], "g", [value], [helper.make_tensor_value_info("classes", 1, [1])])
    onnx.save(helper.make_model(graph), tmp_path / "other.onnx")
    with pytest.raises(JslmError, match="it takes pixels and gives classes, expected input_ids"):
        OnnxDecoder(tmp_path / "other.onnx")
    assert inspect_model(tmp_path / "other.onnx")["inputs"] == "pixels"


def test_cut_files_are_told(exported: Callable[[str, int], tuple[Bundle, Path]], tmp_path: Path) -> None:
    data = (exported("llama", 20)[1] / "onnx/model_quantized.onnx").read_bytes()
    path = tmp_path / "cut.onnx"
    for length in [0, 1, 2, 7, 100, *range(1000, len(data), 4001), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(JslmError) as caught:
            OnnxDecoder(path)
        assert "\n" not in str(caught.value)
    for name, content in (
        ("text.onnx", b"hello, world\n" * 100),
        ("zeros.onnx", bytes(5000)),
        ("ones.onnx", b"\xff" * 99),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(JslmError, match="no ONNX file, or a damaged one"):
            OnnxDecoder(tmp_path / name)


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1), value=st.integers(0, 255), in_front=st.booleans())
def test_changed_bytes_are_told_or_are_weights(
    exported: Callable[[str, int], tuple[Bundle, Path]], tmp_path: Path, place: float, value: int, in_front: bool
) -> None:
    path = exported("qk_norm", 20)[1] / "onnx/model_quantized.onnx"
    data = bytearray(path.read_bytes())
    # Nodes come before the weights.
    at = int(place * (min(len(data), 25_000 if in_front else len(data)) - 1))
    before, data[at] = data[at], value
    changed = tmp_path / "changed.onnx"
    changed.write_bytes(data)
    with contextlib.suppress(JslmError):
        check_onnx(read_onnx(changed))
        in_weights = any(tensor.start <= at < tensor.start + tensor.size for tensor in read_onnx(path).tensors.values())
        # What is left are names of nodes and of the producer, which mean nothing.
        assert before == value or in_weights or b"/" in data[at - 60 : at + 60] or at < 20


def test_a_damaged_folder_is_told(exported: Callable[[str, int], tuple[Bundle, Path]], tmp_path: Path) -> None:
    bundle, source = exported("llama", 20)
    write(bundle, tmp_path / "f", "int8")
    where = tmp_path / "f/jslm.json"
    fields = json.loads((source / "jslm.json").read_text("utf-8"))
    for text, says in (
        ("{", "no JSON, or cut short"),
        ("[]", "expected an object"),
        (json.dumps({**fields, "version": 9}), "version 9"),
        (json.dumps({**fields, "graphs": {"../../x.onnx": {"kind": "int8"}}}), "none that jslm writes"),
        (json.dumps({**fields, "config": 3}), "no config"),
        (json.dumps({**fields, "tokenizer": {}}), "tokenizer"),
        (json.dumps({**fields, "config": {"model": {"vocab_size": 9}}}), "not the model's"),
    ):
        where.write_text(text, "utf-8")
        with pytest.raises(JslmError, match=says):
            read_folder(tmp_path / "f")
    where.write_text(json.dumps(fields), "utf-8")
    with pytest.raises(JslmError, match=r"model\.onnx: missing"):
        OnnxDecoder(tmp_path / "f")
    with pytest.raises(JslmError, match="no such file or folder"):
        OnnxDecoder(tmp_path / "nothing")
    with pytest.raises(JslmError, match="writes onnx and does not read it"):
        load_model(source)
