"""The training loop: step, log, validate, sample, save, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jslm.config import Config
from jslm.data.loader import eval_batches
from jslm.errors import JslmError
from jslm.evaluate import LossResult, evaluate_loss, make_eval_step
from jslm.model import flops_per_token
from jslm.parallel import eval_batch_size, peak_flops, start_jax
from jslm.run_folder import RunFolder
from jslm.train.finish import finish_run, run_info, write_samples
from jslm.train.metrics import MetricsLog, Progress
from jslm.train.report import drop_samples_after, summary_lines
from jslm.train.setup import (
    Setup,
    build,
    check_same_model,
    checkpoint_metadata,
    place_batch,
    prepare_data,
    process_rows,
    resolve_config,
)
from jslm.train.step import make_train_step

_log = logging.getLogger("jslm")


@dataclasses.dataclass(frozen=True)
class TrainOutcome:
    """How a run ended: "finished", "early_stopped" or "interrupted", at which step, with which exit status."""

    status: str
    step: int
    exit_status: int
    run_dir: str


def train(config: Config) -> TrainOutcome:
    """Trains the run that `config` names, or goes on with it where its folder holds a checkpoint.

    SIGTERM and Ctrl-C save a checkpoint and return with status "interrupted". Raises JslmError for everything that the
    user can mend; nothing that was saved before is lost by it.
    """
    start_jax()
    folder = RunFolder(config.run_dir)
    if jax.process_index() == 0:
        folder.create()
    with folder.locked() if jax.process_index() == 0 else contextlib.nullcontext():
        data = prepare_data(config)
        config = resolve_config(config, data)
        check_same_model(config, folder, data.tokenizer.fingerprint)
        setup = build(config, data, folder)
        if jax.process_index() == 0:
            data.tokenizer.save(folder.tokenizer)
            folder.write_config(config)
        with jax.set_mesh(setup.mesh), _stop_signals() as stop:
            return _Loop(setup, folder, stop).run()


class _StopFlag:
    signal: int | None = None


class _Loop:
    def __init__(self, setup: Setup, folder: RunFolder, stop: _StopFlag) -> None:
        config = setup.config
        self.setup, self.folder, self.stop = setup, folder, stop
        self.first = jax.process_index() == 0
        self.info = run_info(setup)
        self.accumulation = config.train.batch_size // (config.train.micro_batch or config.train.batch_size)
        self.step_fn = make_train_step(config, setup.optimizer, setup.steps, setup.mesh, setup.dtype)
        self.eval_fn = make_eval_step(config, setup.mesh, setup.dtype, setup.data.tokenizer.token_bytes())
        flops = flops_per_token(config.model)
        peak = peak_flops(setup.dtype.name)
        self.mfu_per_rate = flops / (peak * setup.mesh.size) if peak else None
        train_meta = setup.data.meta["train"]
        self.bits_per_nat = train_meta["tokens"] / max(1, train_meta["bytes"]) / math.log(2)
        self.last_validation: LossResult | None = None

    def run(self) -> TrainOutcome:
        setup, config = self.setup, self.setup.config
        position = setup.position
        resumed = position.step > 0
        ended = self.folder.read_info()
        if ended.get("result", {}).get("step") == position.step and (position.step >= setup.steps or self._is_stale()):
            self._say(f"{self.folder.path}: {ended['status']} already at step {position.step:,}; nothing to do")
            return TrainOutcome(ended["status"], position.step, 0, str(self.folder.path))
        if self.first:
            for line in summary_lines(self.info):
                self._say(line)
            if resumed:
                self._say(f"resuming at step {position.step:,}")
            drop_samples_after(self.folder.samples, position.step if resumed else -1)
        status = "finished"
        with contextlib.ExitStack() as stack:
            self.progress = stack.enter_context(Progress(setup.steps)) if self.first else None
            self.log = (
                stack.enter_context(
                    MetricsLog(
                        self.folder.path,
                        tensorboard=config.train.tensorboard,
                        resume_step=position.step if resumed else None,
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
            if status != "interrupted":
                finish_run(setup, self.folder, self.info, status, self._final_result(), self.log, self.progress)
        if status == "interrupted":
            self._say(
                f"stopped by {signal.Signals(self.stop.signal or signal.SIGINT).name} at step {position.step:,}; "
                "saved. The same command goes on from here."
            )
        codes = {"interrupted": 128 + (self.stop.signal or signal.SIGINT)}
        return TrainOutcome(status, position.step, codes.get(status, 0), str(self.folder.path))

    def _steps(self) -> str:
        setup, config, position = self.setup, self.setup.config, self.setup.position
        pending: tuple[int, dict[str, jax.Array]] | None = None
        window: list[dict[str, float]] = []
        started = mark = time.perf_counter()
        seconds_before = position.seconds
        profile_from = position.step + 5
        saved_at = position.step

        def read(entry: tuple[int, dict[str, jax.Array]] | None) -> None:
            if entry is not None:
                metrics = {name: float(value) for name, value in jax.device_get(entry[1]).items()}
                self._check_finite(entry[0], metrics)
                window.append(metrics)

        while position.step < setup.steps:
            if config.train.profile and self.first and position.step == profile_from:
                jax.profiler.start_trace(str(self.folder.path / "profile"))
            batch = place_batch(next(setup.loader), setup.mesh, self.accumulation)
            setup.state, metrics = self.step_fn(setup.state, batch)
            position.step += 1
            # The step before this one: the device already has the next to work on while the host reads.
            read(pending)
            pending = (position.step, metrics)
            if config.train.profile and self.first and position.step == profile_from + 5:
                jax.block_until_ready(setup.state)
                jax.profiler.stop_trace()
            last = position.step == setup.steps
            validate = last or bool(config.train.eval_every and position.step % config.train.eval_every == 0)
            stopping = self._should_stop()
            if window and (position.step % config.train.log_every == 0 or validate or stopping):
                now = time.perf_counter()
                self._report(position.step, window, now - mark)
                window.clear()
                mark = now
            if not (validate or stopping or self._save_due()):
                continue
            pause = time.perf_counter()
            position.seconds = seconds_before + pause - started
            val_loss = self._validate() if validate else None
            if self._sample_due(validate):
                write_samples(setup, self.folder, self.log)
            if validate or stopping or self._save_due():
                setup.store.save(position.step, setup.state, checkpoint_metadata(setup, val_loss))
                saved_at = position.step
            mark += time.perf_counter() - pause
            if stopping:
                return "interrupted"
            if validate and not last and self._is_stale():
                self._say(
                    f"early stop at step {position.step:,}: no better validation in {config.train.early_stopping} "
                    f"rounds; best {position.best_loss:.4f} at step {position.best_step:,}"
                )
                return "early_stopped"
        read(pending)
        assert saved_at == position.step
        return "finished"

    def _report(self, step: int, window: list[dict[str, float]], seconds: float) -> None:
        tokens = sum(metrics["tokens"] for metrics in window)
        rate = tokens / seconds if seconds > 0 else math.nan
        losses = [metrics["loss"] for metrics in window if math.isfinite(metrics["loss"])]
        loss = float(np.mean(losses)) if losses else math.nan
        last = window[-1]
        self.info["result"]["tokens_per_s"] = rate
        values: dict[str, Any] = {
            "train/loss": loss,
            "train/bits_per_byte": loss * self.bits_per_nat,
            "lr": last["lr"],
            "grad_norm": last["grad_norm"],
            "param_norm": last["param_norm"],
            "tokens": step * self.setup.config.train.batch_size * self.setup.config.model.context_length,
            "epoch": self.setup.loader.epoch_of(self.setup.loader.step),
            "tokens_per_s": rate,
            "mfu": rate * self.mfu_per_rate if self.mfu_per_rate else None,
            "bad_steps": last["bad_steps"],
        }
        if "loss_scale" in self.setup.state:
            values["loss_scale"] = last["loss_scale"]
        self._write(step, values)

    def _validate(self) -> float | None:
        position = self.setup.position
        result = self._evaluate(whole=False)
        self.last_validation = result
        if result is None:
            return None
        values = {
            "val/loss": result.loss,
            "val/perplexity": result.perplexity,
            "val/bits_per_byte": result.bits_per_byte,
            "val/tokens": result.tokens,
        }
        self._write(position.step, values)
        if result.loss < position.best_loss:
            position.best_loss, position.best_step, position.evals_since_best = result.loss, position.step, 0
        else:
            position.evals_since_best += 1
        return result.loss

    def _final_result(self) -> LossResult | None:
        """The loss over the whole split; the last validation, where that took it whole."""
        windows = math.ceil((self.setup.data.meta["val"]["tokens"] - 1) / self.setup.config.model.context_length)
        limit = self.setup.config.train.eval_batches * eval_batch_size(self.setup.config)
        if self.last_validation is not None and (limit == 0 or windows <= limit):
            return self.last_validation
        return self._evaluate(whole=True)

    def _evaluate(self, *, whole: bool) -> LossResult | None:
        setup, config = self.setup, self.setup.config
        if setup.data.meta["val"]["tokens"] < 2:
            return None
        rows = eval_batch_size(config)
        index, count = process_rows(setup.mesh, rows)
        limit = 0 if whole else config.train.eval_batches
        batches = eval_batches(setup.val_tokens, config.model.context_length, rows, limit, index, count)
        return evaluate_loss(
            self.eval_fn, setup.state["ema" if "ema" in setup.state else "params"], batches, setup.mesh
        )

    def _check_finite(self, step: int, metrics: dict[str, float]) -> None:
        limit = self.setup.config.train.max_bad_steps
        # float16's loss scale starts too high on purpose and falls to what fits.
        if metrics["bad_in_a_row"] >= limit and metrics["loss_scale"] <= 1.0:
            raise JslmError(
                f"train.max_bad_steps = {limit}: the loss or gradient was not finite {limit} steps in a row, up to "
                f"step {step:,}; lower optimizer.learning_rate or optimizer.clip_norm, or set model.dtype = 'float32'. "
                "The last checkpoint is whole."
            )

    def _is_stale(self) -> bool:
        limit = self.setup.config.train.early_stopping
        return bool(limit) and self.setup.position.evals_since_best >= limit

    def _should_stop(self) -> bool:
        if jax.process_count() == 1:
            return self.stop.signal is not None
        # All processes must stop at the same step, so they ask each other, now and then.
        if self.setup.position.step % self.setup.config.train.log_every:
            return False
        flags = multihost_utils.process_allgather(np.int32(self.stop.signal or 0))
        if int(np.max(flags)):
            self.stop.signal = int(np.max(flags))
        return self.stop.signal is not None

    def _save_due(self) -> bool:
        every = self.setup.config.checkpoint.every
        return bool(every and self.setup.position.step % every == 0)

    def _sample_due(self, validated: bool) -> bool:
        every = self.setup.config.sample.every
        return validated if not every else self.setup.position.step % every == 0

    def _write(self, step: int, values: dict[str, Any]) -> None:
        if self.log is not None and self.progress is not None:
            self.log.write(step, values)
            self.progress.update(step, values)

    def _say(self, text: str) -> None:
        if self.first:
            print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def _stop_signals() -> Iterator[_StopFlag]:
    """Notes SIGTERM and Ctrl-C instead of dying; a second Ctrl-C interrupts at once."""
    flag = _StopFlag()

    def note(number: int, _frame: Any) -> None:
        if flag.signal is not None:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        flag.signal = number

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    except ValueError:
        # Not the main thread (a notebook's worker, a test): signals are not ours to handle.
        before = {}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
