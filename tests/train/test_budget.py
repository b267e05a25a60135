"""`train.minutes`: the run and its schedule end together, whatever a step takes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import Config
from jslm.errors import JslmError
from jslm.learn.optimizer import timed_factor
from jslm.runs.checkpoint import CheckpointStore
from jslm.train import budget as module
from jslm.train import loop, train
from jslm.train.budget import Budget, decay_factor

TIMED: dict[str, Any] = {"steps": 0, "minutes": 0.2, "log_every": 1, "eval_every": 1000}
WSD = {"schedule": "wsd", "decay_fraction": 0.5, "min_learning_rate_ratio": 0.0}
MakeConfig = Callable[..., Config]


class Clock:
    """Time that passes when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(module, "_now", lambda: self.now)


def follow(budget: Budget, clock: Clock, seconds: Callable[[int], float]) -> list[float]:
    """Steps of so many seconds until the budget ends; the factor of each."""
    factors, step = [], 0
    while step < budget.end and step < 100_000:
        factors.append(decay_factor(step, budget.schedule))
        clock.now += seconds(step)
        step += 1
        budget.note(step)
    return factors


@pytest.mark.parametrize("later", [0.1, 0.4, 0.025], ids=["steady", "slower", "faster"])
@pytest.mark.parametrize("change", [0.2, 0.7], ids=["before the decay", "in it"])
def test_the_rate_falls_to_nothing_when_time_is_up(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, later: float, change: float
) -> None:
    clock = Clock(monkeypatch)
    config = make_config(optimizer=WSD, train=TIMED | {"minutes": 2.0})
    budget = Budget(config, 0.0, clock.now, None)
    began = clock.now
    factors = follow(budget, clock, lambda step: 0.1 if clock.now - began < change * 120 else later)
    # Not a second over, and no more than a twentieth left unused; what follows the steps has its share.
    assert 100 < clock.now - began < 120
    assert factors[-1] < 0.05
    assert max(np.diff(factors)) <= 1e-6
    assert min(np.diff(factors)) > -0.1
    assert factors[0] == 1.0


def test_a_linear_schedule_falls_from_the_start(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    config = make_config(optimizer=WSD | {"schedule": "linear"}, train=TIMED | {"minutes": 2.0})
    factors = follow(Budget(config, 0.0, clock.now, None), clock, lambda step: 0.1)
    assert factors[len(factors) // 2] == pytest.approx(0.5, abs=0.05)


def test_steps_are_the_most(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    budget = Budget(make_config(optimizer=WSD, train=TIMED | {"minutes": 2.0, "steps": 50}), 0.0, clock.now, None)
    factors = follow(budget, clock, lambda step: 0.1)
    assert len(factors) == 50
    assert factors[-1] < 0.05


def test_time_spent_before_counts(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    config = make_config(optimizer=WSD, train=TIMED | {"minutes": 2.0})
    whole = len(follow(Budget(config, 0.0, clock.now, None), clock, lambda step: 0.1))
    half = len(follow(Budget(config, 60.0, clock.now, None), clock, lambda step: 0.1))
    assert half == pytest.approx(whole - 600, abs=10)


def test_the_state_computes_what_the_host_does() -> None:
    for schedule in ([40.0, 100.0, 1.0], [60.0, 90.0, 0.4], [np.inf, np.inf, 1.0]):
        numbers = np.array(schedule, np.float32)
        for step in (0, 3, 41, 77, 89):
            found = timed_factor(jnp.int32(step), jnp.asarray(numbers), 0, 0.0)
            assert float(found) == pytest.approx(decay_factor(step, numbers), abs=1e-6)
    warming = timed_factor(jnp.int32(1), jnp.asarray(numbers), 9, 0.0)
    assert float(warming) == pytest.approx(0.2)


def test_a_run_ends_and_is_over(make_config: MakeConfig, helpers: Any, capfd: pytest.CaptureFixture[str]) -> None:
    config = make_config(optimizer=WSD, train=TIMED | {"minutes": 30.0, "steps": 40})
    outcome = train(config)
    assert (outcome.status, outcome.step) == ("finished", 40)
    lines = [line for line in helpers.read_lines(config.run_dir) if "lr" in line]
    assert lines[-1]["lr"] < 0.1 * max(line["lr"] for line in lines)
    capfd.readouterr()
    assert train(config).step == outcome.step
    assert "nothing to do" in capfd.readouterr().err


def test_too_little_time_is_a_few_steps(make_config: MakeConfig, helpers: Any) -> None:
    config = make_config(optimizer=WSD, train=TIMED | {"minutes": 0.001})
    assert 1 <= train(config).step <= 10
    assert any("val/loss" in line for line in helpers.read_lines(config.run_dir))


def test_a_stopped_run_has_the_minutes_that_are_left(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(optimizer=WSD, train=TIMED | {"minutes": 30.0, "steps": 60})
    place_batch, calls = loop.place_batch, []

    def stop_soon(*args: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) == 40:
            os.kill(os.getpid(), signal.SIGTERM)
        return place_batch(*args)

    monkeypatch.setattr(loop, "place_batch", stop_soon)
    assert train(config).status == "interrupted"
    store = CheckpointStore(Path(config.run_dir, "checkpoints"), 3)
    position = store.metadata(store.steps()[-1])["position"]
    assert position["elapsed"] > position["seconds"] > 0
    before = position["elapsed"]
    began = time.monotonic()
    assert train(config).status == "finished"
    after = store.metadata(store.steps()[-1])["position"]["elapsed"]
    # What the second command took is added to what the first had taken.
    assert before < after <= before + time.monotonic() - began


def test_more_minutes_go_on_at_the_full_rate(make_config: MakeConfig, helpers: Any) -> None:
    first = make_config(optimizer=WSD, train=TIMED | {"minutes": 30.0, "steps": 20})
    more = make_config(optimizer=WSD, train=TIMED | {"minutes": 31.0, "steps": 60})
    assert train(first).step == 20
    assert train(more).step == 60
    rates = {line["step"]: line["lr"] for line in helpers.read_lines(more.run_dir) if "lr" in line}
    assert rates[19] < 0.3 * rates[30] == pytest.approx(0.3 * first.optimizer.learning_rate)
    assert rates[60] < 0.1 * rates[30]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"optimizer": {"schedule": "cosine"}}, "train.minutes = 0.2 needs a schedule that can end"),
        ({"train": {"curriculum": [{"context": 8, "until": 0.5}]}}, "train.curriculum has shares of train.steps"),
    ],
)
def test_what_no_clock_can_end(make_config: MakeConfig, sections: dict[str, Any], message: str) -> None:
    merged = {name: (WSD if name == "optimizer" else TIMED) | sections.get(name, {}) for name in ("optimizer", "train")}
    with pytest.raises(JslmError, match=message):
        make_config(**merged)
