"""Distillation: the loss by hand, columns that are the teachers' own, exact resuming, and teachers that don't fit."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import Config, ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.formats import load_model
from jslm.learn import make_objective
from jslm.learn.teachers import FOLDER
from jslm.model import apply_decoder, init_params, logits_from_hidden, taught_sums
from jslm.parallel import make_mesh
from jslm.tokens.loader import TrainLoader
from jslm.tokens.taught import Columns, TaughtExamples, open_places
from jslm.tokens.token_file import TokenWriter, open_tokens
from jslm.train import train

MakeConfig = Callable[..., Config]
MODEL = ModelConfig(n_layers=1, d_model=16, n_heads=2, d_ff=16, context_length=8, vocab_size=30, dtype="float32")


def plain_divergence(logits: np.ndarray, ids: np.ndarray, log_probs: np.ndarray) -> float:
    """KL of k + 1 outcomes, one position at a time, in float64."""
    logits = logits.astype(np.float64)
    student = np.exp(logits - logits.max())
    student /= student.sum()
    teacher = np.exp(log_probs.astype(np.float64))
    found = float(np.sum(teacher * np.log(teacher / student[ids])))
    if len(ids) < len(logits):
        rest, left = 1 - teacher.sum(), 1 - student[ids].sum()
        found += rest * np.log(rest / left)
    return found


def logits_of(params: Any, inputs: Any, model: ModelConfig = MODEL) -> jax.Array:
    return logits_from_hidden(params, apply_decoder(params, jnp.asarray(inputs), model), model)


def sums_of(params: Any, *arrays: Any, model: ModelConfig = MODEL, **keys: Any) -> tuple[jax.Array, jax.Array]:
    inputs, targets, ids, log_probs = map(jnp.asarray, arrays)
    return taught_sums(params, inputs, targets, ids, log_probs, model, **keys)


def random_teaching(k: int, vocab: int, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(1)
    ids = np.argsort(noise.random((*shape, vocab)))[..., :k].astype(np.int32)
    logits = noise.standard_normal((*shape, vocab))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return ids, np.log(np.take_along_axis(probs, ids, -1)).astype(np.float32)


@pytest.mark.parametrize(("k", "temperature", "chunk", "cap"), [(5, 1.0, 0, 0.0), (5, 2.0, 8, 4.0), (30, 1.0, 0, 0.0)])
def test_the_loss_is_that_of_the_definition(k: int, temperature: float, chunk: int, cap: float) -> None:
    model = MODEL.model_copy(update={"logit_softcap": cap})
    params = jax.tree.map(lambda leaf: 2 * leaf, init_params(model, jax.random.key(0)))
    noise = np.random.default_rng(0)
    inputs, targets = noise.integers(0, 30, (2, 3, 8)).astype(np.int32)
    targets[1, 5:] = -1
    ids, log_probs = random_teaching(k, 30, (3, 8))
    found = sums_of(params, inputs, targets, ids, log_probs, model=model, temperature=temperature, loss_chunk=chunk)
    logits = np.asarray(logits_of(params, inputs, model))
    cross_entropy = divergence = 0.0
    for row, place in zip(*np.nonzero(targets >= 0), strict=True):
        scores = logits[row, place].astype(np.float64)
        cross_entropy += np.log(np.exp(scores).sum()) - scores[targets[row, place]]
        divergence += plain_divergence(scores / temperature, ids[row, place], log_probs[row, place])
    np.testing.assert_allclose(found, [cross_entropy, divergence], rtol=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn() -> None:
    """And the gradient elsewhere is that of the KL over all tokens, the rest spread as the student's is."""
    params = init_params(MODEL, jax.random.key(0))
    inputs = np.arange(16, dtype=np.int32).reshape(2, 8)
    logits = logits_of(params, inputs)
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(logits), 4)

    def divergence(params: Any) -> Any:
        return sums_of(params, inputs, inputs, ids, log_probs)[1]

    value, gradient = jax.value_and_grad(divergence)(params)
    assert float(value) == pytest.approx(0, abs=1e-5)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-5

    other_ids, other = random_teaching(4, 30, (2, 8))
    student = np.exp(np.asarray(jax.nn.log_softmax(logits), np.float64))
    told = np.zeros_like(student)
    np.put_along_axis(told, other_ids, np.exp(other), -1)
    free = np.where(told > 0, 0, student)
    told += free * ((1 - told.sum(-1)) / free.sum(-1))[..., None]

    def whole(params: Any) -> Any:
        found = jax.nn.log_softmax(logits_of(params, inputs))
        return -jnp.sum(told.astype(np.float32) * found)

    found = jax.grad(lambda params: sums_of(params, inputs, inputs, other_ids, other)[1])(params)
    for one, two in zip(jax.tree.leaves(found), jax.tree.leaves(jax.grad(whole)(params)), strict=True):
        np.testing.assert_allclose(one, two, atol=2e-5)


