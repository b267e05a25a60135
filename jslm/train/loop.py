"""The training loop: step, log, validate, sample, save, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jslm.config import Config, load_config
from jslm.console import say
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.formats import with_start
from jslm.learn.objective import Result
from jslm.learn.state import model_params
from jslm.learn.step import make_train_step
from jslm.model import count_parameters, flops_per_token
from jslm.parallel import by_first, eval_batch_size, peak_flops, replicated, start_jax
from jslm.runs.folder import RunFolder
from jslm.runs.mirror import Mirror, mirrored
from jslm.tokens.loader import count_examples, eval_batches, packing_of
from jslm.train.advice import Amounts, advice
from jslm.train.budget import Budget
from jslm.train.callbacks import Callbacks, OnStep, OnValidation
from jslm.train.checks import check_before_data, check_not_imported, check_same_model, check_shared, process_rows
from jslm.train.finish import counting_baseline, finish_run, run_info, validation_values, write_samples
from jslm.train.memory import explained_out_of_memory, resolve_micro_batch
from jslm.train.metrics import MetricsLog, Progress
from jslm.train.profiler import Profiler
from jslm.train.report import drop_samples_after, summary_lines
from jslm.train.setup import (
    Setup,
    build,
    checkpoint_metadata,
    place_batch,
    prepare_data,
    resolve_config,
)
from jslm.train.stopping import StopFlag, finish_uploads, stop_signals
from jslm.train.trackers.workers import Trackers

_log = logging.getLogger("jslm")
# The first steps of a run against the clock, at each of which its end is told anew.
_TIMED_STEPS = 5


@dataclasses.dataclass(frozen=True)
class TrainOutcome:
    """How a run ended, at which step, with which exit status.

    "finished", "early_stopped" (by `train.early_stopping`), "stopped" (by a callback) or "interrupted" (by a signal).
    """

    status: str
    step: int
    exit_status: int
    run_dir: str


def train(
    config: Config | str | Path,
    *,
    on_step: OnStep | None = None,
    on_validation: OnValidation | None = None,
    started: float | None = None,
) -> TrainOutcome:
    """Trains the run that `config` (or its file, or a preset's name) tells, or goes on with it from its checkpoint.

    `on_step` gets a `StepRecord` for each step, when the next one is on its way already, `on_validation` a
    `ValidationRecord`. They only look: what they get is numbers. Where one returns "stop", the run saves, writes its
    report and returns with status "stopped"; the same call goes on from there. What one raises is raised here, once a
    checkpoint is saved. Of several processes each calls its own; one is enough to stop all, at the next `log_every`.

    SIGTERM and Ctrl-C save a checkpoint and return with status "interrupted". Raises JslmError for everything that the
    user can mend; nothing that was saved before is lost by it. `train.minutes` begin at `started`, in seconds of
    `time.monotonic()`, or with this call.
    """
    if not isinstance(config, Config):
        config = load_config(config)
    callbacks = Callbacks(on_step, on_validation)
    started = time.monotonic() if started is None else started
    start_jax(training=True)
    folder = RunFolder(config.run_dir)
    keep = config.checkpoint.keep
    with contextlib.ExitStack() as stack:
        mirror = by_first(lambda: _taken(stack, folder, keep), f"run_dir = {folder.name}")
        if folder.address:
            check_shared(folder)
        check_not_imported(folder)
        config = with_start(config)
        check_before_data(config, folder)
        data = prepare_data(config)
        by_epochs = not config.train.steps and not config.train.minutes
        config = resolve_micro_batch(resolve_config(config, data), folder)
        check_same_model(config, folder, data.tokenizer.fingerprint, by_epochs=by_epochs)
        with explained_out_of_memory(config):
            setup = build(config, data, folder, by_epochs=by_epochs, started=started)
        config = setup.config
        if jax.process_index() == 0:
            data.tokenizer.save(folder.tokenizer)
            if setup.chat_template:
                write_text(folder.chat_template, setup.chat_template)
            folder.write_config(config)
        with explained_out_of_memory(config), jax.set_mesh(setup.mesh), stop_signals() as stop:
            outcome = _Loop(setup, folder, stop, callbacks, mirror).run()
            # A second SIGTERM must not end the uploads either.
            seconds = config.checkpoint.upload_seconds
            by_first(lambda: finish_uploads(mirror, outcome.status, folder, seconds), f"run_dir = {folder.name}")
            return outcome


def _taken(stack: contextlib.ExitStack, folder: RunFolder, keep: int) -> Mirror | None:
    """Makes the run's folder and, until `stack` ends, holds it against others and mirrors it to its address."""
    folder.create()
    stack.enter_context(folder.locked())
    return stack.enter_context(mirrored(folder.path, folder.address, keep))


class _Loop:
    def __init__(
        self, setup: Setup, folder: RunFolder, stop: StopFlag, callbacks: Callbacks, mirror: Mirror | None
    ) -> None:
        config = setup.config
        self.setup, self.folder, self.stop = setup, folder, stop
        self.callbacks, self.mirror = callbacks, mirror
        self.first = jax.process_index() == 0
        self.info = run_info(setup)
        self.accumulation = config.train.batch_size // config.train.micro_rows
        self.step_fn = make_train_step(config, setup.optimizer, setup.steps, setup.mesh, setup.dtype, setup.course)
        self.validate_fn = setup.objective.make_validation(setup.data.tokenizer.token_bytes())
        self.peak = peak_flops(setup.dtype.name)
        self.bits_per_nat = 1 / max(1e-9, setup.bytes_per_token) / math.log(2)
        self.last_validation: Result | None = None
        # Metrics of the steps since the last line of metrics, and when that was (perf_counter, less what pauses took).
        self.window: list[dict[str, float]] = []
        self.mark = 0.0

    def run(self) -> TrainOutcome:
        setup, config = self.setup, self.setup.config
        position = setup.position
        resumed = position.step > 0
        ended = self.folder.read_info()
        at_end = ended.get("result", {}).get("step") == position.step
        if at_end and (self._was_last(ended) or self._is_stale()):
            self._say(f"{self.folder.name}: {ended['status']} already at step {position.step:,}; nothing to do")
            return TrainOutcome(ended["status"], position.step, 0, self.folder.name)
        if self.first:
            for line in summary_lines(self.info):
                self._say(line)
            for line in () if resumed else advice(config, self._amounts()):
                _log.warning("%s", line)
            if resumed:
                self._say(f"resuming at step {position.step:,}")
            drop_samples_after(self.folder.samples, position.step if resumed else -1)
            if setup.budget is not None and "bits_per_byte" in setup.objective.told_by_loss(1.0, 1.0):
                # Now, so that the clock counts it, and not when time is up.
                counting_baseline(setup)
        status = "finished"
        with contextlib.ExitStack() as stack:
            self.progress = stack.enter_context(Progress(setup.steps, budget=setup.budget)) if self.first else None
            self.log = (
                stack.enter_context(
                    MetricsLog(
                        self.folder.path,
                        resume_step=position.step if resumed else None,
                        trackers=self._trackers(position.step if resumed else None),
                    )
                )
                if self.first
                else None
            )
            try:
                status = self._steps()
            finally:
                setup.loader.close()
                setup.store.wait()
            if self.callbacks.error is not None:
                self._say(f"a callback failed at step {position.step:,}; saved. The same call goes on from here.")
                raise self.callbacks.error
            if self.progress is not None:
                # What follows is no step: the last state stands above it.
                self.progress.close()
            if self.log is not None:
                self.log.status = status
            if status != "interrupted":
                finish_run(setup, self.folder, self.info, status, self._final_result(), self.log, self.progress)
        if status == "interrupted":
            self._say(
                f"stopped by {signal.Signals(self.stop.signal or signal.SIGINT).name} at step {position.step:,}; "
                "saved. The same command goes on from here."
            )
        codes = {"interrupted": 128 + (self.stop.signal or signal.SIGINT)}
        return TrainOutcome(status, position.step, codes.get(status, 0), self.folder.name)

    def _trackers(self, resume_step: int | None) -> Trackers:
        config = self.setup.config
        return Trackers(
            config.train.tracker_names, self.folder.path, config.model_dump(mode="json"), resume_step=resume_step
        )

    def _amounts(self) -> Amounts:
        setup, config = self.setup, self.setup.config
        loader, meta = setup.loader, setup.data.meta
        windows = count_examples(setup.val_tokens, config.model.context_length, packing_of(config))
        a_pass = loader.examples_per_epoch * loader.tokens.targets
        return Amounts(
            steps=setup.steps,
            parameters=count_parameters(config.model)["total"],
            # Where windows overlap, a pass has tokens more than once.
            training_tokens=round(min(a_pass, meta["train"]["tokens"])),
            seen_tokens=loader.epoch_of(setup.steps) * a_pass,
            validation_tokens=meta["val"]["tokens"],
            validation_windows=windows,
        )

    def _steps(self) -> str:
        setup, position = self.setup, self.setup.position
        pending: tuple[int, dict[str, jax.Array]] | None = None
        started = self.mark = time.perf_counter()
        seconds_before = position.seconds
        saved_at = position.step
        began_at = position.step
        profiler = Profiler(self.folder.path / "profile", position.step, setup.steps or position.step + 10**9)
        with profiler if setup.config.train.profile and self.first else contextlib.nullcontext():
            while position.step < self._end:
                profiler.before(position.step)
                batch = place_batch(next(setup.loader), setup.mesh, self.accumulation)
                setup.state, metrics = self.step_fn(setup.state, batch)
                position.step += 1
                # The step before this one: the device already has the next to work on while the host reads.
                self._read(pending)
                pending = (position.step, metrics)
                if setup.budget is not None and (
                    position.step - began_at <= _TIMED_STEPS or _every(setup.config.train.log_every, position.step)
                ):
                    self._follow(setup.budget)
                last = position.step >= self._end
                validate = last or _every(setup.config.train.eval_every, position.step)
                stopping = self._agreed_end()
                save = validate or bool(stopping) or _every(setup.config.checkpoint.every, position.step)
                sample = _every(setup.config.sample.every, position.step) if setup.config.sample.every else validate
                if not (save or sample):
                    continue
                # A checkpoint's step must be in the metrics before it: a run that goes on from there won't repeat it.
                self._read(pending)
                pending = None
                stopping = stopping or self._asked_end()
                if self.window and (validate or stopping):
                    self._report(position.step)
                pause = time.perf_counter()
                position.seconds = seconds_before + pause - started
                val_loss = self._validate() if validate else None
                if sample:
                    write_samples(setup, self.folder, self.log)
                stopping = stopping or self._asked_end()
                if save or stopping:
                    setup.store.save(position.step, setup.state, checkpoint_metadata(setup, val_loss))
                    saved_at = position.step
                self.mark += time.perf_counter() - pause
                if stopping == "interrupted" or (stopping and not last):
                    return stopping
                if validate and not last and self._is_stale():
                    self._say(
                        f"early stop at step {position.step:,}: no better validation in "
                        f"{setup.config.train.early_stopping} rounds; best {position.best_loss:.4f} at step "
                        f"{position.best_step:,}"
                    )
                    return "early_stopped"
        assert saved_at == position.step
        return "finished"

    @property
    def _end(self) -> float:
        """The step at which the run ends; that of a run against the clock moves."""
        return self.setup.steps if self.setup.budget is None else self.setup.budget.end

    def _was_last(self, ended: dict[str, Any]) -> bool:
        """Whether the run has come to the end that its config gives it."""
        train = self.setup.config.train
        if self.setup.budget is None:
            return self.setup.position.step >= self.setup.steps
        return bool(ended.get("status") == "finished" and ended.get("minutes") == train.minutes)

    def _follow(self, budget: Budget) -> None:
        """Tells the budget the time, and the state what follows from it."""
        if budget.note(self.setup.position.step):
            self.setup.state["schedule"] = jax.device_put(budget.schedule, replicated(self.setup.mesh))

    def _read(self, entry: tuple[int, dict[str, jax.Array]] | None) -> None:
        if entry is None:
            return
        step, values = entry
        metrics = {name: float(value) for name, value in jax.device_get(values).items()}
        self.setup.position.tokens += int(metrics["tokens"])
        self.window.append(metrics)
        if _every(self.setup.config.train.log_every, step) or self._has_failed(metrics):
            self._report(step)
        if self.callbacks.on_step is not None:
            self.callbacks.step(step, metrics, self.setup.objective.figures[1:], self.setup.position.tokens)
        if self._has_failed(metrics):
            limit = self.setup.config.train.max_bad_steps
            raise JslmError(
                f"train.max_bad_steps = {limit}: the loss or gradient was not finite {limit} steps in a row, up to "
                f"step {step:,}; lower optimizer.learning_rate or optimizer.clip_norm, or set model.dtype = 'float32'. "
                "What was saved before is whole."
            )

    def _report(self, step: int) -> None:
        window, setup = self.window, self.setup
        now = time.perf_counter()
        seconds, self.mark, self.window = now - self.mark, now, []
        rate = sum(metrics["tokens"] for metrics in window) / seconds if seconds > 0 else math.nan
        # Padding and prompts are work too.
        place_rate = len(window) * setup.objective.step_places / seconds if seconds > 0 else math.nan
        losses = [metrics["loss"] for metrics in window if math.isfinite(metrics["loss"])]
        loss = float(np.mean(losses)) if losses else math.nan
        last = window[-1]
        means = setup.objective.told_by_loss(loss, self.bits_per_nat)
        for name in setup.objective.figures[1:]:
            means[name] = float(np.mean([metrics[name] for metrics in window]))
        self.info["result"]["tokens_per_s"] = rate
        flops = flops_per_token(setup.config.model, setup.loader.context_at(step - 1))
        values: dict[str, Any] = {
            "train/loss": loss,
            **{f"train/{name}": mean for name, mean in means.items()},
            "lr": last["lr"],
            "grad_norm": last["grad_norm"],
            "param_norm": last["param_norm"],
            "tokens": setup.position.tokens,
            "padding": setup.loader.tokens.padding,
            "epoch": setup.loader.epoch_of(step),
            "tokens_per_s": rate,
            "mfu": place_rate * flops / (self.peak * setup.mesh.size) if self.peak else None,
            "bad_steps": last["bad_steps"],
        }
        if "loss_scale" in setup.state:
            values["loss_scale"] = last["loss_scale"]
        self._write(step, values)

    def _validate(self) -> float | None:
        position = self.setup.position
        result = self._evaluate(whole=False)
        self.last_validation = result
        if result is None:
            return None
        self._write(position.step, validation_values(result))
        if result.loss < position.best_loss:
            position.best_loss, position.best_step, position.evals_since_best = result.loss, position.step, 0
        else:
            position.evals_since_best += 1
        self.callbacks.validation(position.step, result, position.best_step, position.best_loss)
        return result.loss

    def _final_result(self) -> Result | None:
        """The loss over the whole split; the last validation, where that took it whole."""
        config = self.setup.config
        examples = count_examples(self.setup.val_tokens, config.model.context_length, packing_of(config))
        limit = config.train.eval_batches * eval_batch_size(config)
        if self.last_validation is not None and (limit == 0 or examples <= limit):
            return self.last_validation
        return self._evaluate(whole=True)

    def _evaluate(self, *, whole: bool) -> Result | None:
        setup, config = self.setup, self.setup.config
        if setup.data.meta["val"]["tokens"] < 2:
            return None
        rows = eval_batch_size(config)
        index, count = process_rows(setup.mesh, rows)
        limit = 0 if whole else config.train.eval_batches
        batches = eval_batches(
            setup.val_tokens,
            config.model.context_length,
            rows,
            limit,
            index,
            count,
            packing_of(config),
            config.model.conditions,
            setup.reference.log_probs["val"] if setup.reference else (),
        )
        return self.validate_fn(model_params(setup.config, setup.state), batches)

    def _has_failed(self, metrics: dict[str, float]) -> bool:
        # float16's loss scale starts too high on purpose and falls to what fits.
        return metrics["bad_in_a_row"] >= self.setup.config.train.max_bad_steps and metrics["loss_scale"] <= 1.0

    def _is_stale(self) -> bool:
        limit = self.setup.config.train.early_stopping
        return bool(limit) and self.setup.position.evals_since_best >= limit

    def _agreed_end(self) -> str:
        """Why all processes end here: "interrupted", "stopped", or "" to go on.

        Raises JslmError where another run has taken the folder over.
        """
        if jax.process_count() == 1:
            if self.mirror is not None:
                self.mirror.check()
            return "interrupted" if self.stop.signal is not None else self._asked_end()
        # All processes must stop at the same step, so they ask each other, now and then.
        if self.setup.position.step % self.setup.config.train.log_every:
            return ""
        # What they agreed on counts, not the flag: a signal may come while they ask, and then waits for the next time.
        lost = None if self.mirror is None else self.mirror.lost
        flags = np.array([self.stop.signal or 0, self.callbacks.end_run, lost is not None], np.int32)
        number, asked, is_lost = np.max(multihost_utils.process_allgather(flags), axis=0).tolist()
        if is_lost:
            raise lost or JslmError(f"run_dir = {self.folder.name}: the first process has lost it, and says why")
        if number:
            self.stop.signal = number
            return "interrupted"
        return "stopped" if asked else ""

    def _asked_end(self) -> str:
        """As `_agreed_end`, for what a callback of the only process has just asked for."""
        return "stopped" if self.callbacks.end_run and jax.process_count() == 1 else ""

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if self.log is not None and self.progress is not None:
            self.log.write(step, values)
            self.progress.update(step, values)

    def _say(self, text: str) -> None:
        if self.first:
            say(text)


def _every(interval: int, step: int) -> bool:
    """Whether `step` is a multiple of `interval`; an interval of 0 never comes."""
    return bool(interval) and step % interval == 0
