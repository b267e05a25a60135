"""One model through everything that was asked for: its record in the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jslm.console import format_seconds
from jslm.errors import JslmError
from jslm.evaluate.answers import answer_quality
from jslm.evaluate.baseline import Baseline, split_baseline, text_baseline
from jslm.evaluate.choices import answer_questions
from jslm.evaluate.plan import Plan
from jslm.evaluate.rewriting import rewrite_quality
from jslm.evaluate.samples import sample_quality
from jslm.evaluate.stories import check_samples
from jslm.evaluate.suite import run_suite
from jslm.evaluate.text_loss import TextLoss, read_text, split_loss, text_loss
from jslm.infer import LanguageModel, load
from jslm.model import count_parameters
from jslm.runs.folder import RunFolder
from jslm.runs.model import open_checkpoint
from jslm.runs.remote import opened
from jslm.storage import data_folder
from jslm.tokens import TokenFile, open_tokens, read_meta
from jslm.tokens.token_file import META_NAME

__all__ = ["Plan", "evaluate_run"]

_log = logging.getLogger("jslm")


def evaluate_run(
    path: str | Path, plan: Plan, *, checkpoint: str = "best", overrides: Sequence[str] = (), name: str = ""
) -> dict[str, Any]:
    """The figures of one model (a run folder, or a model in any format of jslm.formats) as JSON-able values.

    Raises JslmError where the model, its data or a file of the plan can't be read.
    """
    source = str(path)
    path, checkpoint = opened(path, checkpoint)
    step = _step(path, checkpoint)
    model = load(path, checkpoint=str(step.get("step", checkpoint)), overrides=overrides)
    model.sliding_name = ""
    config, tokenizer = model.config, model.tokenizer
    record: dict[str, Any] = {
        "name": name or source,
        "source": source,
        **step,
        "parameters": count_parameters(config.model)["total"],
        "context_length": config.model.context_length,
        "tokenizer": {
            "kind": tokenizer.kind,
            "vocab_size": tokenizer.vocab_size,
            "fingerprint": tokenizer.fingerprint,
        },
        "dtype": model.programs.kind,
        "losses": {},
        "baselines": {},
        "tasks": {},
    }
    named = [plan.data] if plan.data else [part.dir for part in config.data.mixture] or [str(config.data_dir)]
    # What is at an address is fetched where it is read.
    folders = [str(data_folder(name)) for name in named] if plan.split or plan.texts or plan.samples else named
    if plan.split is not None:
        if config.model.conditions:
            names = ", ".join(condition.name for condition in config.model.conditions)
            _log.warning("%s: scored without labels of its conditions (%s), which training's val/loss has", path, names)
        for folder in folders:
            what = f"{plan.split} split" + (f" of {folder}" if len(folders) > 1 else "")
            with _Timed(record["name"], f"loss of the {what}") as timed:
                loss = split_loss(model, folder, plan.split, stride=plan.stride, batch_tokens=plan.batch_tokens)
            record["losses"][what] = _timed_loss(loss, timed)
            if plan.split == "val":
                # Of the training text itself, counting knows it by heart.
                _add_baseline(record, what, loss, split_baseline([folder], tokenizer))
    for text in plan.texts:
        with _Timed(record["name"], f"loss of {text}") as timed:
            documents = read_text(text, config.data)
            loss = text_loss(model, documents, stride=plan.stride, batch_tokens=plan.batch_tokens, where=str(text))
        record["losses"][str(text)] = _timed_loss(loss, timed)
        if _has_training_text(path, plan, folders, model):
            _add_baseline(
                record, str(text), loss, text_baseline(folders, tokenizer, list(map(model.as_read, documents)))
            )
    for task, questions in plan.tasks.items():
        with _Timed(record["name"], f"{task}: {len(questions):,} items"):
            record["tasks"][task] = answer_questions(model, questions, batch_tokens=plan.batch_tokens)
    if plan.suite:
        with _Timed(record["name"], f"{', '.join(task.task for task in plan.suite)} by lm-evaluation-harness"):
            record["suite"] = run_suite(model, plan.suite, batch_tokens=plan.batch_tokens)
    for file, pairs in plan.pairs.items():
        with _Timed(record["name"], f"rewriting: {len(pairs):,} pairs of {file}"):
            record.setdefault("rewriting", {})[file] = rewrite_quality(model, pairs)
    for file, items in plan.items.items():
        with _Timed(record["name"], f"rewriting: {len(items):,} sentences of {file}"):
            record.setdefault("answers", {})[file] = answer_quality(model, items)
    if plan.samples:
        with _Timed(record["name"], f"{plan.samples:,} samples"):
            if len(folders) > 1:
                _log.warning("%s: copies are looked for in %s alone, the first corpus (--data DIR)", path, folders[0])
            training, held_out = (_open(folders[0], split, model) for split in ("train", "val"))
            record["samples"] = sample_quality(
                model, plan.samples, seed=plan.seed, training=training, held_out=held_out
            )
    if plan.stories:
        with _Timed(record["name"], f"{plan.stories:,} stories"):
            record["stories"] = check_samples(model, plan.stories, plan.seed)
    return record


def _step(path: str | Path, checkpoint: str) -> dict[str, Any]:
    folder = RunFolder(path)
    if not folder.config.is_file():
        return {}
    return {"step": open_checkpoint(folder, checkpoint)[1]}


def _add_baseline(record: dict[str, Any], what: str, loss: TextLoss, baseline: Baseline | None) -> None:
    if baseline is not None:
        record["baselines"][what] = baseline.record()
        _log.info("%s: %s", record["name"], baseline.said(loss.bits_per_byte))


def _has_training_text(path: str | Path, plan: Plan, folders: Sequence[str], model: LanguageModel) -> bool:
    """Whether the folders are prepared data that the model was trained on, as far as its tokenizer can tell."""
    if not plan.data and not RunFolder(path).config.is_file():
        return False
    metas = [read_meta(folder) for folder in folders if Path(folder, META_NAME).is_file()]
    return len(metas) == len(folders) and all(
        meta["tokenizer"]["fingerprint"] == model.tokenizer.fingerprint for meta in metas
    )


def _open(folder: str | Path, split: str, model: LanguageModel) -> TokenFile | None:
    """The split's tokens; None, which is said, where the training data is not here or is not this model's."""
    if not Path(folder, META_NAME).is_file():
        if split == "train":
            _log.warning("%s: no prepared data here: copies from it are not looked for (--data DIR)", folder)
        return None
    file = open_tokens(folder, "val" if split == "val" else "train")
    if file.meta["tokenizer"]["fingerprint"] != model.tokenizer.fingerprint:
        raise JslmError(
            f"{folder}: made with another tokenizer than the model's; give the data it was trained on with --data DIR"
        )
    return file


def _timed_loss(loss: TextLoss, timed: _Timed) -> dict[str, Any]:
    return loss.record() | {"seconds": round(timed.seconds, 3)}


class _Timed:
    """Says on stderr what is being done, and how long it took."""

    def __init__(self, name: str, what: str) -> None:
        self._what = f"{name}: {what}"
        self.seconds = 0.0

    def __enter__(self) -> _Timed:
        self._started = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self.seconds = time.perf_counter() - self._started
        if kind is None:
            _log.info("%s, %s", self._what, format_seconds(self.seconds))
