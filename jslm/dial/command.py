"""`jslm train FILE...`: looks at the text and the device, chooses, says what and why, and writes the config."""

from __future__ import annotations

import io
import itertools
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import jax

from jslm.config import (
    Config,
    ModelConfig,
    config_from_dict,
    load_config,
    merge_values,
    parse_overrides,
    values_to_toml,
)
from jslm.console import say
from jslm.dial.device import Device, measure
from jslm.dial.rules import (
    FIXED_SECONDS,
    FIXED_SHARE,
    LEAST_SECONDS,
    Choice,
    choose,
    preparing_seconds,
    training_seconds,
)
from jslm.dial.text import TextFacts, look
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.formats.gguf.weights import choose_architecture
from jslm.formats.huggingface.config import family_of
from jslm.parallel import by_first, start_jax
from jslm.runs import RunFolder
from jslm.storage import Objects, is_address

DIAL_FILE = "dial.toml"
DEFAULT_MINUTES = 10.0


def dial(
    sources: Sequence[str],
    minutes: float | None,
    overrides: Sequence[str],
    *,
    plan: bool = False,
    to: TextIO | None = None,
) -> Config:
    """The config for the text of `sources`, chosen anew, or that of the run that goes on; says it in ten lines.

    `minutes`: None is `DEFAULT_MINUTES`, or what the run had when it was trained last. The lines go to the stream
    `to`, by default stderr. The choice is written to `dial.toml` in the run's folder, unless this is only a `plan`; of
    several processes the first one chooses. Raises JslmError as `look`, for bad overrides, for minutes in which nothing
    can be trained, and where the folder holds a run on another text.
    """
    said = parse_overrides(overrides)
    if "minutes" in said.get("train", {}):
        if minutes is not None:
            raise JslmError(f"--minutes {minutes:g} and train.minutes={said['train']['minutes']:g}: give one of them")
        minutes = float(said["train"]["minutes"])
    if minutes is not None and not minutes > 0:
        raise JslmError(f"--minutes {minutes:g}: expected a time above 0, such as --minutes 10")
    sources = [source if ":" in source else os.path.normpath(source) for source in sources]
    run_dir = said.get("run_dir") or f"runs/{_name(sources)}"
    # Before JAX knows its devices: it is what joins several processes, of which one chooses for all.
    start_jax(training=True)

    asked = _Asked(run_dir, sources, minutes, overrides, said, plan, to)

    def first() -> Config:
        file = _file(run_dir)
        return _again(file, asked) if file.is_file() else _anew(file, asked)

    if plan or not jax.distributed.is_initialized():
        return first()
    config = by_first(first, f"run_dir = {run_dir}")
    return config or _again(_file(run_dir), replace(asked, to=io.StringIO()))


@dataclass(frozen=True)
class _Asked:
    """What a command asks for; `said` is what its overrides mean."""

    run_dir: str
    sources: Sequence[str]
    minutes: float | None
    overrides: Sequence[str]
    said: Mapping[str, Any]
    plan: bool
    to: TextIO | None


def _anew(file: Path, asked: _Asked) -> Config:
    """Looks, chooses, says so, and writes `file`, unless it is only a plan."""
    sources, said = asked.sources, asked.said
    minutes = DEFAULT_MINUTES if asked.minutes is None else asked.minutes
    facts = look(sources, {name: value for name, value in said.get("data", {}).items() if name != "source"})
    device = measure()
    if training_seconds(facts, device, minutes) < LEAST_SECONDS:
        needed = (FIXED_SECONDS + LEAST_SECONDS + preparing_seconds(facts, device)) / (1 - FIXED_SHARE) / 60
        raise JslmError(
            f"--minutes {minutes:g}: starting, preparing {_size(facts.size)} of text and closing leave no time to "
            f"train; give --minutes {math.ceil(10 * needed + 0.5) / 10:g} or more"
        )
    choice = choose(facts, device, minutes)
    values = {"run_dir": asked.run_dir, **choice.values}
    values["data"] = {"source": sources[0] if len(sources) == 1 else list(sources), **values["data"]}
    config = config_from_dict(merge_values(values, said), "command line")
    if "steps" in (train := values["train"]):
        # So many tokens, in the steps that were asked for.
        tokens = train["steps"] * train["batch_size"] * values["model"]["context_length"]
        train["steps"] = max(20, tokens // (config.train.batch_size * config.model.context_length))
        config = config_from_dict(merge_values(values, said), "command line")
    lines = [*told(facts, device, minutes, choice), f"{'leaves as':<11} {ways_out(config.model)}"]
    own = [each.replace("\n", "\\n") for each in asked.overrides if not each.startswith(("run_dir=", "train.minutes="))]
    if own:
        lines.append(f"{'yours':<11} {' '.join(own)}, whatever is said above")
    for line in lines:
        say(line, asked.to)
    if asked.plan:
        return config
    text = "".join(f"# {line}\n" for line in lines) + "\n" + values_to_toml(merge_values(values, said))
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)
    say(f"config      {file}: the same again with jslm train --config {file}")
    return config


