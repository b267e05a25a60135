"""Preferences: the loss by hand, margins that rise on held-out pairs, exact resuming, and one reference model."""

from __future__ import annotations

import json
import logging
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import Config, DpoConfig, ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.evaluate.__main__ import main as evaluate
from jslm.formats import export_model, load_model
from jslm.learn.preference import preference_losses
from jslm.model import IGNORED, apply_decoder, head_table, init_params, row_log_probs
from jslm.model.kernels import choose_kernels
from jslm.model.log_probs import summed_log_probs
from jslm.plan import make_plan
from jslm.prepare import prepare
from jslm.runs.checkpoint import CheckpointStore
from jslm.tokenizer import load_tokenizer
from jslm.tokens import open_tokens
from jslm.tokens.loader import TrainLoader, count_examples, eval_batches
from jslm.tokens.preferences import PreferencePairs
from jslm.train import train
from jslm.train.report import write_report

CONTEXT = 24
LETTERS = "abcdefgh"


def word(choice: random.Random) -> str:
    return "".join(choice.choice(LETTERS) for _ in range(choice.randint(2, 4)))


def preferences(count: int) -> list[dict[str, str]]:
    """Of two answers that differ in their last sign only, the loud one is preferred."""
    choice = random.Random(count)
    words = [word(choice) for _ in range(count)]
    return [{"prompt": f"{text} {number}", "chosen": f"{text}!", "rejected": f"{text}?"}
            for number, text in enumerate(words)]  # fmt: skip


def write_records(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def values(folder: Path, name: str, **sections: Any) -> dict[str, Any]:
    found: dict[str, Any] = {
        "run_dir": str(folder / name),
        "data": {
            "source": str(folder / "pairs.jsonl"), "dir": str(folder / "data"), "packing": "documents",
            "template": "{prompt}\t{chosen}", "prompt_end": "\t", "rejected": "rejected", "validation_fraction": 0.2,
        },
        "tokenizer": {"kind": "char", "path": str(folder / "base" / "tokenizer.json")},
        "model": {"n_layers": 2, "d_model": 32, "n_heads": 2, "context_length": CONTEXT, "dtype": "float32"},
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2, "schedule": "constant"},
        "train": {
            "objective": "dpo", "init_from": str(folder / "base"), "steps": 8, "batch_size": 8, "eval_every": 4,
            "eval_batches": 0, "log_every": 2, "tensorboard": False, "report": False, "dpo": {"beta": 0.5},
        },
        "sample": {"every": 1000},
    }  # fmt: skip
    for section, keys in sections.items():
        found[section] = found[section] | keys
    return found


