"""A run that is killed, stopped or damaged ends where an uninterrupted one does, to the last bit."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.config import Config, config_to_toml
from jslm.errors import JslmError
from jslm.train import loop, train
from jslm.train.setup import checkpoint_metadata, prepare_data, resolve_config

# All that few data needs at once. Past the end of two epochs (about 160 windows in batches of 8), checkpoints at every
# third step and at validations.
STEPS = 48
KEYS: dict[str, Any] = {
    "model": {"n_layers": 2, "dropout": 0.2},
    "train": {
        "steps": STEPS,
        "micro_batch": 2,
        "eval_every": 8,
        "log_every": 1,
        "ema_decay": 0.9,
        "tensorboard": True,
        "early_stopping": 50,
    },
    "checkpoint": {"every": 3},
}


@pytest.fixture
def start(make_config: Callable[..., Config], helpers: Any, tmp_path: Path) -> Callable[..., Any]:
    """`start(name, **sections)`: (a process runner, its run folder)."""

    def make(name: str, **sections: Any) -> tuple[Any, Path]:
        merged = {key: KEYS.get(key, {}) | sections.get(key, {}) for key in {*KEYS, *sections}}
        config = make_config(name, **merged)
        file = tmp_path / f"{name}.toml"
        file.write_text(config_to_toml(config), "utf-8")
        return helpers.Process(file), Path(config.run_dir)

    return make


@pytest.fixture
def reap() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes put here are dead when the test is over."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def logged_step(run_dir: Path) -> int:
    file = run_dir / "metrics.jsonl"
    return file.read_bytes().count(b'"train/loss"') if file.exists() else 0


def wait_for_step(process: subprocess.Popen[str], run_dir: Path, step: int) -> None:
    """Until `step` lines of training are on disk, or the process has ended."""
    deadline = time.monotonic() + 120
    while logged_step(run_dir) < step and process.poll() is None:
        assert time.monotonic() < deadline, "no progress"
        time.sleep(0.002)


def assert_complete_metrics(run_dir: Path, helpers: Any) -> None:
    lines = helpers.read_lines(run_dir)
    assert [line["step"] for line in lines if "train/loss" in line] == list(range(1, STEPS + 1))
    assert [line["step"] for line in lines if "val/loss" in line] == list(range(8, STEPS + 1, 8))


def comparable(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key not in ("time", "tokens_per_s", "mfu")} for line in lines]


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "decay"), [("adamw", "rising"), ("muon", "constant")])
def test_killed_runs_end_with_the_same_bytes(
    optimizer: str, decay: str, start: Callable[..., Any], helpers: Any, reap: list[subprocess.Popen[str]]
) -> None:
    # Compiled as a user's run is: the quick, unoptimised programs of the tests could hide a difference.
    compiled = {"XLA_FLAGS": ""}
    keys = {"name": optimizer, "weight_decay": 1.0, "weight_decay_schedule": decay}
    whole, whole_dir = start("whole", optimizer=keys)
    whole.environment |= compiled
    done = whole.run()
    assert done.returncode == 0, done.stderr
    runner, run_dir = start("killed", optimizer=keys)
    runner.environment |= compiled
    choice = random.Random(optimizer)
    for target in sorted(choice.sample(range(2, STEPS - 4), 4)):
        process = runner.start()
        reap.append(process)
        wait_for_step(process, run_dir, target)
        time.sleep(choice.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = runner.run()
    assert done.returncode == 0, done.stderr
    assert "resuming at step" in done.stderr
    helpers.assert_same_arrays(helpers.read_checkpoint(run_dir), helpers.read_checkpoint(whole_dir))
    assert_complete_metrics(run_dir, helpers)
    assert comparable(helpers.read_lines(run_dir)) == comparable(helpers.read_lines(whole_dir))
    assert (run_dir / "samples.md").read_text("utf-8") == (whole_dir / "samples.md").read_text("utf-8")
    # Nothing half-written stays.
    assert not list(run_dir.glob("checkpoints/*tmp*"))


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_goes_on(
    start: Callable[..., Any], helpers: Any, reap: list[subprocess.Popen[str]]
) -> None:
    runner, run_dir = start("stopped", train={"steps": 100_000, "eval_every": 50_000}, checkpoint={"every": 0})
    process = runner.start()
    reap.append(process)
    wait_for_step(process, run_dir, 5)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM == 143, err
    saved = int(next((run_dir / "checkpoints").iterdir()).name.removeprefix("step_"))
    assert saved >= 5
    assert f"stopped by SIGTERM at step {saved:,}; saved. The same command goes on from here." in err
    assert logged_step(run_dir) == saved
    steps = saved + 6
    done = runner.run(f"train.steps={steps}")
    assert done.returncode == 0, done.stderr
    assert f"resuming at step {saved:,}" in done.stderr
    trained = [line["step"] for line in helpers.read_lines(run_dir) if "train/loss" in line]
    assert trained == list(range(1, steps + 1))


@pytest.mark.slow
def test_two_runs_in_one_folder(start: Callable[..., Any], reap: list[subprocess.Popen[str]]) -> None:
    runner, run_dir = start("busy", train={"steps": 1_000_000, "eval_every": 0}, checkpoint={"every": 0})
    process = runner.start()
    reap.append(process)
    wait_for_step(process, run_dir, 2)
    second = runner.run()
    assert second.returncode == 2
    assert second.stdout == ""
    assert second.stderr == (
        f"jslm train: error: run_dir = {run_dir}: another training process is using this folder; "
        "wait for it, or choose another run_dir\n"
    )
    before = logged_step(run_dir)
    wait_for_step(process, run_dir, before + 3)
    assert process.poll() is None, "the first goes on"


@pytest.fixture
def trained(make_config: Callable[..., Config], helpers: Any) -> tuple[Config, dict[str, np.ndarray]]:
    """A finished run of 12 steps, with checkpoints at 8 and 12, and its last arrays."""
    config = make_config()
    assert train(config).exit_status == 0
    return config, helpers.read_checkpoint(config.run_dir)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x10
    file.write_bytes(data)


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_damaged_checkpoint_is_named_and_the_one_before_is_used(
    damage: Callable[[Path], None], trained: Any, helpers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    config, wanted = trained
    folder = Path(config.run_dir, "checkpoints")
    newest = folder / "step_00000012"
    largest = max((file for file in newest.rglob("*") if file.is_file()), key=lambda file: file.stat().st_size)
    damage(largest)
    before = helpers.read_lines(config.run_dir)
    outcome = train(config)
    assert (outcome.status, outcome.step) == ("finished", 12)
    warnings = [record.getMessage() for record in caplog.records if "damaged" in record.getMessage()]
    assert len(warnings) == 1
    assert str(largest) in warnings[0]
    assert "the one before is used" in warnings[0]
    assert (folder / "step_00000012.damaged").is_dir()
    helpers.assert_same_arrays(helpers.read_checkpoint(config.run_dir), wanted)
    assert comparable(helpers.read_lines(config.run_dir)) == comparable(before)


def test_every_checkpoint_damaged_is_an_error(trained: Any) -> None:
    config, _ = trained
    for file in Path(config.run_dir, "checkpoints").glob("*/manifest.json"):
        file.write_text("{", "utf-8")
    with pytest.raises(JslmError, match="every checkpoint is damaged"):
        train(config)


def test_unfinished_checkpoint_of_a_killed_run_is_ignored_and_removed(
    trained: Any, make_config: Callable[..., Config], helpers: Any
) -> None:
    config, _ = trained
    leftover = Path(config.run_dir, "checkpoints", "step_00000013.orbax-checkpoint-tmp")
    leftover.mkdir()
    (leftover / "array").write_bytes(b"half")
    assert train(make_config(train={"steps": 13})).step == 13
    assert not leftover.exists()


def test_finished_run_has_nothing_to_do(trained: Any, capfd: pytest.CaptureFixture[str]) -> None:
    config, _ = trained
    files = {path: path.read_bytes() for path in Path(config.run_dir).rglob("*") if path.is_file()}
    capfd.readouterr()
    outcome = train(config)
    assert (outcome.status, outcome.step, outcome.exit_status) == ("finished", 12, 0)
    assert capfd.readouterr().err == f"{config.run_dir}: finished already at step 12; nothing to do\n"
    assert {path: path.read_bytes() for path in Path(config.run_dir).rglob("*") if path.is_file()} == files


def test_more_steps_continue(trained: Any, make_config: Callable[..., Config], helpers: Any) -> None:
    config, _ = trained
    outcome = train(make_config(train={"steps": 16}))
    assert outcome.step == 16
    lines = helpers.read_lines(config.run_dir)
    assert [line["step"] for line in lines if "train/loss" in line] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert lines[-1]["tokens"] == 16 * 8 * 16 if "tokens" in lines[-1] else lines[-2]["tokens"] == 16 * 8 * 16


def test_epochs_go_on_at_another_batch_size_and_accumulation(make_config: Callable[..., Config], helpers: Any) -> None:
    """Half of an epoch in batches of 8, the rest in batches of 12 in pieces of 4: one epoch, neither more nor less."""
    config = make_config(
        train={"steps": 0, "epochs": 1, "log_every": 1, "eval_every": 0, "curriculum": [{"context": 4, "until": 0.75}]}
    )
    whole = resolve_config(config, prepare_data(config)).train.steps
    stop = whole // 2
    train(make_config(train={"steps": stop, "log_every": 1, "eval_every": 0}))
    changes = {"batch_size": 12, "micro_batch": 4}
    changed = make_config(train=config.train.model_dump() | changes)
    outcome = train(changed)
    lines = [line for line in helpers.read_lines(config.run_dir) if "epoch" in line]
    examples = lines[0]["epoch"] and round(8 / lines[0]["epoch"])
    assert outcome.step == stop + math.ceil((examples - stop * 8) / 12) < whole
    assert [line["step"] for line in lines] == list(range(1, outcome.step + 1))
    assert lines[-1]["epoch"] == pytest.approx(1, abs=12 / examples)
    assert lines[stop]["epoch"] == pytest.approx((stop * 8 + 12) / examples)
    info = json.loads(Path(config.run_dir, "run.json").read_text("utf-8"))
    assert info["passes"] == info["result"]["passes"] == lines[-1]["epoch"]
    assert info["result"]["tokens_seen"] == lines[-1]["tokens"]
    # The same command again has nothing left to do, and no setting has changed.
    assert train(changed) == outcome


def test_a_checkpoint_whose_position_is_in_steps_goes_on(
    make_config: Callable[..., Config], helpers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As versions before wrote it: no examples, no tokens, and the batch size in the saved config alone."""

    def older(setup: Any, val_loss: float | None) -> dict[str, Any]:
        found = checkpoint_metadata(setup, val_loss)
        for key in ("examples", "changes", "batch_size"):
            del found["data"][key]
        del found["position"]["tokens"]
        return found

    with monkeypatch.context() as patch:
        patch.setattr(loop, "checkpoint_metadata", older)
        config = make_config(train={"log_every": 1})
        train(config)
    train(make_config(train={"steps": 15, "batch_size": 4, "log_every": 1}))
    lines = [line for line in helpers.read_lines(config.run_dir) if "epoch" in line]
    first = lines[0]["epoch"]
    assert lines[11]["epoch"] == pytest.approx(12 * first)
    assert lines[14]["epoch"] == pytest.approx(13.5 * first)
    assert lines[14]["tokens"] == pytest.approx(13.5 * 8 * 16, rel=0.02)


