"""The model card: what is said, what is not, and a front matter that YAML reads."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm import JslmError
from jslm.config import config_from_dict
from jslm.convert.__main__ import main
from jslm.formats import load_model
from jslm.formats.card import Card, model_card
from jslm.formats.formats import format_named
from jslm.formats.held import held_text, own_loss
from jslm.formats.hub import rounding_cost
from jslm.formats.huggingface.card import model_card as huggingface_card
from jslm.formats.running import runtimes
from jslm.runs.bundle import Bundle
from jslm.tokenizer import ByteTokenizer
from jslm.train import train

SAID: dict[str, Any] = {
    "description": 'Tells stories: short ones, with a # and a "quote".',
    "use": "For tests. Not for children.",
    "data": "Made up by its makers.",
    "license": "cc-by-4.0",
    "language": ["en", "pt-BR"],
    "authors": ["Ada: L.", "Grace"],
}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a few steps that wrote samples."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text("the cat sat on a mat and the dog ran.\n" * 200, "utf-8")
    values = {
        "run_dir": str(folder / "mine"),
        "data": {"source": str(folder / "text.txt"), "split": "position", "end_of_text": "always"},
        "tokenizer": {"kind": "byte"},
        "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "context_length": 32, "dtype": "float32"},
        "train": {"steps": 4, "batch_size": 4, "eval_every": 2, "eval_batches": 1, "tensorboard": False},
        "sample": {"prompts": ["the cat"], "max_new_tokens": 12},
        "card": SAID,
    }
    train(config_from_dict(values, "test"))
    return folder / "mine"


def front_matter(card: str) -> dict[str, Any]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert card.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def make_bundle(figures: dict[str, Any] | None = None, card: dict[str, Any] | None = None, **model: Any) -> Bundle:
    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "vocab_size": 257}
    config = config_from_dict({"model": {**shape, **model}, "card": card or {}}, "test")
    return Bundle(config, {}, ByteTokenizer(), figures=figures or {}, source="runs/tiny")


def test_what_people_said_is_in_the_card(run_dir: Path, tmp_path: Path) -> None:
    assert main(["export", str(run_dir), str(tmp_path / "out"), "--format", "hf"]) == 0
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    assert front_matter(card) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "license": "cc-by-4.0",
        "language": ["en", "pt-BR"], "tags": ["jslm"],
    }  # fmt: skip
    for part in (SAID["description"], SAID["use"], SAID["data"], "Licence: `cc-by-4.0`", "Made by Ada: L., Grace."):
        assert part in card
    assert "Not said" not in card
    figures = load_model(run_dir).figures
    assert f"| Validation loss | {figures['val/loss']:,.4g} nats a token |" in card
    assert f"| Validation bits per byte | {figures['val/bits_per_byte']:,.4g} |" in card
    step, prompt, text = figures["sample"]
    assert (step, prompt) == (4, "the cat")
    # What the run wrote, to the letter, but for what a terminal would obey.
    wrote = re.sub("[\x00-\x08\x0b-\x1f\x7f]", "\N{REPLACEMENT CHARACTER}", prompt + text).strip("\n")
    assert f'Written at step 4 after the prompt "the cat":\n\n```text\n{wrote}\n```' in card
    assert str(tmp_path) not in card
    assert str(run_dir.parent) not in card


def test_what_is_not_said_is_named_and_not_made_up(tmp_path: Path) -> None:
    card = model_card(make_bundle(), Card("hf", "of the Llama architecture", "float32"))
    assert front_matter(card) == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["jslm"],
    }  # fmt: skip
    for key in SAID:
        assert f"(`card.{key}`)" in card
    assert "## A sample" not in card
    assert "loss" not in card.lower()
    partly = model_card(make_bundle(card={"license": "mit"}), Card("hf", "of the Llama architecture", "float32"))
    assert "(`card.license`)" not in partly
    assert front_matter(partly)["license"] == "mit"


def test_a_sample_cannot_end_its_block() -> None:
    text = "```\n# not a heading\n````\n---\n"
    card = model_card(make_bundle({"sample": [3, "a\nb", text]}), Card("hf", "x", "float32"))
    assert "`````text\na\nb```\n# not a heading\n````\n---\n`````" in card
    long = model_card(make_bundle({"sample": [3, "", "x" * 5000]}), Card("hf", "x", "float32"))
    assert "x" * 2000 + " [...]" in long
    assert "x" * 2001 not in long


def test_how_to_run_it_everywhere_it_runs() -> None:
    card = model_card(make_bundle(), Card("hf", "of the Llama architecture", "float32"))
    names = [runtime.name for runtime in runtimes()]
    assert {"transformers", "llama.cpp", "llama2.c", "jslm"} <= set(names)
    assert card.index("**transformers**") < card.index("**llama.cpp**")
    assert "Not for this model: llama2.c (llama2.c cannot express a tokenizer of kind 'byte'" in card
    capped = model_card(make_bundle(logit_softcap=30.0), Card("safetensors", "of its own", "float32"))
    assert capped.index("**jslm**") < capped.index("Not for this model")
    for name in ("transformers (Hugging Face's", "llama.cpp (GGUF cannot", "llama2.c (llama2.c cannot"):
        assert name in capped
    # A way in code is code.
    for block in card.split("```python\n")[1:]:
        compile(block.split("```")[0], "card", "exec")


def test_cost_and_sections_of_a_format() -> None:
    more = Card("gguf", "as a GGUF file", "q8_0", "gguf", ["gguf"], [("Files", "| a |")], "0.002 nats a token.")
    card = model_card(make_bundle(), more)
    assert front_matter(card)["tags"] == ["jslm", "gguf"]
    assert "What rounding the weights cost: 0.002 nats a token." in card
    assert "## Files\n\n| a |" in card


def test_hugging_faces_card_warns_of_a_builder() -> None:
    assert "model builder of onnxruntime-genai (0.18) must not be used on this folder" in huggingface_card(
        make_bundle(), "llama", "float32"
    )


def test_what_rounding_cost_is_measured(run_dir: Path, tmp_path: Path) -> None:
    bundle, chosen = load_model(run_dir), format_named("safetensors")
    assert chosen.write is not None
    path = tmp_path / "model.safetensors"
    # All that a model of zeros knows is how many tokens there are.
    chosen.write(replace(bundle, params=jax.tree.map(np.zeros_like, bundle.params)), path, "int8")
    cost = rounding_cost(bundle, path, chosen, "int8")
    found = re.fullmatch(r"int8 ([+-]\d\.\d{4}) nats a token over [\d,]+ tokens of the run's validation split", cost)
    assert found, cost
    held = held_text(bundle, None)
    assert held is not None
    wanted = math.log(257) - own_loss(bundle, held, [])
    assert abs(wanted) > 0.01
    assert float(found[1]) == pytest.approx(wanted, abs=1e-4)
    assert rounding_cost(bundle, path, chosen, "float32") == ""
    # Without the run's tokens there is nothing to measure on.
    elsewhere = replace(bundle, config=bundle.config.model_copy(update={"run_dir": str(tmp_path)}))
    assert rounding_cost(elsewhere, path, chosen, "int8") == ""


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"license": "My own licence"}, r"card\.license = 'My own licence' is no name of a licence in small letters"),
        ({"language": ["English"]}, r"card\.language has 'English', which is no code"),
        ({"authors": [""]}, r"card\.authors has an empty name"),
        ({"licence": "mit"}, "licence"),
    ],
)
def test_mistakes_in_the_section(card: dict[str, Any], message: str) -> None:
    with pytest.raises(JslmError, match=message):
        make_bundle(card=card)


def test_it_goes_with_the_model(run_dir: Path, tmp_path: Path) -> None:
    """Through a portable file and an imported run, and of GGUF what GGUF has keys for."""
    assert main(["export", str(run_dir), str(tmp_path / "m.safetensors"), "--format", "safetensors"]) == 0
    assert main(["import", str(tmp_path / "m.safetensors"), str(tmp_path / "run")]) == 0
    again = load_model(tmp_path / "run")
    assert again.config.card.model_dump() == SAID
    assert again.figures["sample"] == load_model(run_dir).figures["sample"]
    pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")
    assert main(["export", str(run_dir), str(tmp_path / "m.gguf"), "--format", "gguf"]) == 0
    found = load_model(tmp_path / "m.gguf").config.card
    assert (found.license, found.language, found.description) == ("cc-by-4.0", ["en", "pt-BR"], SAID["description"])
    assert found.authors == ["Ada: L., Grace"]


def test_portable_files_without_a_card_are_as_before(tmp_path: Path) -> None:
    from safetensors import safe_open

    from jslm.formats.portable import write
    from jslm.model import init_params

    for said in ({}, SAID):
        bundle = make_bundle(card=said)
        params = init_params(bundle.config.model, jax.random.key(0))
        write(Bundle(bundle.config, params, bundle.tokenizer), tmp_path / "m.safetensors", "float32")
        with safe_open(tmp_path / "m.safetensors", "np") as file:
            assert ("card" in json.loads(file.metadata()["jslm"])["config"]) is bool(said)