def base_values(folder: Path) -> dict[str, Any]:
    """A model that has read both answers to each prompt, and has no opinion."""
    data = {"source": str(folder / "text.txt"), "separator": "\n", "packing": "documents", "dir": str(folder / "text")}
    settings = {"objective": "text", "init_from": "", "steps": 60, "eval_every": 0, "eval_batches": 1}
    return values(folder, "base", train=settings, optimizer={"learning_rate": 5e-3}) | {
        "data": data, "tokenizer": {"kind": "char"}
    }  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trained run `base`, 100 preferences in `pairs.jsonl`, and these prepared in `data`."""
    folder = tmp_path_factory.mktemp("dpo")
    records = preferences(100)
    lines = [f"{record['prompt']}\t{record[side]}" for record in records for side in ("chosen", "rejected")]
    (folder / "text.txt").write_text("\n".join(lines), "utf-8")
    write_records(folder / "pairs.jsonl", records)
    train(config_from_dict(base_values(folder), "test"))
    prepare(config(folder, "any"), log=lambda message: None)
    return folder


def config(folder: Path, name: str, **sections: Any) -> Config:
    return config_from_dict(values(folder, name, **sections), "test")


def metrics(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


def final_arrays(run: Path, part: str = "params") -> dict[str, np.ndarray]:
    store = CheckpointStore(run / "checkpoints")
    tree = store.load_part(store.steps()[-1], part)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_loss_is_the_formula_of_the_paper(smoothing: float) -> None:
    policy, reference = np.random.default_rng(0).normal(-20, 5, (2, 7, 2))
    beta = 0.3
    log_ratios = (policy[:, 0] - policy[:, 1]) - (reference[:, 0] - reference[:, 1])
    sigmoid = 1 / (1 + np.exp(-beta * log_ratios))
    wanted = -(1 - smoothing) * np.log(sigmoid) - smoothing * np.log(1 - sigmoid)
    first, second = (jnp.asarray(array, jnp.float32) for array in (policy, reference))
    losses, rewards = preference_losses(first, second, DpoConfig(beta=beta, label_smoothing=smoothing))
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    np.testing.assert_allclose(rewards, beta * (policy - reference), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("softcap", [0.0, 5.0])
@pytest.mark.parametrize("chunk", [2, 3, 12])
def test_summed_log_probs_and_their_gradients_are_those_of_whole_logits(chunk: int, softcap: float) -> None:
    rng, kernels = np.random.default_rng(chunk), choose_kernels(ModelConfig())
    vocab, hidden, head = 19, rng.normal(size=(4, 12, 8)), rng.normal(size=(128, 8))
    targets = rng.integers(-1, vocab, (4, 12)).astype(np.int32)
    targets[2] = IGNORED
    weights = rng.normal(size=4)

    logits = hidden @ head[:vocab].T
    slope = 1 - np.tanh(logits / softcap) ** 2 if softcap else np.ones_like(logits)
    logits = softcap * np.tanh(logits / softcap) if softcap else logits
    shares = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    one_hot = np.eye(vocab)[np.maximum(targets, 0)]
    wanted = np.where(targets >= 0, np.log((shares * one_hot).sum(-1)), 0.0).sum(-1)
    # The gradient of log-softmax, in float64.
    d_logits = (one_hot - shares) * slope * (targets >= 0)[..., None] * weights[:, None, None]

    arrays = jnp.asarray(hidden, jnp.float32), jnp.asarray(head, jnp.float32)
    found = summed_log_probs(arrays[0], arrays[1], jnp.asarray(targets), vocab, softcap, chunk, kernels)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)

    def total(hidden: jax.Array, head: jax.Array) -> jax.Array:
        rows = summed_log_probs(hidden, head, jnp.asarray(targets), vocab, softcap, chunk, kernels)
        return jnp.sum(rows * jnp.asarray(weights, jnp.float32))

    d_hidden, d_head = jax.grad(total, (0, 1))(*arrays)
    np.testing.assert_allclose(d_hidden, d_logits @ head[:vocab], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(d_head[:vocab], np.einsum("btv,btd->vd", d_logits, hidden), rtol=1e-3, atol=1e-4)
    assert not np.any(d_head[vocab:])


def test_logits_of_a_whole_row_are_never_there() -> None:
    model = ModelConfig(n_layers=1, d_model=16, n_heads=2, context_length=64, vocab_size=1000)
    params = init_params(model, jax.random.key(0))
    tokens = jnp.zeros((8, 64), jnp.int32)

    def total(params: Any) -> jax.Array:
        return jnp.sum(row_log_probs(params, tokens, tokens, model, loss_chunk=64))

    compiled = jax.jit(jax.grad(total)).lower(params).compile().as_text()
    assert compiled is not None
    assert "f32[8,8,1024]" in compiled
    assert "f32[8,64,1024]" not in compiled
    naive = jax.nn.log_softmax(apply_decoder(params, tokens, model) @ head_table(params)[:1000].T)
    np.testing.assert_allclose(total(params), naive[..., 0].sum(), rtol=1e-4)


def test_rows_are_prompts_with_either_answer(base: Path) -> None:
    file, tokenizer = open_tokens(base / "data", "train"), load_model(base / "base").tokenizer
    pairs = PreferencePairs(file, CONTEXT)
    records = {record["prompt"]: record for record in preferences(100)}
    batch = pairs.gather(np.arange(pairs.count))
    assert batch["inputs"].shape == (80, 2, CONTEXT)
    seen = set()
    for inputs, targets in zip(batch["inputs"], batch["targets"], strict=True):
        for side, name in enumerate(("chosen", "rejected")):
            learned = targets[side][targets[side] >= 0].tolist()
            first = int(np.argmax(targets[side] >= 0))
            prompt = tokenizer.decode(inputs[side][1 : first + 1].tolist())
            assert inputs[side][0] == tokenizer.eot_id
            assert learned == [*tokenizer.encode(records[prompt.removesuffix("\t")][name]), tokenizer.eot_id]
            assert inputs[side][first + 1 : first + len(learned)].tolist() == learned[:-1]
            assert not inputs[side][first + len(learned) :].any()
        seen.add(prompt)
    assert len(seen) == 80


def test_batches_come_in_one_order_and_go_on_there(base: Path) -> None:
    file = open_tokens(base / "data", "train")
    options: dict[str, Any] = {"context_length": CONTEXT, "batch_size": 6, "seed": 3, "packing": "preferences"}
    whole = TrainLoader(file, **options)
    reference = np.random.default_rng(0).normal(size=(80, 2)).astype(np.float32)
    for loader in (parts := [TrainLoader(file, **options, process_index=p, process_count=2) for p in range(2)]) + [
        whole
    ]:
        loader.set_references([reference])
    steps = [next(whole) for _ in range(20)]
    assert steps[0]["inputs"].shape == (6, 2, CONTEXT)
    assert steps[0]["reference"].dtype == np.float32
    # An epoch has each pair once, with its own reference.
    seen = np.concatenate([step["reference"] for step in steps])[:80]
    assert sorted(map(tuple, seen)) == sorted(map(tuple, reference))
    for name, rows in parts[1].batch_at(7).items():
        np.testing.assert_array_equal(rows, steps[7][name][3:])
    resumed = TrainLoader(file, **options)
    resumed.set_references([reference])
    resumed.set_state(json.loads(json.dumps(whole.get_state() | {"step": 11, "examples": 66})))
    for name, rows in next(resumed).items():
        np.testing.assert_array_equal(rows, steps[11][name])
    for loader in (whole, resumed):
        loader.close()


@pytest.mark.slow
def test_conditions_hold_for_both_answers(base: Path, tmp_path: Path) -> None:
    records = [record | {"mood": "sunny" if number % 3 else "grey"} for number, record in enumerate(preferences(100))]
    source = write_records(tmp_path / "pairs.jsonl", records)
    data = {"source": str(source), "dir": str(tmp_path / "data"), "conditions": ["mood"]}
    train(
        config_from_dict(values(base, "x", data=data, train={"log_every": 1}) | {"run_dir": str(tmp_path / "r")}, "t")
    )
    losses = metrics(tmp_path / "r", "train/loss")
    np.testing.assert_allclose(losses[0], math.log(2), atol=2e-6)
    assert losses[-1] < losses[0]
    assert all(array.any() for name, array in final_arrays(tmp_path / "r").items() if "conditions" in name)
    known = load_model(tmp_path / "r").config.model.conditions
    batch = PreferencePairs(open_tokens(tmp_path / "data", "train"), CONTEXT, known).gather(np.arange(80))
    assert (batch["condition/mood"] == batch["condition/mood"][:, :1, :1]).all()
    assert set(batch["condition/mood"].ravel()) == {0, 1}


def test_corpora_of_a_mixture_keep_their_own_references(base: Path) -> None:
    files = [open_tokens(base / "data", split) for split in ("train", "val")]
    loader = TrainLoader(
        files, context_length=CONTEXT, batch_size=20, seed=0, packing="preferences", weights=[3.0, 1.0]
    )
    loader.set_references([np.full((80, 2), 1, np.float32), np.full((20, 2), 2, np.float32)])
    batches = [loader.batch_at(step) for step in range(8)]
    inputs, references = (np.concatenate([batch[name] for batch in batches]) for name in ("inputs", "reference"))
    held_out = {rows.tobytes() for rows in PreferencePairs(files[1], CONTEXT).gather(np.arange(20))["inputs"]}
    is_second = np.array([rows.tobytes() in held_out for rows in inputs])
    assert 20 < is_second.sum() < 60
    np.testing.assert_array_equal(references, np.where(is_second, 2, 1)[:, None].repeat(2, axis=1))


@pytest.fixture(scope="module")
def trained(base: Path) -> Path:
    outcome = train(config(base, "trained", train={"steps": 40, "report": True, "tensorboard": True}))
    assert outcome.step == 40
    return base / "trained"


def test_margins_rise_on_held_out_pairs(trained: Path) -> None:
    margins, losses = metrics(trained, "val/margin"), metrics(trained, "val/loss")
    assert margins[-1] > 3 * margins[0] > 0
    assert losses[-1] < 0.5 * losses[0] < 0.5 * math.log(2)
    assert metrics(trained, "val/accuracy")[-1] == 1.0
    assert metrics(trained, "val/pairs")[-1] == 20
    assert metrics(trained, "train/accuracy")[-1] > 0.9
    assert metrics(trained, "train/margin")[-1] > metrics(trained, "train/margin")[0]
    result = json.loads((trained / "run.json").read_text("utf-8"))["result"]
    assert result["val/accuracy"] == 1.0
    assert "val/perplexity" not in result


def test_what_it_reports_is_what_the_models_say(trained: Path) -> None:
    """From whole logits of both models, by hand, over the held-out pairs."""
    first, last = (load_model(trained.parent / name, checkpoint="latest") for name in ("base", "trained"))
    batch = PreferencePairs(open_tokens(trained.parent / "data", "val"), CONTEXT).gather(np.arange(20))
    inputs, targets = (batch[name].reshape(-1, CONTEXT) for name in ("inputs", "targets"))

    def log_probs(model: Any) -> np.ndarray:
        hidden = apply_decoder(model.params, jnp.asarray(inputs), model.config.model)
        logits = np.asarray(hidden @ head_table(model.params)[: model.config.model.vocab_size].T, np.float64)
        logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
        picked = np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
        return np.where(targets >= 0, picked, 0.0).sum(-1).reshape(-1, 2)

    rewards = 0.5 * (log_probs(last) - log_probs(first))
    margins = rewards[:, 0] - rewards[:, 1]
    np.testing.assert_allclose(metrics(trained, "val/margin")[-1], margins.mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics(trained, "val/loss")[-1], np.log1p(np.exp(-margins)).mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics(trained, "val/chosen_reward")[-1], rewards[:, 0].mean(), rtol=1e-3, atol=1e-4)
    with np.load(trained / "reference.npz") as saved:
        np.testing.assert_allclose(saved["val_0"], log_probs(first), rtol=1e-3, atol=1e-3)


def test_exports_do_not_take_its_loss_for_one_of_text(trained: Path, tmp_path: Path) -> None:
    export_model(trained, tmp_path / "hf", format="hf", checkpoint="latest")
    card = (tmp_path / "hf" / "README.md").read_text("utf-8")
    assert "| Chosen answer preferred | 1 of held-out preferences |" in card
    assert "Validation loss" not in card


def test_people_read_it_in_report_and_tensorboard(trained: Path) -> None:
    page = write_report(trained).read_text("utf-8")
    assert "prefers the chosen answer to the rejected one in 100.0% of held-out pairs" in page
    assert "Loss, nats per pair" in page
    assert "Margin: chosen less rejected reward" in page
    assert "Bits per byte" not in page
    events = b"".join(path.read_bytes() for path in (trained / "tensorboard").iterdir())
    for tag in (b"val/margin", b"val/accuracy", b"train/margin", b"train/accuracy"):
        assert tag in events


def test_micro_batches_learn_what_whole_batches_do(base: Path, tmp_path: Path) -> None:
    for name, micro in (("whole", 0), ("pieces", 2)):
        settings = {"micro_batch": micro, "eval_batch_size": 4, "log_every": 1}
        made = values(base, name, train=settings) | {"run_dir": str(tmp_path / name)}
        train(config_from_dict(made, "test"))
    losses = [metrics(tmp_path / name, "train/loss") for name in ("whole", "pieces")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)
    # Before the first update the model is its own reference, and prefers neither answer, whatever rounding says.
    assert [metrics(tmp_path / name, "train/accuracy")[0] for name in ("whole", "pieces")] == [0.5, 0.5]
    np.testing.assert_allclose([losses[0][0], losses[1][0]], math.log(2), atol=2e-6)
    assert losses[0][0] - losses[0][-1] > 0.01


@pytest.mark.slow
def test_bfloat16_learns_too(base: Path, tmp_path: Path) -> None:
    made = values(base, "run", model={"dtype": "bfloat16"}, train={"steps": 30, "eval_every": 15})
    train(config_from_dict(made | {"run_dir": str(tmp_path / "run")}, "test"))
    assert metrics(tmp_path / "run", "val/loss")[-1] < 0.6
    assert metrics(tmp_path / "run", "val/accuracy")[-1] > 0.9


def stop_after_first_validation(monkeypatch: pytest.MonkeyPatch, config: Config) -> None:
    """As a kill after that checkpoint would."""
    from jslm.train import loop

    real: Callable[..., Any] = loop._Loop._is_stale
    monkeypatch.setattr(loop._Loop, "_is_stale", lambda self: True)
    assert train(config).status == "early_stopped"
    monkeypatch.setattr(loop._Loop, "_is_stale", real)


def copy_of(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base / "base", tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("lora", [{}, {"rank": 2}], ids=["all weights", "lora"])
def test_it_resumes_exactly_without_the_reference_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any]
) -> None:
    settings = {"init_from": str(copy_of(base, tmp_path)), "lora": lora, "log_every": 1}
    whole, halves = (
        config_from_dict(values(base, name, train=settings) | {"run_dir": str(tmp_path / name)}, "test")
        for name in ("whole", "halves")
    )
    train(whole)
    stop_after_first_validation(monkeypatch, halves)
    np.testing.assert_allclose(metrics(tmp_path / "halves", "train/loss")[0], math.log(2), atol=2e-6)
    before = (tmp_path / "halves" / "reference.npz").read_bytes()
    # What is read again instead of computed again needs no model.
    shutil.rmtree(tmp_path / "base")
    assert train(halves).step == 8
    assert (tmp_path / "halves" / "reference.npz").read_bytes() == before
    assert_same(final_arrays(tmp_path / "halves"), final_arrays(tmp_path / "whole"))
    assert metrics(tmp_path / "halves", "val/margin") == metrics(tmp_path / "whole", "val/margin")
    if lora:
        assert_same(final_arrays(tmp_path / "halves", "base"), final_arrays(base / "base"))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(bytes(content))


def test_a_lost_or_damaged_reference_is_computed_again_from_the_same_weights_only(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start = copy_of(base, tmp_path)
    made = config_from_dict(
        values(base, "x", train={"init_from": str(start)}) | {"run_dir": str(tmp_path / "r")}, "test"
    )
    stop_after_first_validation(monkeypatch, made)
    file = tmp_path / "r" / "reference.npz"
    sound = file.read_bytes()
    flip(file)
    with caplog.at_level(logging.WARNING, "jslm"):
        assert train(made).step == 8
    assert "reference.npz: damaged" in caplog.text
    assert file.read_bytes() == sound
    file.unlink()
    other = values(base, "x", train={"init_from": str(start), "steps": 12}) | {"run_dir": str(tmp_path / "r")}
    # Another model has taken the place of the first.
    shutil.rmtree(start / "checkpoints")
    shutil.copytree(tmp_path / "r" / "checkpoints", start / "checkpoints")
    with pytest.raises(
        JslmError, match=r"reference\.npz: .* lost, and train\.init_from = .* no longer holds the weights"
    ):
        train(config_from_dict(other, "test"))


def test_a_reference_of_other_weights_is_noticed(base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As where a run was killed before its first checkpoint, and begun again from another model."""
    train(config_from_dict(values(base, "x", train={"steps": 1}) | {"run_dir": str(tmp_path / "a")}, "test"))
    made = values(base, "x", train={"steps": 1, "init_from": str(tmp_path / "a")}) | {"run_dir": str(tmp_path / "b")}
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a" / "reference.npz", tmp_path / "b")
    with caplog.at_level(logging.WARNING, "jslm"):
        train(config_from_dict(made, "test"))
    assert "made with other weights" in caplog.text
    assert (tmp_path / "a" / "reference.npz").read_bytes() != (tmp_path / "b" / "reference.npz").read_bytes()


