"""The compiled step: accumulation, bad steps, loss scale, averages, metrics."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.learn import step as step_module
from jslm.learn.optimizer import make_optimizer
from jslm.learn.state import INITIAL_LOSS_SCALE, TrainState, init_state
from jslm.learn.step import make_train_step
from jslm.model import loss_sums
from jslm.parallel import make_mesh
from jslm.train.setup import place_batch

STEPS, VOCAB, CONTEXT, BATCH = 20, 30, 8, 8


def make_config(**sections: dict[str, Any]) -> Config:
    values: dict[str, dict[str, Any]] = {
        "model": {
            "n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": CONTEXT, "vocab_size": VOCAB,
        },
        "optimizer": {"warmup_steps": 0, "schedule": "constant", "learning_rate": 0.01},
        "train": {"steps": STEPS, "batch_size": BATCH},
    }  # fmt: skip
    for name, keys in sections.items():
        values[name] = values.get(name, {}) | keys
    return config_from_dict(values, "test")


class Run:
    """A state and its step; `state` is replaced by each call."""

    def __init__(self, dtype: Any = jnp.float32, **sections: dict[str, Any]) -> None:
        self.config = make_config(**sections)
        self.mesh = make_mesh(self.config.mesh)
        self.optimizer = make_optimizer(self.config.optimizer, STEPS)
        self.state: TrainState = init_state(self.config, self.optimizer, self.mesh, jnp.dtype(dtype))
        self._step = make_train_step(self.config, self.optimizer, STEPS, self.mesh, jnp.dtype(dtype))

    def step(self, batch: dict[str, np.ndarray], accumulation: int = 1) -> dict[str, float]:
        self.state, metrics = self._step(self.state, place_batch(batch, self.mesh, accumulation))
        return {name: float(value) for name, value in metrics.items()}

    def poison(self, value: float = np.inf) -> None:
        self.state["params"]["embed"]["tokens"] = jnp.full_like(self.state["params"]["embed"]["tokens"], value)

    def snapshot(self) -> Any:
        return jax.tree.map(np.array, self.state)


def make_batch(seed: int = 0, ignored: bool = False) -> dict[str, np.ndarray]:
    noise = np.random.default_rng(seed)
    inputs, targets = noise.integers(0, VOCAB, (2, BATCH, CONTEXT)).astype(np.int32)
    if ignored:
        # Row r ignores r of its targets: micro-batches count different numbers of tokens.
        for row in range(BATCH):
            targets[row, CONTEXT - row :] = -1
    return {"inputs": inputs, "targets": targets}


def assert_equal(found: Any, wanted: Any, **tolerance: Any) -> None:
    for (path, one), other in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, err_msg=jax.tree_util.keystr(path), **tolerance)


@pytest.fixture(scope="module")
def plain() -> tuple[Any, dict[str, dict[str, float]], dict[str, Any]]:
    """(start, metrics by batch, states after): one step without accumulation, on a whole batch and one with gaps."""
    metrics, states = {}, {}
    for name in ("whole", "gaps"):
        run = Run()
        start = run.snapshot()
        metrics[name] = run.step(make_batch(ignored=name == "gaps"))
        states[name] = run.snapshot()
    return start, metrics, states


@pytest.mark.parametrize("name", ["whole", "gaps"])
def test_accumulation_equals_one_batch(name: str, plain: Any) -> None:
    _, metrics, states = plain
    run = Run(train={"micro_batch": 2})
    found = run.step(make_batch(ignored=name == "gaps"), accumulation=4)
    for key, value in metrics[name].items():
        assert found[key] == pytest.approx(value, rel=1e-5), key
    # Adam's first step divides by the gradient's size: compare its moments, and parameters loosely.
    assert_equal(run.state["opt_state"], states[name]["opt_state"], rtol=2e-4, atol=1e-7)
    assert_equal(run.state["params"], states[name]["params"], atol=1e-4)


def test_metrics_are_what_they_say(plain: Any) -> None:
    start, metrics, states = plain
    config, batch = make_config(), jax.tree.map(jnp.asarray, make_batch(ignored=True))
    tokens = np.sum(batch["targets"] >= 0)

    def objective(params: Any) -> Any:
        return loss_sums(params, batch["inputs"], batch["targets"], config.model)[0] / tokens

    found = metrics["gaps"]
    loss, gradient = jax.jit(jax.value_and_grad(objective))(start["params"])
    norm = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    assert found["loss"] == pytest.approx(float(loss), rel=1e-5)
    assert found["grad_norm"] == pytest.approx(norm, rel=1e-4)
    after = [np.sum(np.square(leaf)) for leaf in jax.tree.leaves(states["gaps"]["params"])]
    assert found["param_norm"] == pytest.approx(np.sqrt(sum(after)), rel=1e-5)
    assert found["tokens"] == tokens == BATCH * CONTEXT - sum(range(BATCH))
    assert found["lr"] == pytest.approx(0.01)
    assert (found["bad_steps"], found["bad_in_a_row"], found["loss_scale"]) == (0, 0, 1)


def test_lr_metric_follows_the_schedule() -> None:
    run = Run(optimizer={"warmup_steps": 4})
    assert [run.step(make_batch())["lr"] for _ in range(5)] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])


def test_z_loss_is_in_the_gradient_but_not_in_the_loss(plain: Any) -> None:
    _, metrics, _ = plain
    found = Run(train={"z_loss": 0.1}).step(make_batch())
    assert found["loss"] == pytest.approx(metrics["whole"]["loss"], rel=1e-6)
    assert found["grad_norm"] > 1.01 * metrics["whole"]["grad_norm"]


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_bad_step_changes_only_counters(value: float) -> None:
    run = Run(train={"ema_decay": 0.5})
    run.step(make_batch())
    good = run.snapshot()
    run.poison(value)
    before = run.snapshot()
    metrics = run.step(make_batch(1))
    assert not np.isfinite(metrics["grad_norm"])
    assert (metrics["bad_steps"], metrics["bad_in_a_row"]) == (1, 1)
    assert run.step(make_batch(2))["bad_in_a_row"] == 2
    after = run.snapshot()
    assert (after.pop("step"), before.pop("step")) == (3, 1)
    assert (after.pop("bad_steps"), after.pop("bad_in_a_row")) == (2, 2)
    del before["bad_steps"], before["bad_in_a_row"]
    assert_equal(after, before)
    # Mended, it goes on, and the count in a row starts anew; the schedule counts good steps.
    run.state["params"] = jax.tree.map(jnp.asarray, good["params"])
    metrics = run.step(make_batch(3))
    assert (metrics["bad_steps"], metrics["bad_in_a_row"]) == (2, 0)
    assert np.abs(run.state["params"]["embed"]["tokens"] - good["params"]["embed"]["tokens"]).max() > 1e-4
    counts = [
        leaf for path, leaf in jax.tree_util.tree_leaves_with_path(run.state["opt_state"]) if "count" in str(path)
    ]
    assert counts
    assert all(int(count) == 2 for count in counts)


def test_float16_scale_halves_on_overflow_and_doubles_after_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "_SCALE_GROWTH_STEPS", 3)
    run = Run(jnp.float16)
    assert float(run.state["loss_scale"]) == INITIAL_LOSS_SCALE
    scales = []
    for number in range(7):
        metrics = run.step(make_batch(number))
        assert metrics["bad_steps"] == 0
        scales.append(float(run.state["loss_scale"]) / INITIAL_LOSS_SCALE)
    assert scales == [1, 1, 2, 2, 2, 4, 4]
    # Overflow for true: the scale is set where the gradients can't be held.
    run.state["loss_scale"] = jnp.float32(2.0**24)
    kept = np.array(run.state["params"]["embed"]["tokens"])
    metrics = run.step(make_batch(8))
    assert metrics["bad_steps"] == 1
    assert (metrics["loss_scale"], float(run.state["loss_scale"])) == (2.0**24, 2.0**23)
    assert int(run.state["good_steps"]) == 0
    np.testing.assert_array_equal(run.state["params"]["embed"]["tokens"], kept)
    run.poison()
    run.state["loss_scale"] = jnp.float32(1.0)
    run.step(make_batch(9))
    assert float(run.state["loss_scale"]) == 1.0, "never under 1"


def test_float16_gradients_are_those_of_float32(plain: Any) -> None:
    _, metrics, _ = plain
    found = Run(jnp.float16).step(make_batch())
    assert found["loss"] == pytest.approx(metrics["whole"]["loss"], rel=2e-3)
    assert found["grad_norm"] == pytest.approx(metrics["whole"]["grad_norm"], rel=1e-2)


def test_average_of_parameters() -> None:
    """Warmed up by the updates that were made: a skipped step averages nothing and counts for nothing."""
    run = Run(train={"ema_decay": 0.3})
    average = run.snapshot()["params"]
    decays = [0.1, 2 / 11, 0.25, 0.3, 0.3]
    for number, decay in enumerate(decays):
        if number == 2:
            kept = run.snapshot()
            run.poison(np.nan)
            assert run.step(make_batch(99))["bad_steps"] == 1
            assert_equal(run.state["ema"], kept["ema"])
            run.state["params"] = jax.tree.map(jnp.asarray, kept["params"])
        run.step(make_batch(number))
        new = run.snapshot()["params"]
        average = jax.tree.map(lambda old, leaf, d=decay: d * old + (1 - d) * leaf, average, new)
    assert_equal(run.state["ema"], average, rtol=1e-5, atol=1e-6)
    assert "ema" not in Run().state


def test_a_short_run_is_not_averaged_with_its_start() -> None:
    """With 0.999 throughout, the average of 20 steps would be the start's loss to within a hundredth of the way."""
    run = Run(train={"ema_decay": 0.999})
    batch = make_batch()

    def loss(params: Any) -> float:
        arrays = jax.tree.map(jnp.asarray, batch)
        return float(loss_sums(params, arrays["inputs"], arrays["targets"], run.config.model)[0]) / (BATCH * CONTEXT)

    start = loss(run.state["params"])
    for _ in range(20):
        run.step(batch)
    end, averaged = loss(run.state["params"]), loss(run.state["ema"])
    assert start - end > 0.5
    assert start - averaged > 0.8 * (start - end)