def test_other_model_in_the_same_folder_is_an_error(trained: Any, make_config: Callable[..., Config]) -> None:
    with pytest.raises(JslmError, match=r"holds a run with model\.d_ff = 16, and this config has 24"):
        train(make_config(model={"d_ff": 24}))


def test_other_optimizer_in_the_same_folder_is_an_error(trained: Any, make_config: Callable[..., Config]) -> None:
    """Its state has another structure: said in words of the config, not of arrays."""
    with pytest.raises(JslmError, match=r"optimizer\.name"):
        train(make_config(optimizer={"name": "muon"}, train={"steps": 16}))


def test_other_tokenizer_in_the_same_folder_is_an_error(
    trained: Any, make_config: Callable[..., Config], tmp_path: Path
) -> None:
    config, _ = trained
    with pytest.raises(JslmError, match=r"tokenizer\.kind|tokenizer"):
        train(make_config(tokenizer={"kind": "byte"}))
    # Prepared elsewhere, the data itself is in order, but it is not what the run was trained on.
    with pytest.raises(JslmError, match=r"tokenizer|vocab"):
        train(make_config(tokenizer={"kind": "byte"}, data={"dir": str(tmp_path / "bytes")}))
    other = tmp_path / "other.txt"
    text = Path(str(config.data.source)).read_text("utf-8")
    # As many characters, one of them another: the shapes agree, and only the fingerprint tells.
    other.write_text(text.replace("c", "z"), "utf-8")
    with pytest.raises(JslmError, match="another tokenizer"):
        train(make_config(data={"source": str(other), "dir": str(tmp_path / "other")}))


def test_other_seed_or_data_can_not_continue(trained: Any, make_config: Callable[..., Config]) -> None:
    with pytest.raises(JslmError, match="seed = 0, but this run has 1"):
        train(make_config(seed=1, train={"steps": 16}))


def test_a_run_that_saved_nothing_may_change_its_model(make_config: Callable[..., Config]) -> None:
    config = make_config(
        train={"max_bad_steps": 1}, optimizer={"learning_rate": 1e30, "clip_norm": 0.0, "warmup_steps": 0}
    )
    with pytest.raises(JslmError, match="max_bad_steps"):
        train(config)
    assert not list(Path(config.run_dir).glob("checkpoints/step_*"))
    assert train(make_config(model={"d_ff": 24})).status == "finished"