GOOD = preferences(10)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "a", "rejected": "b"}, r"pairs\.jsonl:11: no key 'chosen'; keys found: .*; mend data\.template"),
        ({"prompt": "a", "chosen": "b"}, r"pairs\.jsonl:11: no key 'rejected'; keys found: .*; mend data\.rejected"),
        ({"prompt": "a", "chosen": "b", "rejected": ""}, r"the rejected answer is empty"),
        ({"prompt": "a", "chosen": "b", "rejected": None}, r"the rejected answer is empty"),
        ({"prompt": "a", "chosen": "", "rejected": "b"}, r"no completion after the prompt 'a\\t'"),
        ({"prompt": "a", "chosen": "same", "rejected": "same"}, r"both answers are 'same', which prefers nothing"),
        ({"prompt": "a", "chosen": "b", "rejected": ["c"]}, r"key 'rejected' holds list"),
        ({"prompt": "a\tz", "chosen": "b", "rejected": "c"}, r"pairs\.jsonl:11: data\.prompt_end = '\\t' stands in"),
    ],
)  # fmt: skip
def test_a_bad_record_is_named_or_skipped(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    source = write_records(tmp_path / "pairs.jsonl", [*GOOD, record])
    made = values(tmp_path, "x", data={"source": str(source)}) | {"tokenizer": {"kind": "char"}}
    with pytest.raises(JslmError, match=message):
        prepare(config_from_dict(made, "test"), log=lambda message: None)
    prepared = prepare(
        config_from_dict(made | {"prepare": {"on_bad_document": "skip"}}, "test"), log=lambda message: None
    )
    assert prepared.meta["skipped"]["count"] == 1
    assert prepared.meta["train"]["documents"] + prepared.meta["val"]["documents"] == len(GOOD)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"init_from": ""}}, r"train\.init_from is empty; name the run or the file to start from"),
        ({"data": {"rejected": ""}}, r"train\.objective = 'dpo' learns from pairs of answers, and data\.rejected is"),
        (
            {"data": {"prompt_end": ""}},
            r"data\.rejected = 'rejected' is the other answer to a prompt, and data\.prompt",
        ),
        ({"data": {"cleaners": ["unwrap"]}}, r"data\.cleaners would change preferred answers alone"),
        ({"model": {"dropout": 0.1}}, r"model\.dropout = 0\.1 would blur"),
        ({"train": {"z_loss": 1e-4}}, r"train\.z_loss = 0\.0001 would blur"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(JslmError, match=message):
        config(tmp_path, "x", **sections)


def test_data_without_preferences_are_refused(base: Path, tmp_path: Path) -> None:
    made = values(base, "x", data={"source": "", "dir": str(base / "text")}) | {"run_dir": str(tmp_path / "r")}
    with pytest.raises(JslmError, match=r"text: no preferences here; .* data\.rejected"):
        train(config_from_dict(made, "test"))


def test_pairs_over_the_context_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    long = [{**GOOD[0], "prompt": "too long" * 9}, {**GOOD[0], "rejected": "too long" * 3}]
    source = write_records(tmp_path / "pairs.jsonl", [*GOOD, *long])
    made = values(tmp_path, "x", data={"source": str(source), "validation_fraction": 0.0})
    prepared = prepare(config_from_dict(made | {"tokenizer": {"kind": "char"}}, "test"), log=lambda message: None)
    file = open_tokens(prepared.dir, "train")
    assert count_examples(file, CONTEXT, "preferences") == 10
    # With what stands between, and the end of the text.
    longest = len(long[0]["prompt"]) + 1 + len(long[0]["chosen"]) + 1
    said = f"2 of 12 preferences are over one context of 24 tokens (the longest, number 10, has {longest})"
    assert said in caplog.text
    with pytest.raises(
        JslmError, match=r"12 of 12 preferences are over one context of 4 tokens .*; none is left: raise"
    ):
        count_examples(file, 4, "preferences")
    # The longest that fits is whole.
    batch = next(eval_batches(file, longest, 12, packing="preferences"))
    assert (batch["targets"][10] >= 0).any(1).all()
    assert batch["targets"][10, 0, longest - 1] >= 0


def test_answers_of_other_pairs_are_noticed(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base / "data", tmp_path / "data")
    source = write_records(tmp_path / "pairs.jsonl", preferences(50))
    other = values(base, "x", data={"source": str(source), "dir": str(tmp_path / "other")})
    prepare(config_from_dict(other, "test"), log=lambda message: None)
    shutil.rmtree(tmp_path / "data" / "rejected")
    shutil.copytree(tmp_path / "other" / "rejected", tmp_path / "data" / "rejected")
    with pytest.raises(JslmError, match=r"rejected.train\.bin: expected the answers with SHA-256 .* prepare again"):
        count_examples(open_tokens(tmp_path / "data", "train"), CONTEXT, "preferences")


def test_plan_and_evaluate_take_such_a_run(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(config(trained.parent, "x", model={"vocab_size": 100}), "cpu", decode_batch=0)
    assert plan.fits
    # As training counted them: what is learned of a pair's two rows, without prompts and padding.
    info = json.loads((trained / "run.json").read_text("utf-8"))
    assert plan.tokens_per_step == info["tokens_per_step"] < 8 * 2 * CONTEXT
    assert plan.padding == info["padding"] > 0
    assert info["result"]["passes"] == pytest.approx(info["passes"])
    # The likelihood of the preferred answers.
    assert evaluate(["--run", str(trained), "--json"]) == 0
    assert 0 < json.loads(capsys.readouterr().out)["runs"][0]["losses"]["val split"]["loss"] < 3


def test_such_data_serve_other_objectives(base: Path, tmp_path: Path) -> None:
    settings = {"objective": "text", "init_from": "", "steps": 2}
    made = values(base, "x", train=settings) | {"run_dir": str(tmp_path / "run")}
    train(config_from_dict(made, "test"))
    assert "val/bits_per_byte" in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8")


def test_the_rejected_answer_is_written_where_the_chosen_one_is(tmp_path: Path) -> None:
    write_records(tmp_path / "pairs.jsonl", GOOD)
    data = {"template": "Q: {prompt}\nA: {chosen}.\n", "prompt_end": "A:"}
    made = values(tmp_path, "x", data=data) | {"tokenizer": {"kind": "char"}}
    prepared = prepare(config_from_dict(made, "test"), log=lambda message: None)
    found = set()
    for split in ("train", "val"):
        file = open_tokens(prepared.dir / "rejected", split)
        text = load_tokenizer(prepared.dir / "tokenizer.json").decode(file.tokens.tolist())
        found |= {answer for answer in text.split("<|endoftext|>") if answer}
    assert found == {f" {record['rejected']}.\n" for record in GOOD}
    for template in ("Q: {prompt}\nA: {chosen} {prompt}", "{prompt} {chosen}"):
        made["data"] |= {"template": template, "dir": str(tmp_path / "other")}
        with pytest.raises(JslmError, match="and after it one column, the chosen answer, whose place"):
            prepare(config_from_dict(made, "test"), log=lambda message: None)
