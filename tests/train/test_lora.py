"""Low-rank adapters: the base stays bit for bit, and merged weights are what training computed with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jslm
from jslm import JslmError
from jslm.config import LoraConfig, ModelConfig, config_from_dict
from jslm.formats import export_model, load_model
from jslm.model import apply_decoder, init_adapters, init_params, merge_adapters
from jslm.runs.checkpoint import CheckpointStore
from jslm.train import train

TEXT = "the cat sat on a mat and the dog ran home.\n"


def flat(tree: Any) -> dict[str, np.ndarray]:
    return {jax.tree_util.keystr(p): np.asarray(leaf) for p, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def test_fresh_adapters_change_nothing_and_trained_ones_are_a_product() -> None:
    model = ModelConfig(n_layers=2, d_model=16, n_heads=2, n_kv_heads=1, context_length=8, vocab_size=20)
    config = LoraConfig(rank=3, alpha=6.0, targets=("q", "v", "down"))
    params = init_params(model, jax.random.key(0))
    adapters = init_adapters(params, config, jax.random.key(1))
    assert set(flat(adapters)) == {
        f"['layers']['{part}']['{name}']['{factor}']"
        for part, name in (("attention", "q"), ("attention", "v"), ("mlp", "down"))
        for factor in "ab"
    }
    for name, leaf in flat(merge_adapters(params, adapters, config)).items():
        np.testing.assert_array_equal(leaf, flat(params)[name])
    adapters = jax.tree.map(lambda leaf: leaf + 0.3, adapters)
    merged = merge_adapters(params, adapters, config)
    changed = [name for name, leaf in flat(merged).items() if (leaf != flat(params)[name]).any()]
    assert len(changed) == 3
    # Unmerged: the two products beside the frozen one, for one token through one projection.
    x = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    kernel, factors = params["layers"]["attention"]["q"]["kernel"][1], adapters["layers"]["attention"]["q"]
    beside = x @ kernel + 2.0 * ((x @ factors["a"][1]) @ factors["b"][1])
    np.testing.assert_allclose(x @ merged["layers"]["attention"]["q"]["kernel"][1], beside, atol=1e-4)
    tokens = jnp.zeros((1, 8), jnp.int32)
    assert np.abs(apply_decoder(merged, tokens, model) - apply_decoder(params, tokens, model)).max() > 1e-3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "text.txt").write_text(TEXT * 200, "utf-8")
    train(config_from_dict(values(folder), "test"))
    return folder


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {
        "steps": 6, "batch_size": 4, "eval_every": 3, "eval_batches": 1, "tensorboard": False, "report": False,
    }  # fmt: skip
    return {
        "run_dir": str(folder / "run"),
        "data": {"source": str(folder / "text.txt"), "dir": str(folder / "data"), "split": "position"},
        "tokenizer": {"kind": "char"},
        "model": {"n_layers": 2, "d_model": 16, "n_heads": 2, "context_length": 32, "dtype": "float32"},
        "train": {**settings, **changes},
    }


def adapted(folder: Path, name: str, **changes: Any) -> dict[str, Any]:
    lora = {"rank": 2, "alpha": 4.0}
    return values(folder, init_from=str(folder / "run"), lora=lora, **changes) | {"run_dir": str(folder / name)}


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_training_leaves_the_base_and_the_merge_is_what_it_computed(base: Path, ema_decay: float) -> None:
    run = base / f"lora{ema_decay}"
    outcome = train(config_from_dict(adapted(base, run.name, ema_decay=ema_decay), "test"))
    assert outcome.step == 6
    before = flat(CheckpointStore(base / "run" / "checkpoints").load_part(6, "params"))
    store = CheckpointStore(run / "checkpoints")
    for name, leaf in flat(store.load_part(6, "base")).items():
        np.testing.assert_array_equal(leaf, before[name], err_msg=name)
    adapters = store.load_part(6, "ema" if ema_decay else "params")
    assert any(leaf.any() for name, leaf in flat(adapters).items() if "'b'" in name)
    merged = merge_adapters(store.load_part(6, "base"), adapters, LoraConfig(rank=2, alpha=4.0))
    opened = load_model(run, checkpoint="6")
    for name, leaf in flat(merged).items():
        np.testing.assert_array_equal(flat(opened.params)[name], leaf, err_msg=name)
    # Exports are merged: opening them needs no adapters.
    export_model(run, run / "m.safetensors", format="safetensors", checkpoint="6")
    one, other = jslm.load(run, checkpoint="6"), jslm.load(run / "m.safetensors")
    np.testing.assert_array_equal(one.logits([[1, 2, 3]]), other.logits([[1, 2, 3]]))


def test_it_resumes_exactly(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(config_from_dict(adapted(base, "whole"), "test"))
    train(config_from_dict(adapted(base, "parts", steps=6), "test"))
    first = adapted(base, "halves")
    # Stop after three steps, as a kill after that checkpoint would.
    from jslm.train import loop

    real: Callable[..., Any] = loop._Loop._is_stale
    monkeypatch.setattr(loop._Loop, "_is_stale", lambda self: True)
    assert train(config_from_dict(first, "test")).status == "early_stopped"
    monkeypatch.setattr(loop._Loop, "_is_stale", real)
    train(config_from_dict(first, "test"))
    whole, halves = (
        CheckpointStore(base / name / "checkpoints").load_part(6, "params") for name in ("whole", "halves")
    )
    for name, leaf in flat(whole).items():
        np.testing.assert_array_equal(flat(halves)[name], leaf, err_msg=name)


def test_without_a_base_it_is_refused(base: Path) -> None:
    with pytest.raises(JslmError, match=r"train\.lora\.rank = 2 adapts a trained model, and train\.init_from is empty"):
        config_from_dict(values(base, lora={"rank": 2}), "test")