def test_an_average_of_before_the_warm_up_is_gone_on_with() -> None:
    """Its state has the same arrays; where it has not forgotten its start yet, it does so now."""
    run = Run(train={"ema_decay": 0.999})
    run.state["step"] = jnp.int32(300)
    start = run.snapshot()["ema"]
    run.step(make_batch())
    new = run.snapshot()["params"]
    wanted = jax.tree.map(lambda old, leaf: (301 * old + 9 * leaf) / 310, start, new)
    assert_equal(run.state["ema"], wanted, rtol=1e-5, atol=1e-6)


def test_dropout_differs_by_step_and_by_seed() -> None:
    def losses(seed: int) -> list[float]:
        values = make_config(model={"dropout": 0.5}, optimizer={"learning_rate": 1e-12}).model_dump()
        config = config_from_dict(values | {"seed": seed}, "test")
        mesh, optimizer = make_mesh(config.mesh), make_optimizer(config.optimizer, STEPS)
        state = init_state(make_config(), optimizer, mesh, jnp.dtype(jnp.float32))
        step = make_train_step(config, optimizer, STEPS, mesh, jnp.dtype(jnp.float32))
        found = []
        for _ in range(3):
            state, metrics = step(state, place_batch(make_batch(), mesh, 1))
            found.append(float(metrics["loss"]))
        return found

    first = losses(0)
    assert len(set(first)) == 3
    assert first == losses(0)
    assert first != losses(1)


