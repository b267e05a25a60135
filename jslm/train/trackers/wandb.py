"""Weights & Biases, by its own settings: `wandb login`, WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline."""

from __future__ import annotations

import html
import logging
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.train.trackers.tracker import TrackedRun

_PROJECT = "jslm"
_CONNECTING_SECONDS = 30.0
_log = logging.getLogger("jslm")


def open_tracker(run: TrackedRun) -> WeightsAndBiases:
    """A run of wandb, or the one that this run had before; its files are in `run_dir/wandb`.

    Without a connection the run is written there all the same, and a line says how to send it later. Raises JslmError
    where wandb is not installed or nobody is logged in.
    """
    wandb = load_extra("wandb", "wandb", "train.trackers = ['wandb']")
    # wandb takes the terminal and the whole of stdout otherwise.
    quiet: dict[str, Any] = {"silent": True, "console": "off", "init_timeout": _CONNECTING_SECONDS}
    wandb.setup(settings=wandb.Settings(silent=True))
    mode = os.environ.get("WANDB_MODE") or "online"
    refused = ""
    if mode == "online":
        try:
            if not wandb.login(prompt=False):
                raise JslmError("nobody is logged in to Weights & Biases; run wandb login, or set WANDB_MODE=offline")
        except wandb.errors.Error as error:
            refused, mode = str(error), "offline"
    # Kept before wandb hears of it: a kill in between must not leave two runs.
    run_id = run.known_id or uuid.uuid4().hex[:12]
    run.keep_id(run_id)

    def begin(mode: str) -> Any:
        return wandb.init(
            project=os.environ.get("WANDB_PROJECT") or _PROJECT,
            name=run.name,
            id=run_id,
            # Offline there is nobody to ask; `wandb sync` joins the parts by the id.
            resume=None if mode == "offline" else "allow",
            dir=str(run.folder),
            config=dict(run.config),
            mode=mode,
            settings=wandb.Settings(**quiet),
        )

    try:
        opened = begin(mode)
    except wandb.errors.CommError as error:
        refused = str(error)
        opened = begin("offline")
    if refused:
        _log.warning(
            "train.trackers: wandb: no connection (%s); the run is written to %s; send it later with wandb sync",
            " ".join(refused.split())[:150],
            Path(opened.dir).parent,
        )
    return WeightsAndBiases(wandb, opened)


class WeightsAndBiases:
    """Figures in the run's history, samples and the report as media."""

    def __init__(self, wandb: Any, run: Any) -> None:
        self._wandb, self._run = wandb, run
        self._step = 0

    def scalars(self, step: int, values: Mapping[str, float], walltime: float) -> None:
        """One row a step; rows that a killed run has sent already stand as they are."""
        self._log(step, dict(values))

    def text(self, step: int, tag: str, text: str) -> None:
        """A page a step, with line ends as they are."""
        self._log(step, {tag: self._wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)})

    def file(self, path: Path) -> None:
        """A page among the run's media, or one of its files."""
        if path.suffix == ".html":
            self._log(self._step, {path.stem: self._wandb.Html(path.read_text("utf-8"), inject=False)})
        else:
            self._run.save(str(path), base_path=str(path.parent), policy="now")

    def close(self, status: str) -> None:
        """Sends what is left; an interrupted run counts as not finished."""
        self._run.summary["status"] = status
        self._run.finish(exit_code=1 if status in ("failed", "interrupted") else 0)

    def _log(self, step: int, values: dict[str, Any]) -> None:
        self._step = step
        # wandb's history only grows: it would drop an earlier step with a warning of its own.
        if step >= self._run.step:
            self._run.log(values, step=step)