@pytest.mark.parametrize("packing", ["windows", "documents"])
def test_columns_stand_beside_their_tokens(tmp_path: Path, packing: Any) -> None:
    """In every epoch, wherever it cuts the text: each place's column is that of its target."""
    with TokenWriter(tmp_path, 50) as writer:
        for split in ("train", "val"):
            for size in (5, 30, 7, 22):
                writer.append(split, [*np.random.default_rng(size).integers(1, 50, size), 0])
        writer.commit({"tokenizer": {"fingerprint": "x"}, "end_of_text": True})
    file = open_tokens(tmp_path, "train")
    tokens = np.asarray(file.tokens)
    # The first likeliest token of each place is the token itself.
    columns = Columns(
        np.stack([tokens, tokens + 1], 1), np.linspace(-3, 0, 2 * len(tokens)).reshape(-1, 2).astype("f2")
    )
    loader = TrainLoader(
        file, context_length=8, batch_size=4, seed=3, packing=packing, stages=[(4, 2)] * (packing == "windows")
    )
    plain = TrainLoader(
        file, context_length=8, batch_size=4, seed=3, packing=packing, stages=[(4, 2)] * (packing == "windows")
    )
    loader.set_teachers([file], [columns])
    for step in range(12):
        batch, wanted = loader.batch_at(step), plain.batch_at(step)
        learned = batch["targets"] >= 0
        assert np.array_equal(batch["targets"], wanted["targets"])
        assert np.array_equal(batch["teacher_ids"][learned][:, 0], batch["targets"][learned])
        assert not batch["teacher_log_probs"][~learned].any()
        assert batch["teacher_ids"].shape == (*batch["targets"].shape, 2)
    places = open_places(file, 8, packing)
    part = TaughtExamples(loader._examples[0], places, columns)
    assert (part.count, part.first_lengths) == (loader._examples[0].count, loader._examples[0].first_lengths)


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory, text_file: Path) -> Callable[..., Config]:
    """Two teachers, and `config(name, **sections)` for students of theirs that share their data."""
    folder = tmp_path_factory.mktemp("school")

    def make(name: str, **sections: Any) -> Config:
        values: dict[str, Any] = {
            "run_dir": str(folder / name),
            "data": {"source": str(text_file), "dir": str(folder / "data")},
            "tokenizer": {"kind": "char"},
            "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": 16, "dtype": "float32"},
            "optimizer": {"warmup_steps": 2, "learning_rate": 0.01},
            "train": {
                "steps": 20, "batch_size": 8, "eval_every": 10, "log_every": 2, "tensorboard": False, "report": False,
            },
            "sample": {"prompts": []},
        }  # fmt: skip
        for section, keys in sections.items():
            values[section] = values[section] | keys if isinstance(keys, dict) else keys
        return config_from_dict(values, "test")

    for seed in (1, 2):
        train(make(f"teacher{seed}", seed=seed))
    return make


def student(school: Callable[..., Config], name: str, *, train: dict[str, Any] | None = None, **keys: Any) -> Config:
    teachers = [str(Path(school("x").run_dir).parent / f"teacher{seed}") for seed in (1, 2)]
    distill = {"teachers": teachers, "top_k": 6} | keys
    return school(name, train={"objective": "distill", "distill": distill} | (train or {}))


def test_the_columns_are_the_mean_of_the_teachers(school: Callable[..., Config], helpers: Any) -> None:
    config = student(school, "student")
    assert train(config).status == "finished"
    [folder] = Path(config.data_dir, FOLDER).iterdir()
    ids, log_probs = np.load(folder / "ids.npy"), np.load(folder / "log_probs.npy")
    tokens = np.asarray(open_tokens(config.data_dir, "train").tokens).astype(np.int32)
    assert ids.shape == log_probs.shape == (len(tokens), 6)
    # Window 3 of 16 tokens begins at 3 * 8 and is asked for its second half.
    window = tokens[24:40]
    probs = np.zeros((16, 1))
    for path in config.train.distill.teachers:
        teacher = load_model(path)
        logits = logits_of(jax.tree.map(jnp.asarray, teacher.params), window[None], teacher.config.model)
        probs = probs + np.asarray(jax.nn.softmax(logits[0]), np.float64) / 2
    for place in range(8, 16):
        wanted = np.sort(probs[place])[::-1][:6]
        np.testing.assert_allclose(np.exp(log_probs[25 + place].astype(np.float64)), wanted, rtol=3e-3)
        np.testing.assert_allclose(probs[place][ids[25 + place]], wanted, rtol=1e-4)
    assert not log_probs[0].any()
    lines = [line for line in helpers.read_lines(config.run_dir) if "train/divergence" in line]
    assert lines[-1]["train/divergence"] < lines[0]["train/divergence"]
    # Validated as its teachers are.
    assert {"val/loss", "val/bits_per_byte"} <= set(helpers.read_lines(config.run_dir)[-1])


