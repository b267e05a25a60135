"""What a run says of itself: its description, samples, and the figures and report at its end."""

from __future__ import annotations

import datetime
import importlib.metadata
import logging
import platform
from typing import Any

import jax
from jax.experimental import multihost_utils

from jslm.evaluate import Baseline, check_samples, split_baseline
from jslm.infer import LanguageModel
from jslm.learn.objective import Result
from jslm.learn.state import model_params
from jslm.model import Params, count_parameters, flops_per_token
from jslm.parallel import describe_devices, describe_overlap, peak_flops
from jslm.runs.folder import RunFolder
from jslm.train.corpora import corpus_folders
from jslm.train.metrics import MetricsLog, Progress
from jslm.train.report import append_samples, write_report
from jslm.train.setup import Setup

_log = logging.getLogger("jslm")
_PACKAGES = ("jslm", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "tokenizers", "tiktoken")
# Share of peak throughput that small models typically reach, for the estimate before the first step is timed.
_TYPICAL_MFU = 0.25


def run_info(setup: Setup) -> dict[str, Any]:
    """`run.json` at the start of a run: environment, shapes, data, and an estimate of the time."""
    config, meta = setup.config, setup.data.meta
    peak = peak_flops(setup.dtype.name)
    left = setup.steps - setup.position.step
    expected = None
    if setup.budget is not None:
        expected = setup.budget.seconds_left
    elif peak:
        places = setup.objective.step_places
        flops = flops_per_token(config.model) * places * left
        expected = flops / (peak * setup.mesh.size * _TYPICAL_MFU)
    bits = meta["val"].get("bits")
    return {
        "started": _now(),
        "status": "running",
        "versions": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "devices": describe_devices(),
        "processes": jax.process_count(),
        "objective": config.train.objective,
        "dtype": setup.dtype.name,
        "mesh": dict(setup.mesh.shape),
        "overlap": describe_overlap(setup.mesh.devices.flat[0].platform, setup.mesh.size) or None,
        "parameters": {name: count for name, count in count_parameters(config.model).items() if count},
        "data": {
            "dir": str(setup.data.dir),
            "sources": meta["sources"],
            "end_of_text": bool(meta["end_of_text"]),
            "tokenizer": meta["tokenizer"],
            "train": {key: meta["train"][key] for key in ("tokens", "documents", "bytes")},
            "val": {key: meta["val"][key] for key in ("tokens", "documents", "bytes")},
        },
        "entropy_bits_per_byte": bits / meta["val"]["bytes"] if bits and meta["val"]["bytes"] else None,
        "steps": setup.steps or None,
        "minutes": config.train.minutes or None,
        "init_from": config.train.init_from or None,
        "tokens_per_step": round(setup.loader.tokens.targets * config.train.batch_size),
        "padding": setup.loader.tokens.padding,
        "prompts": setup.loader.tokens.prompts,
        "passes": setup.loader.epoch_of(setup.steps) if setup.steps else None,
        "expected_seconds": expected,
        "result": {},
        "story_check": None,
    }


def write_samples(setup: Setup, folder: RunFolder, log: MetricsLog | None) -> None:
    """Samples from the state's parameters into `samples.md`, one for each of `sample.prompts`."""
    prompts = setup.config.sample.prompts
    if not prompts:
        return
    params = host_params(setup)
    if jax.process_index() != 0:
        return
    results = _language_model(setup, params).generate_results(prompts, seed=setup.config.seed)
    step = setup.position.step
    append_samples(folder.samples, step, [(result.prompt, result.text) for result in results])
    if log is not None:
        log.text(step, "samples", "\n\n---\n\n".join(result.prompt + result.text for result in results))


def finish_run(
    setup: Setup,
    folder: RunFolder,
    info: dict[str, Any],
    status: str,
    final: Result | None,
    log: MetricsLog | None,
    progress: Progress | None,
) -> None:
    """Writes the figures of the whole validation split, the story check where it applies, `run.json` and the report."""
    params = host_params(setup)
    if jax.process_index() != 0 or log is None or progress is None:
        return
    position, config = setup.position, setup.config
    tokens = position.tokens
    rate = info["result"].get("tokens_per_s")
    peak = peak_flops(setup.dtype.name)
    info["finished"] = _now()
    info["status"] = status
    if setup.budget is not None:
        # What the clock has made of them.
        info |= {"steps": position.step, "passes": setup.loader.epoch_of(position.step)}
    info["result"] |= {
        "step": position.step,
        "train_seconds": position.seconds,
        "tokens_seen": tokens,
        "passes": setup.loader.epoch_of(position.step),
        "tokens_per_s": tokens / position.seconds if position.seconds else rate,
        "mfu": None,
        "bad_steps": int(setup.state["bad_steps"]),
    }
    if peak and position.seconds:
        counts = setup.loader.examples_by_context(position.step)
        flops = sum(examples * flops_per_token(config.model, context) for context, examples in counts.items())
        info["result"]["mfu"] = flops * setup.loader.tokens.places / position.seconds / (peak * setup.mesh.size)
    if final is not None:
        info["result"] |= {
            **validation_values(final),
            "best_step": position.best_step,
            "best_val/loss": position.best_loss,
        }
        progress.message(final.said(info["entropy_bits_per_byte"]))
        bits = final.figures().get("bits_per_byte")
        baseline = counting_baseline(setup) if bits is not None else None
        if bits is not None and baseline is not None:
            info["baseline"] = baseline.record()
            progress.message(baseline.said(bits))
    if any(source.startswith("stories:") for source in setup.data.meta["sources"]):
        info["story_check"] = check_samples(_language_model(setup, params))
        checked = info["story_check"]
        progress.message(f"story check: {checked['passed']} of {checked['of']} samples are consistent and complete")
    folder.write_info(info)
    if config.train.report:
        report = write_report(folder.path)
        progress.message(f"report: {report}")
        log.file(report)
    if folder.samples.exists():
        log.file(folder.samples)


def counting_baseline(setup: Setup) -> Baseline | None:
    """What counting makes of the run's text, computed once and kept with its data; None where it has nothing to say."""
    return split_baseline(corpus_folders(setup.config), setup.data.tokenizer)


def validation_values(result: Result) -> dict[str, float]:
    """A validation's figures as `metrics.jsonl` names them."""
    return {f"val/{name}": value for name, value in result.figures().items()}


def host_params(setup: Setup) -> Params:
    """The parameters (averaged ones where there are some) whole on this process's first device, or as they are."""
    params = model_params(setup.config, setup.state)
    if setup.mesh.size == 1:
        return params
    if jax.process_count() > 1:
        return multihost_utils.process_allgather(params, tiled=True)
    return jax.device_put(jax.device_get(params), jax.local_devices()[0])


def _language_model(setup: Setup, params: Params) -> LanguageModel:
    model = LanguageModel(
        setup.config,
        params,
        setup.data.tokenizer,
        dtype=setup.dtype,
        ends_documents=bool(setup.data.meta["end_of_text"]),
    )
    model.sliding_name = ""
    return model


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
