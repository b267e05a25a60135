"""What to measure, checked and read from disk before any model is opened. Imports nothing heavy."""

from __future__ import annotations

import difflib
import glob
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jslm.errors import JslmError
from jslm.evaluate.questions import BENCHMARKS, Question, read_questions

if TYPE_CHECKING:
    from jslm.evaluate.answers import Item
    from jslm.evaluate.rewriting import RewritePair
    from jslm.evaluate.suite_data import SuiteTask

TASKS = {
    "blimp": "minimal pairs of sentences: which one is more probable",
    "lambada": "the last word of a passage",
    "hellaswag": "which of four endings follows",
    "arc": "which answer follows a question of natural science",
    "piqa": "which of two ways reaches a goal",
    "rewrite": "pairs of prompt and completion: exact match, edit distance, chrF",
    "rewriting": "sentences with all their answers: exact, acceptable, left alone, unfaithful, precision at coverage",
    "samples": "variety, repetition and longest copies of samples",
    "stories": "facts of sampled stories, for models of `stories:` corpora",
}
_GENERATING = ("samples", "stories")
_REWRITE_PATTERN = "rewrite*.jsonl"
_REWRITING_PATTERN = "*.tsv"


@dataclass(frozen=True)
class Plan:
    """What `evaluate_run` measures of each model.

    `split` of the prepared data in `data` (empty: the run's own), None for none. `tasks` has the questions of each
    benchmark, `pairs` and `items` those of each file for rewriting, `suite` what lm-evaluation-harness is to measure.
    `samples` and `stories` are how many to draw, 0 for none. `stride` in tokens, 0 for half a context.
    """

    split: str | None = "val"
    data: str = ""
    texts: tuple[Path, ...] = ()
    tasks: dict[str, tuple[Question, ...]] = field(default_factory=dict)
    pairs: dict[str, tuple[RewritePair, ...]] = field(default_factory=dict)
    items: dict[str, tuple[Item, ...]] = field(default_factory=dict)
    suite: tuple[SuiteTask, ...] = ()
    samples: int = 0
    stories: int = 0
    stride: int = 0
    batch_tokens: int = 8192
    seed: int = 0


class Tasks(NamedTuple):
    """Of `--tasks`: questions by benchmark, pairs and items of rewriting by file, tasks that draw samples."""

    questions: dict[str, tuple[Question, ...]]
    pairs: dict[str, tuple[RewritePair, ...]]
    items: dict[str, tuple[Item, ...]]
    drawing: frozenset[str]


def plan_tasks(asked: Sequence[str], folder: str | Path, *, limit: int = 0) -> Tasks:
    """What `--tasks` arguments ask for, read from disk.

    Each is a list with commas of `NAME`, whose files are looked for in `folder`, or `NAME=FILE`, where the file may be
    a folder or a pattern. `limit` keeps the first so many of each file. Raises JslmError for an unknown task, for one
    without files, for a bad file, and where what measures rewriting is not installed.
    """
    questions: dict[str, tuple[Question, ...]] = {}
    pairs: dict[str, tuple[RewritePair, ...]] = {}
    items: dict[str, tuple[Item, ...]] = {}
    drawing = set()
    for item in (part.strip() for argument in asked for part in argument.split(",")):
        name, _, place = item.partition("=")
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise JslmError(f"--tasks {name!r}: no such task{hint} There are {', '.join(TASKS)}")
        if name in _GENERATING:
            if place:
                raise JslmError(f"--tasks {item}: {name} reads no file; leave out ={place}")
            drawing.add(name)
            continue
        patterns = {"rewrite": _REWRITE_PATTERN, "rewriting": _REWRITING_PATTERN}
        pattern = patterns.get(name) or BENCHMARKS[name].pattern
        paths = _files(item, place or str(folder), pattern)
        if name == "rewrite":
            # Not above: it needs NumPy, which --help has no time for.
            from jslm.evaluate.rewriting import read_pairs, require_sacrebleu

            require_sacrebleu()
            pairs |= {str(path): tuple(read_pairs(path)[: limit or None]) for path in paths}
            continue
        if name == "rewriting":
            # Nor this one.
            from jslm.evaluate.answers import read_items

            items |= {str(path): tuple(read_items(path)[: limit or None]) for path in paths}
            continue
        read = [read_questions(name, path) for path in paths]
        questions[name] = questions.get(name, ()) + tuple(q for part in read for q in (part[:limit] if limit else part))
    return Tasks(questions, pairs, items, frozenset(drawing))


def _files(item: str, place: str, pattern: str) -> tuple[Path, ...]:
    path = Path(place)
    if path.is_dir():
        found = [file for file in path.glob(pattern) if file.is_file()]
    elif path.exists():
        found = [path]
    else:
        found = [Path(name) for name in glob.glob(place)]
    if not found:
        what = f"a file {pattern} in it" if path.is_dir() else "a file, a folder or a pattern"
        raise JslmError(
            f"--tasks {item}: {place}: expected {what}; nothing is downloaded: give --tasks NAME=FILE, or the folder "
            "with --task-dir"
        )
    return tuple(sorted(found))
