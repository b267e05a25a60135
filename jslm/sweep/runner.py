"""Runs the trials of a sweep, each a training process of its own, and goes on where it was stopped."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jslm.config import Config, apply_overrides, config_to_toml, load_config, said_to_toml
from jslm.console import format_clock
from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.files import write_text
from jslm.runs.folder import RunFolder
from jslm.sweep.report import write_report
from jslm.sweep.space import Trial

_DONE = ("finished", "early_stopped")


@dataclass(frozen=True)
class Result:
    """What a trial came to: `figures` of its `run.json`, and what went wrong (empty where nothing did)."""

    trial: Trial
    figures: dict[str, Any]
    error: str = ""


def run_sweep(
    config_path: str | Path,
    folder: str | Path,
    trials: Sequence[Trial],
    *,
    overrides: Sequence[str] = (),
    metric: str = "val/loss",
    executor: str = "",
    log: Callable[[str], None] = print,
) -> list[Result]:
    """Trains every trial that is not finished in `folder`, and writes `sweep.json`, `sweep.md` and `sweep.html` there.

    Each trial is a run in `folder/NAME`, trained by a process of its own, so that one that fails, or takes all memory,
    leaves the others alone. They share prepared data in `folder/data` unless `data.dir` says otherwise or the sweep
    changes data or tokenizer. `executor`: the address of a Dask scheduler whose workers see the same folder; empty
    is one after the other, here. `metric` is the figure of `run.json` that the table is sorted by, least first.

    Raises JslmError for a bad config or override (before anything is trained), and where `folder` holds another sweep.
    """
    folder = Path(folder).absolute()
    configs = {trial: _trial_config(config_path, folder, trial, trials, overrides) for trial in trials}
    plan = {
        "config": config_to_toml(load_config(config_path, overrides)),
        "trials": {trial.name: list(trial.overrides) for trial in trials},
    }
    _keep_plan(folder, plan)
    waiting = [trial for trial in trials if _status(folder / trial.name) not in _DONE]
    if len(waiting) < len(trials):
        log(f"{folder}: {len(trials) - len(waiting)} of {len(trials)} trials are finished already")
    commands = []
    for trial in waiting:
        (folder / trial.name).mkdir(parents=True, exist_ok=True)
        path = folder / f"{trial.name}.toml"
        write_text(path, said_to_toml(configs[trial]))
        commands.append((trial.name, [sys.executable, "-m", "jslm.train", "--config", str(path)]))
    started, names = time.perf_counter(), {trial.name: trial for trial in trials}
    for done, (name, error) in enumerate(_run_all(commands, folder, executor), 1):
        (folder / name / "error.txt").unlink(missing_ok=True)
        if error:
            write_text(folder / name / "error.txt", error + "\n")
        result = read_result(folder, names[name], error)
        if not error and metric not in result.figures:
            raise JslmError(f"--metric {metric}: no such figure in run.json; there are {', '.join(result.figures)}")
        seconds = (time.perf_counter() - started) / done * (len(commands) - done)
        left = f" · {format_clock(seconds)} left" if done < len(commands) else ""
        shown = error or f"{metric} {_shown(result.figures.get(metric))}"
        log(f"{name} ({' '.join(names[name].overrides)}): {shown} · {done}/{len(commands)}{left}")
        write_report(folder, [read_result(folder, trial) for trial in trials], metric)
    results = [read_result(folder, trial) for trial in trials]
    write_report(folder, results, metric)
    return results


def read_result(folder: Path, trial: Trial, error: str = "") -> Result:
    """What is known of a trial by its folder."""
    info = RunFolder(folder / trial.name).read_info()
    figures = dict(info.get("result") or {}) if info.get("status") in _DONE else {}
    if not error and (path := folder / trial.name / "error.txt").is_file():
        error = path.read_text("utf-8").strip()
    return Result(trial, figures, error)


def _trial_config(
    config_path: str | Path, folder: Path, trial: Trial, trials: Sequence[Trial], overrides: Sequence[str]
) -> Config:
    base = load_config(config_path, overrides)
    config = apply_overrides(base, trial.overrides)
    values = [f"run_dir={json.dumps(str(folder / trial.name))}"]
    changes_data = any(item.startswith(("data.", "tokenizer.")) for other in trials for item in other.overrides)
    if not config.data.dir and not config.data.mixture and not changes_data:
        values.append(f"data.dir={json.dumps(str(folder / 'data'))}")
    return apply_overrides(config, values)


def _keep_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Writes the plan, or checks that it is the one that is there; more trials than before are welcome."""
    path = folder / "sweep.json"
    if path.is_file():
        try:
            before = json.loads(path.read_text("utf-8"))["plan"]
        except (ValueError, KeyError, TypeError):
            raise JslmError(
                f"{path}: damaged; delete it (finished trials stay), and run the same command again"
            ) from None
        same = {name: overrides for name, overrides in plan["trials"].items() if name in before["trials"]}
        if before["config"] != plan["config"] or same != before["trials"]:
            raise JslmError(
                f"{folder}: holds a sweep of another config or of other values; choose another --dir, or delete it"
            )
    write_text(path, json.dumps({"plan": plan}, indent=1) + "\n")


def _status(run_dir: Path) -> str:
    return str(RunFolder(run_dir).read_info().get("status", ""))


def _run_all(commands: Sequence[tuple[str, list[str]]], folder: Path, executor: str) -> Iterator[tuple[str, str]]:
    """(trial, error) as each ends. An interrupt ends the one that runs, which can be gone on with."""
    if not executor:
        for name, command in commands:
            yield name, run_trial(command, str(folder / name / "train.log"))
        return
    distributed = load_extra("distributed", "dask", f"--executor {executor}")
    try:
        client = distributed.Client(executor, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise JslmError(f"--executor {executor}: no Dask scheduler answers there ({type(error).__name__})") from None
    with client:
        futures = {
            client.submit(run_trial, command, str(folder / name / "train.log"), pure=False): name
            for name, command in commands
        }
        for future, outcome in distributed.as_completed(
            futures, loop=client.loop, with_results=True, raise_errors=False
        ):
            yield futures[future], outcome if isinstance(outcome, str) else f"the worker was lost: {outcome!r}"


def run_trial(command: list[str], log_path: str) -> str:
    """Runs one training process with its output in `log_path`; the reason of its failure, empty where it ended well."""
    with Path(log_path).open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            status = process.wait()
        except BaseException:
            # Ctrl-C reached the training too, which then saves a checkpoint: let it.
            process.terminate()
            process.wait()
            raise
    if status == 0:
        return ""
    lines = Path(log_path).read_text("utf-8", errors="replace").splitlines()
    told = next((line for line in reversed(lines) if "error:" in line), lines[-1] if lines else "")
    return told.partition("error: ")[2] or told or f"ended with status {status}"


def _shown(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, int | float) and math.isfinite(value) else "none"
