"""Whole runs in this process: what they write, when they end, and the corners of small data."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import Config
from jslm.errors import JslmError
from jslm.learn import LossResult, make_objective
from jslm.learn.next_token import NextToken
from jslm.model import apply_decoder, logits_from_hidden
from jslm.parallel import make_mesh
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import RunFolder
from jslm.tokenizer import load_tokenizer
from jslm.tokens.token_file import open_tokens
from jslm.train import train
from jslm.train.setup import load_initial, prepare_data, resolve_config

MakeConfig = Callable[..., Config]


def read_info(config: Config) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(config.run_dir, "run.json").read_text("utf-8"))
    return found


def trained_steps(config: Config, helpers: Any) -> list[int]:
    return [line["step"] for line in helpers.read_lines(config.run_dir) if "train/loss" in line]


def test_run_writes_all_that_a_run_folder_holds(make_config: MakeConfig, helpers: Any) -> None:
    config = make_config(train={"report": True, "tensorboard": True, "profile": True}, sample={"prompts": ["the ", ""]})
    outcome = train(config)
    assert (outcome.status, outcome.step, outcome.exit_status) == ("finished", 12, 0)
    folder = Path(config.run_dir)
    assert {"config.toml", "tokenizer.json", "report.html", "run.json", "samples.md"} <= {
        p.name for p in folder.iterdir()
    }
    assert list(folder.glob("tensorboard/*tfevents*"))
    assert list(folder.rglob("profile/**/*.xplane.pb"))
    lines = helpers.read_lines(folder)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8, 10, 12]
    assert [line["step"] for line in lines if "val/loss" in line] == [4, 8, 12]
    assert set(lines[0]) == {
        "step", "time", "train/loss", "train/bits_per_byte", "lr", "grad_norm", "param_norm", "tokens", "padding",
        "epoch", "tokens_per_s", "mfu", "bad_steps",
    }  # fmt: skip
    assert set(next(line for line in lines if "val/loss" in line)) == {
        "step", "time", "val/loss", "val/perplexity", "val/bits_per_byte", "val/tokens",
    }  # fmt: skip
    assert lines[0]["tokens"] == 2 * 8 * 16
    last = [line for line in lines if "train/loss" in line][-1]
    assert last["train/loss"] < lines[0]["train/loss"] - 0.3, "it learns"
    info = read_info(config)
    assert info["status"] == "finished"
    assert info["parameters"]["total"] == sum(n for name, n in info["parameters"].items() if name != "total")
    assert {"jslm", "jax", "numpy"} <= info["versions"].keys()
    assert 0 < info["baseline"]["bits_per_byte"] < 3, "what counting makes of the text"
    assert "byte 5-gram, Kneser-Ney" in (folder / "report.html").read_text("utf-8")
    result, validated = info["result"], [line for line in lines if "val/loss" in line]
    assert result["step"] == 12
    assert result["tokens_seen"] == 12 * 8 * 16
    assert result["val/loss"] == pytest.approx(validated[-1]["val/loss"])
    best = min(validated, key=lambda line: float(line["val/loss"]))
    assert (result["best_step"], result["best_val/loss"]) == (best["step"], best["val/loss"])
    samples = (folder / "samples.md").read_text("utf-8")
    assert [line for line in samples.splitlines() if line.startswith("## Step")] == [f"## Step {n}" for n in (4, 8, 12)]
    assert samples.count("the ") >= 3


def test_metrics_of_every_step(make_config: MakeConfig, helpers: Any) -> None:
    """A line names the step whose metrics it holds, the first and the last included; means are over whole windows."""
    single = make_config("single", train={"log_every": 1, "eval_every": 0}, model={"init_std": 0.02})
    pairs = make_config("pairs", train={"log_every": 2, "eval_every": 0}, model={"init_std": 0.02})
    train(single)
    train(pairs)
    ones = {line["step"]: line for line in helpers.read_lines(single.run_dir) if "train/loss" in line}
    twos = {line["step"]: line for line in helpers.read_lines(pairs.run_dir) if "train/loss" in line}
    assert list(ones) == list(range(1, 13))
    # At the start a model guesses: its first loss is that of the alphabet.
    entries = load_tokenizer(Path(single.run_dir, "tokenizer.json")).vocab_size
    assert ones[1]["train/loss"] == pytest.approx(math.log(entries), abs=0.1)
    assert ones[1]["lr"] == pytest.approx(0.01 / 5)
    for step, line in twos.items():
        assert line["train/loss"] == pytest.approx((ones[step - 1]["train/loss"] + ones[step]["train/loss"]) / 2)
        assert line["grad_norm"] == ones[step]["grad_norm"]
        assert line["epoch"] == ones[step]["epoch"] == pytest.approx(step * ones[1]["epoch"])


def test_early_stopping_keeps_the_best(make_config: MakeConfig) -> None:
    """At this learning rate each update makes it worse: the first validations are the best."""
    diverging = make_config(
        train={"steps": 200, "eval_every": 2, "early_stopping": 3, "log_every": 50},
        optimizer={"learning_rate": 2.0, "warmup_steps": 0, "schedule": "constant"},
    )
    outcome = train(diverging)
    assert outcome.status == "early_stopped"
    assert (outcome.exit_status, outcome.step < 200) == (0, True)
    info = read_info(diverging)
    best = info["result"]["best_step"]
    assert outcome.step == best + 3 * 2
    store = CheckpointStore(Path(diverging.run_dir, "checkpoints"))
    assert store.best_step() == best
    assert store.steps() == [best, outcome.step - 2, outcome.step]
    assert store.metadata(best)["val_loss"] == info["result"]["best_val/loss"]
    # Run again, it knows that it is done; with more patience it goes on.
    assert train(diverging) == outcome
    more = make_config(
        train={"steps": outcome.step + 2, "eval_every": 2, "early_stopping": 0, "log_every": 50},
        optimizer={"learning_rate": 2.0, "warmup_steps": 0, "schedule": "constant"},
    )
    assert train(more).step == outcome.step + 2


def test_init_from_another_run(make_config: MakeConfig, helpers: Any) -> None:
    first = make_config("first")
    train(first)
    tokenizer = {"path": str(Path(first.run_dir, "tokenizer.json"))}
    still = {"learning_rate": 1e-12, "weight_decay": 0.0, "clip_norm": 0.0}
    second = make_config(
        "second", tokenizer=tokenizer, optimizer=still,
        train={"init_from": first.run_dir, "init_checkpoint": "8", "steps": 4},
    )  # fmt: skip
    train(second)
    wanted = CheckpointStore(Path(first.run_dir, "checkpoints")).load_part(8, "params")
    found = CheckpointStore(Path(second.run_dir, "checkpoints")).load_part(4, "params")
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-8)
    with pytest.raises(JslmError, match=r"model\.d_model is 16 there, and this config says 32; leave it out"):
        train(make_config("wide", tokenizer=tokenizer, model={"d_model": 32}, train={"init_from": first.run_dir}))
    with pytest.raises(JslmError, match=r"tokenizer\.kind is 'char' there, and this config says 'byte'"):
        train(make_config("bytes", tokenizer={"kind": "byte"}, train={"init_from": first.run_dir}))
    with pytest.raises(JslmError, match="no such run folder"):
        train(make_config("none", train={"init_from": first.run_dir + "-not-there"}))
    with pytest.raises(JslmError, match="no checkpoint '7'; there are best, latest, 8, 12"):
        train(make_config("seven", tokenizer=tokenizer, train={"init_from": first.run_dir, "init_checkpoint": "7"}))


def test_init_from_a_run_with_averages_starts_from_them(make_config: MakeConfig) -> None:
    first = make_config("first", train={"ema_decay": 0.5})
    train(first)
    tokenizer = {"path": str(Path(first.run_dir, "tokenizer.json"))}
    second = make_config(
        "second", tokenizer=tokenizer, train={"init_from": first.run_dir, "init_checkpoint": "8", "steps": 4}
    )
    store = CheckpointStore(Path(first.run_dir, "checkpoints"))
    data = prepare_data(second)
    found = jax.tree.leaves(load_initial(resolve_config(second, data), data))
    for one, other in zip(found, jax.tree.leaves(store.load_part(8, "ema")), strict=True):
        np.testing.assert_array_equal(one, other)
    raw = jax.tree.leaves(store.load_part(8, "params"))
    assert max(np.abs(one - other).max() for one, other in zip(found, raw, strict=True)) > 1e-4


def test_validation_equals_a_loop_over_the_whole_split(make_config: MakeConfig) -> None:
    config = make_config(train={"eval_batches": 1, "eval_batch_size": 2, "ema_decay": 0.9}, model={"dropout": 0.1})
    train(config)
    result = read_info(config)["result"]
    folder = RunFolder(config.run_dir)
    resolved, tokenizer = folder.read_config(), load_tokenizer(folder.tokenizer)
    params = CheckpointStore(folder.checkpoints).load_part(12, "ema")
    tokens = np.asarray(open_tokens(config.data_dir, "val").tokens).astype(np.int32)
    nats, size, length = 0.0, 0, 16
    score = jax.jit(
        lambda window: jax.nn.log_softmax(
            logits_from_hidden(params, apply_decoder(params, window, resolved.model), resolved.model)
        )
    )
    for start in range(0, len(tokens) - 1, length):
        window = np.zeros((1, length), np.int32)
        here = tokens[start : start + length]
        window[0, : len(here)] = here
        logs = np.asarray(score(jnp.asarray(window)))[0]
        for place, target in enumerate(tokens[start + 1 : start + 1 + length]):
            nats -= float(logs[place, target])
            size += len(tokenizer.decode([int(target)]).encode())
    count = len(tokens) - 1
    assert result["val/tokens"] == count > 2 * length, "the split is more than the batches of one validation"
    assert result["val/loss"] == pytest.approx(nats / count, rel=1e-5)
    assert result["val/bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    # A validation between takes some of the split.
    objective = make_objective(resolved, make_mesh(resolved.mesh), jnp.dtype(jnp.float32))
    nothing = objective.make_validation(tokenizer.token_bytes())(params, [])
    assert nothing == LossResult(0.0, 0, 0)


def test_without_a_validation_split(make_config: MakeConfig, helpers: Any) -> None:
    config = make_config(data={"validation_fraction": 0.0}, train={"report": True})
    assert train(config).status == "finished"
    assert not [line for line in helpers.read_lines(config.run_dir) if "val/loss" in line]
    info = read_info(config)
    assert "val/loss" not in info["result"]
    assert CheckpointStore(Path(config.run_dir, "checkpoints")).best_step() == 12
    assert Path(config.run_dir, "report.html").is_file()


def test_corpus_shorter_than_a_context(
    make_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("a bee sees a bead", "utf-8")
    config = make_config(data={"source": str(text)}, model={"context_length": 64}, train={"report": True})
    assert train(config).status == "finished"
    assert any("fewer than one context of 64" in record.getMessage() for record in caplog.records)
    # What stays of the bar is the last step and the time it took, above what comes after.
    lines = capsys.readouterr().err.splitlines()
    (last,) = [number for number, line in enumerate(lines) if line.startswith("step 12/12")]
    assert " in 00:0" in lines[last]
    assert "report: " in lines[-1]
    assert not any("00:00 left" in line for line in lines[last:])
    # Padding never counts.
    assert read_info(config)["result"]["val/tokens"] == read_info(config)["data"]["val"]["tokens"] - 1


def test_epochs_instead_of_steps(make_config: MakeConfig, helpers: Any) -> None:
    config = make_config(train={"steps": 0, "epochs": 1.5, "eval_every": 0, "log_every": 1})
    outcome = train(config)
    windows = math.ceil((read_info(config)["data"]["train"]["tokens"] - 1) / 16)
    assert outcome.step == math.ceil(1.5 * windows / 8)
    last = [line for line in helpers.read_lines(config.run_dir) if "epoch" in line][-1]
    assert last["epoch"] == pytest.approx(1.5, abs=8 / windows)
    # The resolved config holds the number; asked again by epochs, the run is done.
    assert RunFolder(config.run_dir).read_config().train.steps == outcome.step
    assert train(config) == outcome


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_learn(dtype: str, make_config: MakeConfig, helpers: Any) -> None:
    config = make_config(model={"dtype": dtype})
    assert train(config).status == "finished"
    lines = [line for line in helpers.read_lines(config.run_dir) if "train/loss" in line]
    assert lines[-1]["train/loss"] < lines[0]["train/loss"] - 0.3
    assert lines[-1]["bad_steps"] == 0
    assert ("loss_scale" in lines[0]) == (dtype == "float16")
    assert read_info(config)["dtype"] == dtype


def test_too_many_bad_steps_stop_the_run(make_config: MakeConfig, helpers: Any) -> None:
    config = make_config(
        train={"max_bad_steps": 3, "steps": 40, "log_every": 1},
        optimizer={"learning_rate": 1e30, "clip_norm": 0.0, "warmup_steps": 0},
    )
    with pytest.raises(JslmError) as caught:
        train(config)
    message = str(caught.value)
    assert message.startswith(
        "train.max_bad_steps = 3: the loss or gradient was not finite 3 steps in a row, up to step "
    )
    assert "\n" not in message
    lines = helpers.read_lines(config.run_dir)
    assert lines[-1]["bad_steps"] >= 3
    assert lines[-1]["grad_norm"] is None, "JSON has no word for what is not finite"
    # A gentler rate goes on from what was saved, or starts anew.
    assert train(make_config()).status == "finished"


@pytest.mark.parametrize("nats", [math.nan, math.inf, 1e9])
def test_a_run_whose_validation_is_not_finite_still_ends(
    nats: float, make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, helpers: Any
) -> None:
    """A diverged model's loss is no number, or its perplexity is beyond all numbers: files hold null."""
    monkeypatch.setattr(NextToken, "result", lambda *_: LossResult(nats, 10, 10))
    config = make_config(train={"report": True})
    assert train(config).status == "finished"
    result = read_info(config)["result"]
    assert result["val/perplexity"] is None
    assert (result["val/loss"] is None) == (nats != 1e9)
    assert [line["val/perplexity"] for line in helpers.read_lines(config.run_dir) if "val/loss" in line] == [None] * 3
    best = 4 if nats == 1e9 else 12
    assert CheckpointStore(Path(config.run_dir, "checkpoints")).best_step() == best
    assert Path(config.run_dir, "report.html").is_file()
    assert train(config).status == "finished"


def test_samples_have_a_rhythm_of_their_own(make_config: MakeConfig) -> None:
    config = make_config(sample={"every": 5}, train={"eval_every": 0})
    train(config)
    samples = Path(config.run_dir, "samples.md").read_text("utf-8")
    assert [line for line in samples.splitlines() if line.startswith("## Step")] == ["## Step 5", "## Step 10"]
