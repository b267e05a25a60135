"""Sweeps: what is tried, and that they go on where they were stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from jslm import JslmError
from jslm.runs.folder import RunFolder
from jslm.sweep import Trial, grid_trials, random_trials, run_sweep
from jslm.sweep.report import scatter, table
from jslm.sweep.runner import Result

CONFIG = """
[data]
source = "{folder}/text.txt"
split = "position"
[tokenizer]
kind = "char"
[model]
n_layers = 1
d_model = 16
n_heads = 2
context_length = 16
dtype = "float32"
[train]
steps = 4
batch_size = 4
eval_batches = 1
tensorboard = false
report = false
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "text.txt").write_text("the cat sat on a mat and the dog ran.\n" * 100, "utf-8")
    (tmp_path / "run.toml").write_text(CONFIG.format(folder=tmp_path), "utf-8")
    return tmp_path / "run.toml"


def test_a_grid_is_every_combination() -> None:
    trials = grid_trials(["optimizer.learning_rate=1e-3,3e-3", 'sample.prompts=["a,b"],[]', "model.n_layers=1"])
    assert [trial.overrides for trial in trials] == [
        (f"optimizer.learning_rate={rate}", f"sample.prompts={prompts}", "model.n_layers=1")
        for rate in ("1e-3", "3e-3")
        for prompts in ('["a,b"]', "[]")
    ]
    assert [trial.name for trial in trials] == [f"trial-000{n}" for n in range(1, 5)]


def test_draws_are_seeded_and_in_range() -> None:
    axes = ["a.b=log:1e-4:1e-2", "c.d=int:2:4", "e.f=uniform:-1:1", "g.h=x,y"]
    trials = random_trials(axes, 200, seed=1)
    assert trials[:20] == random_trials(axes, 20, seed=1) != random_trials(axes, 20, seed=2)
    drawn = [dict(item.split("=") for item in trial.overrides) for trial in trials]
    rates = [float(one["a.b"]) for one in drawn]
    assert 1e-4 <= min(rates) < 2e-4
    assert 5e-3 < max(rates) <= 1e-2
    # Half of a log-uniform draw lies under the geometric mean.
    assert 70 < sum(rate < 1e-3 for rate in rates) < 130
    assert {one["c.d"] for one in drawn} == {"2", "3", "4"}
    assert {one["g.h"] for one in drawn} == {"x", "y"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grid_trials(["learning_rate"]), "expected section.key=VALUES"),
        (lambda: grid_trials(["a.b=1", "a.b=2"]), "a.b is swept twice"),
        (lambda: random_trials(["a.b=log:0:1"], 3), "both above 0"),
        (lambda: random_trials(["a.b=int:5:2"], 3), "LOW under HIGH"),
        (lambda: random_trials(["a.b=uniform:x:2"], 3), "not two numbers"),
        (lambda: random_trials(["a.b=1,2"], 0), "--trials = 0"),
    ],
)
def test_bad_axes_are_one_line(call: Any, message: str) -> None:
    with pytest.raises(JslmError, match=message):
        call()


def sweep(config: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jslm.sweep", "--config", str(config), "--dir", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was(config: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    grid = ["--grid", "optimizer.learning_rate=1e-3,1e-2", "--grid", "seed=0,1"]
    done = sweep(config, folder, *grid)
    assert done.returncode == 0, done.stderr
    lines = (folder / "sweep.md").read_text("utf-8").splitlines()
    assert lines[0].startswith("| trial | optimizer.learning_rate | seed | val/loss |")
    losses = [float(line.split("|")[4]) for line in lines[2:]]
    assert len(losses) == 4
    assert losses == sorted(losses)
    assert (folder / "data" / "meta.json").is_file()
    times = {path: path.stat().st_mtime_ns for path in folder.glob("trial-*/run.json")}
    assert len(times) == 4
    # One is lost, as by a kill before its end; the others stay.
    (folder / "trial-0002" / "run.json").unlink()
    again = sweep(config, folder, *grid)
    assert "3 of 4 trials are finished already" in again.stdout
    changed = [path.parent.name for path, time in times.items() if path.stat().st_mtime_ns != time]
    assert changed == ["trial-0002"]
    assert (folder / "sweep.md").read_text("utf-8").splitlines()[2:4] == lines[2:4]

    other = sweep(config, folder, "--grid", "seed=5,6")
    assert other.returncode == 2
    assert "holds a sweep of another config or of other values" in other.stderr


@pytest.mark.slow
def test_a_failing_trial_leaves_the_others(config: Path, tmp_path: Path) -> None:
    (tmp_path / "sweep" / "trial-0001").mkdir(parents=True)
    # In the way of its checkpoints.
    (tmp_path / "sweep" / "trial-0001" / "checkpoints").write_text("", "utf-8")
    results = run_sweep(config, tmp_path / "sweep", grid_trials(["seed=0,1"]), log=lambda line: None)
    assert results[0].error
    assert not results[0].figures
    assert results[1].figures["val/loss"] > 0
    assert not results[1].error
    assert RunFolder(tmp_path / "sweep" / "trial-0002").read_info()["status"] == "finished"
    assert results[0].error in (tmp_path / "sweep" / "sweep.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_cluster_does_the_same(config: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the package distributed (extra `dask`) is not installed")
    trials = grid_trials(["seed=0,1"])
    here = run_sweep(config, tmp_path / "here", trials, log=lambda line: None)
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None
    ) as cluster:
        address = cluster.scheduler_address
        there = run_sweep(config, tmp_path / "there", trials, executor=address, log=lambda line: None)
    assert [one.figures["val/loss"] for one in there] == [one.figures["val/loss"] for one in here]
    with pytest.raises(JslmError, match="no Dask scheduler answers there"):
        run_sweep(config, tmp_path / "other", trials, executor="tcp://127.0.0.1:9", log=lambda line: None)


def test_mistakes_come_before_any_training(config: Path, tmp_path: Path) -> None:
    for arguments, message in (
        (["--grid", "optimizer.learning_rat=1"], "not a known key"),
        (["--grid", "model.n_heads=2,3"], "does not divide"),
        ([], "expected --grid or --random"),
        (["--grid", "seed=1", "--trials", "3"], "--trials goes with --random"),
    ):
        done = sweep(config, tmp_path / "sweep", *arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


def test_the_table_and_the_plot() -> None:
    trials = grid_trials(["a.b=0.001,0.1,<b>"])
    results = [Result(trial, {"val/loss": loss}) for trial, loss in zip(trials, (2.0, 1.5, 3.0), strict=True)]
    header, rows = table([*results, Result(Trial("trial-0004", ("a.b=9",)), {}, "out of memory")], "val/loss")
    assert header[:3] == ["trial", "a.b", "val/loss"]
    assert [row[0] for row in rows] == ["trial-0002", "trial-0001", "trial-0003", "trial-0004"]
    assert rows[-1][2] == "out of memory"
    assert scatter(results, "a.b", "val/loss") == ""
    drawn = scatter(results[:2], "a.b", "val/loss")
    assert drawn.count("<circle") == 2
    assert "logarithmic" in drawn
    HTMLParser().feed(drawn)
    json.dumps(rows)
