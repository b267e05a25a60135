"""Callbacks from Python: what they get, how they stop a run, and that a run that is looked at is the same run."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import jslm
from jslm.config import Config, config_to_toml
from jslm.errors import JslmError
from jslm.train import STOP, StepRecord, ValidationRecord, train
from jslm.train.callbacks import Callbacks

MakeConfig = Callable[..., Config]
DROPOUT = {"dropout": 0.2}


def test_a_run_that_is_looked_at_has_the_same_bits(make_config: MakeConfig, helpers: Any) -> None:
    alone, seen = (make_config(name, model=DROPOUT) for name in ("alone", "seen"))
    train(alone)
    steps: list[StepRecord] = []
    validations: list[ValidationRecord] = []
    outcome = jslm.train(seen, on_step=steps.append, on_validation=validations.append)
    assert outcome.status == "finished"
    helpers.assert_same_arrays(helpers.read_checkpoint(seen.run_dir), helpers.read_checkpoint(alone.run_dir))
    assert [record.step for record in steps] == list(range(1, 13))
    assert [record.tokens for record in steps] == [128 * n for n in range(1, 13)]
    lines = helpers.read_lines(seen.run_dir)
    training = {line["step"]: line for line in lines if "train/loss" in line}
    for record in steps[1::2]:
        line = training[record.step]
        assert (record.learning_rate, record.grad_norm) == (line["lr"], line["grad_norm"])
        assert (steps[record.step - 2].loss + record.loss) / 2 == pytest.approx(line["train/loss"])
        assert not record.skipped
    told = [(line["step"], line["val/loss"], line["val/bits_per_byte"]) for line in lines if "val/loss" in line]
    assert [(one.step, one.loss, one.figures["bits_per_byte"]) for one in validations] == told
    best = min(validations, key=lambda record: record.loss)
    assert (validations[-1].best_step, validations[-1].best_loss) == (best.step, best.loss)
    assert best.is_best
    with pytest.raises(dataclasses.FrozenInstanceError):
        steps[0].loss = 0.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        validations[0].figures["loss"] = 0.0  # type: ignore[index]


def test_a_rule_of_ones_own_stops_and_the_same_call_goes_on(make_config: MakeConfig, helpers: Any) -> None:
    whole, config = (make_config(name, model=DROPOUT, train={"report": True}) for name in ("whole", "stopped"))
    train(whole)
    outcome = train(config, on_step=lambda record: STOP if record.step == 5 else None)
    # The step after the one that was told is on its way already.
    assert (outcome.status, outcome.step, outcome.exit_status) == ("stopped", 6, 0)
    assert "Stopped by a callback at step 6" in Path(config.run_dir, "report.html").read_text("utf-8")
    outcome = train(config, on_validation=lambda record: "stop" if record.step == 8 else None)
    assert (outcome.status, outcome.step) == ("stopped", 8)
    assert train(config, on_step=lambda record: "stop" if record.step == 12 else None).status == "finished"
    helpers.assert_same_arrays(helpers.read_checkpoint(config.run_dir), helpers.read_checkpoint(whole.run_dir))
    assert [line["step"] for line in helpers.read_lines(config.run_dir) if "val/loss" in line] == [4, 8, 12]


@pytest.mark.parametrize("name", ["on_step", "on_validation"])
def test_what_a_callback_raises_comes_out_after_a_checkpoint(name: str, make_config: MakeConfig) -> None:
    config = make_config()

    def fail(record: StepRecord | ValidationRecord) -> None:
        if record.step == 4:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        train(config, **{name: fail})  # type: ignore[arg-type]
    (saved,) = Path(config.run_dir, "checkpoints").glob("step_*4")
    assert (saved / "manifest.json").exists() or any(saved.iterdir())
    assert train(config).status == "finished"


def test_another_answer_is_an_error() -> None:
    callbacks = Callbacks(lambda record: len([1, 2]))  # type: ignore[arg-type,return-value]
    names = ("loss", "lr", "grad_norm", "param_norm", "bad_in_a_row")
    callbacks.step(1, dict.fromkeys(names, 0.0), (), 128)
    assert isinstance(callbacks.error, JslmError)
    assert str(callbacks.error) == "on_step returned 2; expected None to go on, or 'stop' to end the run here"


def test_nobody_who_listens_costs_nothing(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jslm.train.callbacks.Callbacks.step", None)
    assert train(make_config(train={"steps": 4})).status == "finished"


def test_the_package_is_the_function(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(train={"steps": 4})
    file = tmp_path / "run.toml"
    file.write_text(config_to_toml(config), "utf-8")
    code = (
        "import jslm, sys; first = jslm.train; assert 'jax' not in sys.modules\n"
        "import jslm.train; assert jslm.train is first\n"
        f"print(jslm.train({str(file)!r}, on_step=lambda record: jslm.train.STOP).step)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr
