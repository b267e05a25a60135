"""docs/portable-format.md: its worked example is what comes out, and it knows every key and every tensor."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.config import ModelConfig, RopeScalingConfig, config_from_dict
from jslm.formats.int8_rows import quantise_rows
from jslm.formats.portable import read, write
from jslm.infer import LanguageModel
from jslm.model import param_shapes
from jslm.runs.bundle import Bundle
from jslm.runs.checkpoint import flatten_tree, unflatten_params
from jslm.tokenizer import CharTokenizer
from jslm.tokenizer.build import KINDS

ROOT = Path(__file__).resolve().parents[2]
DOC = (ROOT / "docs" / "portable-format.md").read_text("utf-8")
WORKED = {
    name: np.array(json.loads(numbers), np.float32)
    for name, numbers in re.findall(r"^([\w/]+) += (\[[\d\[\]., -]+\])(?:  .*)?$", DOC, re.MULTILINE)
}


def worked_bundle() -> Bundle:
    tokenizer = CharTokenizer("ab")
    shape = {"n_layers": 1, "d_model": 2, "n_heads": 1, "d_ff": 2, "context_length": 8, "norm_eps": 0.5}
    model = {**shape, "activation": "relu2", "vocab_size": tokenizer.vocab_size, "dtype": "float32"}
    config = config_from_dict({"model": model}, "test")
    flat = {}
    for name, leaf in flatten_tree(param_shapes(config.model)).items():
        array = np.zeros(leaf.shape, np.float32)
        found = WORKED[name]
        array[: len(found)] = found
        flat[f"params/{name}"] = array
    return Bundle(config, unflatten_params(flat, "params"), tokenizer)


def test_the_worked_example_is_what_jslm_computes(tmp_path: Path) -> None:
    path = tmp_path / "worked.safetensors"
    write(worked_bundle(), path, "float32")
    bundle = read(path)
    model = LanguageModel(bundle.config, bundle.params, bundle.tokenizer)
    np.testing.assert_allclose(model.logits([0, 2])[0], WORKED["logits"], rtol=0, atol=6e-5)
    assert model.generate("a", greedy=True, max_new_tokens=1) == "b"


def test_each_of_its_steps_follows_from_the_one_before() -> None:
    w = WORKED

    def norm(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
        result: np.ndarray = x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.5) * scale
        return result

    def turn(x: np.ndarray) -> np.ndarray:
        rows = [[a * np.cos(p) - b * np.sin(p), b * np.cos(p) + a * np.sin(p)] for p, (a, b) in enumerate(x)]
        return np.array(rows)

    kernel = {name.split("/")[-2]: array[0] for name, array in w.items() if name.endswith("/kernel")}
    shares = np.exp(w["s"]) / np.exp(w["s"]).sum()
    steps = {
        "x": w["embed/tokens"][[0, 2]],
        "h": norm(w["x"], w["layers/attention_norm/scale"][0]),
        "q": w["h"] @ kernel["q"],
        "k": w["h"] @ kernel["k"],
        "v": w["h"] @ kernel["v"],
        "q_rope": turn(w["q"]),
        "k_rope": turn(w["k"]),
        "s": w["q_rope"][1] @ w["k_rope"].T / np.sqrt(2),
        "w": shares,
        "a": np.array([w["v"][0], w["w"] @ w["v"]]),
        "x_2": w["x"] + w["a"] @ kernel["out"],
        "h_2": norm(w["x_2"], w["layers/mlp_norm/scale"][0]),
        "u": w["h_2"] @ kernel["up"],
        "m": np.maximum(w["u"], 0) ** 2,
        "x_3": w["x_2"] + w["m"] @ kernel["down"],
        "h_3": norm(w["x_3"], w["final_norm/scale"]),
        "logits": w["h_3"] @ w["embed/tokens"].T,
    }
    for name, found in steps.items():
        np.testing.assert_allclose(found, w[name], rtol=0, atol=4e-4, err_msg=name)
    assert {name for name in w if "/" not in name} == steps.keys()


def test_its_int8_row_is_what_is_written() -> None:
    found = re.search(r"row\n([-\d., ]+) is ([-\d, ]+) with the scale ([\d.]+)\.", DOC)
    assert found is not None
    row = np.array([[float(number) for number in found[1].split(",")]], np.float32)
    integers, scales = quantise_rows("w", row)
    assert integers[0].tolist() == [int(number) for number in found[2].split(",")]
    assert scales[0] == pytest.approx(float(found[3]), abs=5e-10)


def test_it_names_every_key_of_the_model_and_every_tokenizer() -> None:
    for name in [*ModelConfig.model_fields, *RopeScalingConfig.model_fields]:
        assert f"`{name}`" in DOC, name
    for kind in KINDS:
        assert f"- **{kind}**" in DOC, kind


@pytest.mark.parametrize(
    "model",
    [
        {"norm": "layernorm", "position": "learned", "qkv_bias": True, "out_bias": True, "mlp_bias": True},
        {"qk_norm": True, "tie_embeddings": False, "conditions": [{"name": "NAME", "labels": ["a"]}]},
    ],
)
def test_it_names_every_tensor(model: dict[str, Any]) -> None:
    data = {"packing": "documents"} if "conditions" in model else {}
    config = config_from_dict({"model": {"vocab_size": 9, **model}, "data": data}, "test")
    for name in flatten_tree(param_shapes(config.model)):
        named = f"`{name}`" in DOC
        # `layers/attention/q/bias`; `k`, `v` are three in one cell.
        part, leaf = name.split("/")[-2:]
        cells = [
            line for line in DOC.splitlines() if line.startswith("| `") and f"/{leaf}`" in line and f"`{part}`" in line
        ]
        assert named or cells, name