def test_what_is_minimised_is_the_mix(school: Callable[..., Config]) -> None:
    config = config_from_dict(
        {**student(school, "mix", weight=0.3, temperature=2.0).model_dump(), "model": MODEL.model_dump()}, "test"
    )
    objective = make_objective(config, make_mesh(config.mesh), jnp.dtype(jnp.float32))
    ids, log_probs = random_teaching(6, 30, (2, 8))
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    batch = {"inputs": tokens, "targets": tokens, "teacher_ids": ids, "teacher_log_probs": log_probs}
    assert {name: shape.shape for name, shape in objective.batch_shapes(2).items()} == {
        name: array.shape for name, array in batch.items()
    }
    params = init_params(MODEL, jax.random.key(0))
    total, sums = objective.sums(params, {name: jnp.asarray(array) for name, array in batch.items()}, jax.random.key(0))
    parts = sums_of(params, tokens, tokens, ids, log_probs, temperature=2.0)
    np.testing.assert_allclose([sums["loss"], sums["divergence"]], parts, rtol=1e-6)
    assert float(total) == pytest.approx(0.7 * float(parts[0]) + 0.3 * 4 * float(parts[1]), rel=1e-6)


def test_a_student_goes_on_without_its_teachers(
    school: Callable[..., Config], helpers: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jslm")
    keys = {"eval_every": 5, "ema_decay": 0.9, "micro_batch": 4}
    whole = student(school, "whole", train=keys)
    train(whole)
    assert "asked" not in caplog.text or Path(whole.data_dir, FOLDER).is_dir()
    caplog.clear()
    # In two sittings, with teachers that are gone by the second.
    copies = []
    for path in whole.train.distill.teachers:
        copies.append(str(tmp_path / Path(path).name))
        shutil.copytree(path, copies[-1])
    pieces = student(school, "pieces", train={**keys, "steps": 10}, teachers=copies)
    longer = student(school, "pieces", train={**keys, "steps": 20}, teachers=copies)
    schedule = {"schedule": "constant"}
    pieces, longer, whole = (
        config.model_copy(update={"optimizer": config.optimizer.model_copy(update=schedule)})
        for config in (pieces, longer, student(school, "again", train=keys))
    )
    train(whole)
    train(pieces)
    assert "asked" not in caplog.text, "the same weights give the same columns, wherever they are"
    for path in copies:
        shutil.rmtree(Path(path) / "checkpoints")
    train(longer)
    helpers.assert_same_arrays(helpers.read_checkpoint(longer.run_dir), helpers.read_checkpoint(whole.run_dir))
    # Columns that are damaged are asked for again; with other teachers that is an error.
    [folder] = [path for path in Path(whole.data_dir, FOLDER).iterdir() if path.suffix != ".damaged"]
    content = bytearray((folder / "ids.npy").read_bytes())
    content[-1] ^= 1
    (folder / "ids.npy").write_bytes(content)
    more = student(school, "again", train={**keys, "steps": 22}, teachers=[*whole.train.distill.teachers[:1]])
    with pytest.raises(
        JslmError, match=r"what the teachers expect is lost, and train\.distill\.teachers are no longer"
    ):
        train(more)
    assert "ids.npy is not as it was written" in caplog.text
    more = student(school, "again", train={**keys, "steps": 22})
    assert train(more).step == 22
    assert json.loads((folder / "meta.json").read_text())["crc32"]


def test_teachers_that_do_not_fit(school: Callable[..., Config], tmp_path: Path) -> None:
    with pytest.raises(JslmError, match=r"train\.distill\.teachers: .*nowhere: no such run folder or model file"):
        train(student(school, "a", teachers=[str(tmp_path / "nowhere")]))
    other = tmp_path / "text.txt"
    other.write_text("quite other characters, and digits: 0123456789. " * 60, "utf-8")
    config = student(school, "b")
    values = config.model_dump() | {"run_dir": str(tmp_path / "run")}
    values["data"] |= {"source": str(other), "dir": str(tmp_path / "data")}
    with pytest.raises(
        JslmError, match=r"teacher1 has tokenizer \w+, and .*data was made with \w+; .*tokenizer\.path ="
    ):
        train(config_from_dict(values, "test"))


def test_a_full_disk_is_told_before(school: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    full = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr("jslm.learn.teachers.shutil.disk_usage", lambda _: full)
    with pytest.raises(JslmError, match=r"no space left on the disk: .* takes 0\.1 MB, .*lower train\.distill\.top_k"):
        train(student(school, "full", top_k=7))


@pytest.mark.parametrize(
    ("train_keys", "model", "message"),
    [
        ({"objective": "distill"}, {}, r"train\.distill\.teachers is empty; name their run folders"),
        ({"distill": {"teachers": ["a"]}}, {}, r"are asked by train\.objective = 'distill', found 'text'"),
        (
            {"objective": "distill", "distill": {"teachers": ["a"]}, "z_loss": 1e-4},
            {},
            r"train\.z_loss = 0\.0001 is not",
        ),
        (
            {"objective": "distill", "distill": {"teachers": ["a"]}},
            {"conditions": [{"name": "x", "labels": ["y"]}]},
            "asks its teachers without labels",
        ),
    ],
)
def test_what_a_config_may_not_say(train_keys: dict[str, Any], model: dict[str, Any], message: str) -> None:
    with pytest.raises(JslmError, match=message):
        config_from_dict({"train": train_keys, "model": model, "data": {"packing": "documents"}}, "test")