def _file(run_dir: str) -> Path:
    """The run's `dial.toml`; that of a run at an address as it is there."""
    file = RunFolder(run_dir).path / DIAL_FILE
    if is_address(run_dir) and (found := Objects(run_dir).read(DIAL_FILE)) is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, found.decode("utf-8"))
    return file


def ways_out(model: ModelConfig) -> str:
    """Where a model of this shape can go, as the formats themselves say."""
    everywhere = "ONNX, a web page, one file"
    refused = _refused(model)
    if not refused:
        return f"transformers, llama.cpp, {everywhere}"
    # Sixteen books, 3 x 128, two seeds: 1.730 bits per byte with squared ReLU, 1.738 with SwiGLU.
    if model.activation == "relu2" and not _refused(model.model_copy(update={"activation": "swiglu"})):
        return f"{everywhere}; with model.activation=swiglu (0.01 bits per byte) transformers and llama.cpp too"
    return f"{everywhere}; {refused}"


def _refused(model: ModelConfig) -> str:
    """Why transformers or llama.cpp have no such model; empty where both have."""
    try:
        family_of(model)
        choose_architecture(model)
    except JslmError as error:
        return str(error).partition(";")[0]
    return ""


def told(facts: TextFacts, device: Device, minutes: float, choice: Choice) -> list[str]:
    """What was found and chosen, and why, a line each."""
    count = f"{facts.files:,} file{'s' if facts.files > 1 else ''}, " if facts.files else ""
    language = facts.language or facts.script
    lines = [("text", f"{count}{_size(facts.size)}: {facts.kind}, {language}, about {facts.documents:,} document(s)")]
    for reason in facts.reasons:
        name, _, why = reason.partition(": ")
        lines.append((name, why) if why else ("", name))
    lines.append(("device", f"{device.name}: {device.flops / 1e9:,.0f} GFLOP/s in products of {device.dtype}"))
    lines += choice.reasons
    most = "at most " if "steps" in choice.values["train"] else ""
    lines.append(("time", f"{most}{minutes:g} min in all, preparing and compiling too"))
    return [f"{name:<11} {text}" for name, text in lines]


def _again(file: Path, asked: _Asked) -> Config:
    """The run of before goes on: with its config, and the minutes that are given now; for a plan it is said again."""
    minutes, overrides, to = asked.minutes, asked.overrides, asked.to
    if minutes is None:
        trained = file.with_name("config.toml")
        minutes = load_config(trained if trained.is_file() else file, []).train.minutes
    config = load_config(file, [*overrides, f"train.minutes={minutes!r}"])
    if list(config.data.sources) != list(asked.sources):
        raise JslmError(
            f"{file}: made for {', '.join(config.data.sources)}, and this command gives {', '.join(asked.sources)}; "
            f"add run_dir=runs/another, or delete {file.parent}"
        )
    if asked.plan:
        lines = itertools.takewhile(lambda line: line.startswith("# "), file.read_text("utf-8").splitlines())
        for line in lines:
            say(line[2:], to)
    kept = f"{file}: chosen before, kept (delete {file.parent} to begin anew); {minutes:g} min in all now"
    if config.train.steps:
        kept += f", and at most {config.train.steps:,} steps"
    say(f"config      {kept}{', ' + ' '.join(overrides) if overrides else ''}", to)
    return config


def _name(sources: Sequence[str]) -> str:
    stem = Path(sources[0].rstrip("/")).name.split(".")[0] if sources[0] != "-" else "text"
    return re.sub(r"[^\w-]+", "-", stem).strip("-") or "text"


def _size(size: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size:.0f} bytes"
