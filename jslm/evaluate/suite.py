"""`--suite`: benchmarks by lm-evaluation-harness's own tasks, zero-shot, on documents of this machine."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.evaluate.answers import wilson
from jslm.evaluate.scoring import BATCH_TOKENS
from jslm.evaluate.suite_data import SuiteTask
from jslm.extras import load_extra
from jslm.infer import LanguageModel

# Where the harness keeps the tasks that are used: reading all of its thousands takes half a minute.
_FOLDERS = ("arc", "blimp", "hellaswag", "lambada")
# Of a perplexity's standard error; accuracies have theirs in closed form. The harness's own 100,000 take minutes.
_BOOTSTRAPS = 1000
_Z = 1.959963984540054
_SHARES = ("acc", "acc_norm")


def check_suite(tasks: Sequence[SuiteTask]) -> None:
    """Raises JslmError where lm-evaluation-harness is not installed, or knows no task of a file's name."""
    manager = _manager()
    for task in tasks:
        for name in task.parts:
            if name not in manager.all_subtasks:
                paradigm = name.removeprefix("blimp_")
                raise JslmError(
                    f"{', '.join(task.files[:3])}: {paradigm!r} is no paradigm of BLiMP; expected files that are named "
                    "after theirs, such as blimp_passive_1.jsonl"
                )


def run_suite(
    model: LanguageModel, tasks: Sequence[SuiteTask], *, batch_tokens: int = BATCH_TOKENS
) -> dict[str, dict[str, Any]]:
    """The harness's figures of each benchmark, as records for the report.

    A record has `metrics` by the harness's names, each with `value`, `stderr` (the harness's) and its 95% interval
    `low` to `high`; `documents`, of how many (`official`), what is `missing`; `tokens` that were scored; of BLiMP
    `parts`, each paradigm's. Accuracies are shares. Raises JslmError as `check_suite`.
    """
    check_suite(tasks)
    # An extra: without it, the rest of the report still is.
    from jslm.evaluate.harness import HarnessModel

    evaluator = load_extra("lm_eval.evaluator", "harness", "--suite")
    found = {}
    for task in tasks:
        lm = HarnessModel(model, batch_tokens=batch_tokens)
        with _quiet():
            loaded = _manager().load([harness_task(task)])
            results = evaluator.evaluate(lm, loaded, bootstrap_iters=_BOOTSTRAPS, log_samples=False)
        found[task.task] = _record(task, results, lm.scored)
    return found


def harness_task(task: SuiteTask) -> dict[str, Any]:
    """The benchmark as a task or group for the harness's TaskManager: its own YAML, with documents of this machine."""
    # The one split that is here: the harness would look for examples in others.
    splits = {"training_split": None, "validation_split": None, "test_split": task.key}
    parts = [
        {"task": name, "custom_dataset": _Dataset(task.key, documents), "num_fewshot": 0, **splits}
        for name, documents in task.parts.items()
    ]
    if task.task != "blimp":
        return parts[0]
    # As the harness's own group of that name: each paradigm counts the same.
    mean = {"metric": "acc", "aggregation": "mean", "weight_by_size": False}
    return {"group": "blimp", "task": parts, "aggregate_metric_list": [mean]}


class _Dataset:
    """What the harness calls for a task's data, in place of fetching it."""

    def __init__(self, split: str, documents: Sequence[Mapping[str, Any]]) -> None:
        self._split, self._documents = split, list(documents)

    def __call__(self, **_: Any) -> dict[str, Any]:
        datasets = load_extra("datasets", "harness", "--suite")
        return {self._split: datasets.Dataset.from_list(self._documents)}

    def __deepcopy__(self, memo: Any) -> _Dataset:
        return self


def _manager() -> Any:
    tasks = load_extra("lm_eval.tasks", "harness", "--suite")
    folder = Path(tasks.__file__).parent
    return tasks.TaskManager(include_path=[str(folder / name) for name in _FOLDERS], include_defaults=False)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the harness's notes, and with what it prints on stderr: stdout is the report's."""
    log, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level = log.level
    log.setLevel(logging.ERROR)
    # Its bootstrap would fork this process, which has threads.
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _record(task: SuiteTask, results: Mapping[str, Any], scored: Mapping[str, int]) -> dict[str, Any]:
    by_name = {name.rpartition("::")[2]: figures for name, figures in results["results"].items()}
    whole = (results.get("groups") or {}).get(task.task) or by_name[task.task]
    record: dict[str, Any] = {
        "harness": metadata.version("lm_eval"),
        "metrics": _metrics(whole, task.count),
        "documents": task.count,
        "official": task.official,
        "split": task.split,
        "missing": task.missing,
        "tokens": sum(scored.values()),
        "sha256": task.sha256,
        "files": list(task.files),
    }
    if task.task == "blimp":
        record["parts"] = {
            name.removeprefix("blimp_"): {"documents": len(part), **_metrics(by_name[name], len(part))["acc"]}
            for name, part in sorted(task.parts.items())
        }
    return record


def _metrics(figures: Mapping[str, Any], documents: int) -> dict[str, dict[str, float]]:
    found = {}
    for key, value in figures.items():
        name, _, kept = key.partition(",")
        if kept != "none" or name.endswith("_stderr"):
            continue
        stderr = figures.get(f"{name}_stderr,none")
        # "N/A" of a single document.
        error = float(stderr) if isinstance(stderr, int | float) else math.nan
        low, high = interval(name, float(value), error, documents)
        found[name] = {"value": float(value), "stderr": error, "low": low, "high": high}
    return found


def interval(name: str, value: float, stderr: float, documents: int) -> tuple[float, float]:
    """The 95% interval of a figure of the harness from its standard error.

    A share's is symmetrical, and within 0 and 1; where all or none are right, so that the standard error is 0, and of a
    single document, which has none, Wilson's. A perplexity's is symmetrical in its logarithm.
    """
    if name not in _SHARES:
        half = _Z * stderr / value
        return value * math.exp(-half), value * math.exp(half)
    if not stderr > 0:
        return wilson(round(value * documents), documents)
    return max(0.0, value - _Z * stderr), min(1.0, value + _Z * stderr)