def test_rows_of_a_batch_are_spread_over_micro_batches() -> None:
    """Row r goes to micro-batch r % accumulation."""
    rows = np.arange(8, dtype=np.int32)[:, None] * np.ones((1, CONTEXT), np.int32)
    placed = place_batch({"inputs": rows, "targets": rows}, make_mesh(make_config().mesh), 4)
    np.testing.assert_array_equal(placed["inputs"][:, :, 0], [[0, 4], [1, 5], [2, 6], [3, 7]])


@pytest.mark.parametrize("schedule", ["rate", "constant", "rising"])
@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_weight_decay_follows_its_schedule(name: str, schedule: str) -> None:
    """A run with decay beside one without, from the same weights: what is missing after a step is what was taken."""
    keys = {
        "name": name, "learning_rate": 0.01, "muon_learning_rate": 0.02, "schedule": "linear", "clip_norm": 0.0,
        "min_learning_rate_ratio": 0.0, "weight_decay_schedule": schedule,
    }  # fmt: skip
    with_decay, without = (Run(optimizer=keys | {"weight_decay": decay}) for decay in (0.5, 0.0))
    for step in (0, 5, STEPS - 1):
        without.state = {**without.state, "step": jnp.int32(step)}
        # The rate's count is the optimizer's own.
        without.state["opt_state"] = jax.tree.map(
            lambda leaf, count=step: jnp.int32(count) if leaf.dtype == jnp.int32 else leaf,
            without.state["opt_state"],
        )
        with_decay.state = jax.tree.map(jnp.array, without.state)
        before = without.snapshot()["params"]
        with_decay.step(make_batch())
        without.step(make_batch())
        rate = 1 - step / STEPS
        share = {"rate": rate, "constant": 1.0, "rising": rate * step / STEPS}[schedule]
        taken = jax.tree.map(
            lambda a, b: np.asarray(a) - np.asarray(b), without.state["params"], with_decay.state["params"]
        )
        up, table = before["layers"]["mlp"]["up"]["kernel"], before["embed"]["tokens"]
        peak = 0.02 if name == "muon" else 0.01
        np.testing.assert_allclose(taken["layers"]["mlp"]["up"]["kernel"], 0.5 * peak * share * up, atol=2e-7)
        np.testing.assert_allclose(taken["embed"]["tokens"], 0.5 * 0.01 * share * table, atol=2e-7)
        assert not np.any(taken["final_norm"]["scale"])


def test_a_rising_decay_needs_steps() -> None:
    keys = {"schedule": "linear", "weight_decay_schedule": "rising"}
    with pytest.raises(JslmError, match=r"'rising' goes by train\.steps, which train\.minutes leaves open; use 'rate'"):
        make_config(optimizer=keys, train={"minutes": 1.0})
