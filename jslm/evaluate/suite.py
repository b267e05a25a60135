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
# For a perplexity's standard error; accuracies have theirs in closed form. The harness's own 100,000 take minutes.
_BOOTSTRAPS = 1000
_Z = 1.959963984540054


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

    A record has `metrics` by the harness's names, each with `value`, `stderr` (the harness's) and the 95% interval
    `low` to `high`; `documents`, of how many (`official`), what is `missing`; `tokens` that were scored; of BLiMP
    `parts`, each paradigm's. Accuracies are shares. Raises JslmError as `check_suite`.
    """
    check_suite(tasks)
    # An extra: without it, the rest of the report still is.
    from jslm.evaluate.harness import HarnessModel

    evaluator = load_extra("lm_eval.evaluator", "harness", "--suite")
    found = {}
    for task in tasks:
        lm = HarnessModel(model, batch_tokens=batch_tokens, stream=sys.stderr)
        with _quiet():
            results = evaluator.evaluate(lm, load_tasks(task), bootstrap_iters=_BOOTSTRAPS)
        found[task.task] = _record(task, results, lm.scored)
    return found


def load_tasks(task: SuiteTask) -> Any:
    """The benchmark as lm-evaluation-harness loads it: its own YAML, but for where documents come from.

    What `TaskManager.load` returns, for `lm_eval.evaluator.evaluate` with any of the harness's models.
    """
    manager = _manager()
    # The one split that is here: the harness would look for examples in others.
    splits = {"training_split": None, "validation_split": None, "test_split": task.key}
    parts = [
        {"task": name, "custom_dataset": _Dataset(task.key, documents), "num_fewshot": 0, **splits}
        for name, documents in task.parts.items()
    ]
    # Members of a group are laid over the harness's tasks of their names; what is asked for by itself is not.
    loaded: list[Any] = list(manager.load([{"group": "here", "task": parts}])["tasks"].values())
    if task.task in manager.all_groups:
        groups = load_extra("lm_eval.api.group", "harness", "--suite")
        group = groups.Group.from_config({**manager.task_index[task.task].cfg, "task": None})
        for part in loaded:
            group.add(part)
        loaded = [group]
    return manager.load(loaded)


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
    """Without the harness's notes and bars, of which there are two a task; what goes wrong is an exception there."""
    log, before = logging.getLogger("lm_eval"), os.environ.get("DISABLE_MULTIPROC")
    level = log.level
    log.setLevel(logging.ERROR)
    # Its bootstrap would fork this process, which has threads.
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with (
            Path(os.devnull).open("w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield
    finally:
        log.setLevel(level)
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _record(task: SuiteTask, results: Mapping[str, Any], scored: Mapping[str, int]) -> dict[str, Any]:
    parts = {
        name: _metrics(results["results"][name], len(documents), results["samples"][name])
        for name, documents in task.parts.items()
    }
    # Several of one name are the harness's group.
    whole = parts.get(task.task) or _metrics(results["groups"][task.task], task.count, ())
    record: dict[str, Any] = {
        "harness": metadata.version("lm_eval"),
        "metrics": whole,
        "documents": task.count,
        "official": task.official,
        "split": task.split,
        "missing": task.missing,
        "tokens": sum(scored.values()),
        "sha256": task.sha256,
        "files": list(task.files),
    }
    if task.task not in parts:
        record["parts"] = {
            name.removeprefix("blimp_"): {"documents": len(task.parts[name]), **figures["acc"]}
            for name, figures in sorted(parts.items())
        }
    return record


def _metrics(
    figures: Mapping[str, Any], documents: int, samples: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, float]]:
    """Each figure with its interval; `samples` has the harness's records of the documents, of a group none."""
    found = {}
    for key, value in figures.items():
        name, _, kept = key.partition(",")
        if kept != "none" or name.endswith("_stderr"):
            continue
        stderr = figures.get(f"{name}_stderr,none")
        # "N/A" of a single document.
        error = float(stderr) if isinstance(stderr, int | float) else math.nan
        if name == "perplexity":
            low, high = _perplexity_interval([sample[name] for sample in samples])
        else:
            low, high = _share_interval(float(value), error, documents)
        found[name] = {"value": float(value), "stderr": error, "low": low, "high": high}
    return found


def _share_interval(value: float, stderr: float, documents: int) -> tuple[float, float]:
    """The 95% interval of an accuracy, from its standard error; Wilson's where that is 0 or there is none."""
    if not stderr > 0:
        return wilson(round(value * documents), documents)
    return max(0.0, value - _Z * stderr), min(1.0, value + _Z * stderr)


def _perplexity_interval(logprobs: Sequence[float]) -> tuple[float, float]:
    """The 95% interval of exp(-mean), from the standard error of the mean.

    The perplexity's own standard error, which the harness draws by bootstrap, is that of its few hardest documents: it
    may be larger than the figure.
    """
    count, mean = len(logprobs), sum(logprobs) / len(logprobs)
    if count < 2:
        return math.nan, math.nan
    error = math.sqrt(sum((logprob - mean) ** 2 for logprob in logprobs) / (count - 1) / count)
    return math.exp(-mean - _Z * error), math.exp(-mean + _Z * error)
