"""How long people wait: `--help` of each verb, the first training step, the first token."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.bench.parts import Case, make_corpus
from scripts.bench.process import ROOT, LaneError, LaneProcess, Spec
from scripts.bench.rounds import Measured
from scripts.bench.settings import Settings
from scripts.bench.sizes import SIZES

_PATIENCE = 300.0
_PROMPT = "A"


def measure_startup(settings: Settings) -> list[Case]:
    """Seconds from the start of a process, as `starts` a second.

    The first step and token come cold (empty caches), then with what the cold start left in the persistent compilation
    caches: JAX's, and that of `torch.compile`.
    """
    settings.say("startup")
    cases = [Case("--help", [_help(settings, verb) for verb in _verbs()], "starts")]
    size = SIZES[settings.sizes[0]]
    folder, _ = make_corpus(settings, size, tokens=50_000)
    lanes = {(goal, state): [Measured("jslm", "jslm")] for goal in ("step", "token") for state in ("cold", "cached")}
    environment = {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "xla"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
    }
    for number, state in enumerate(["cold", *["cached"] * min(settings.rounds, 3)]):
        run = folder / f"started-{number}"
        step = _first_step(size.name, folder, run, environment)
        token = _first_token(run, environment)
        settings.say(f"  jslm, {state}: first step {step:.1f} s, first token {token:.1f} s")
        lanes["step", state][0].turns[number], lanes["token", state][0].turns[number] = (1, step), (1, token)
    if settings.has_peer:
        for compiled in (False, True):
            for state in ("cold", "cached"):
                name = f"PyTorch, {'compiled' if compiled else 'eager'}"
                values: dict[str, Any] = {
                    "size": size.name,
                    "folder": str(folder),
                    "batch": size.batch,
                    "dtype": "float32",
                }
                spec = settings.peer(name, "torch_train", compile=compiled, warmup=1, **values)
                lanes["step", state].append(_peer(settings, spec, environment))
            if compiled:
                continue
            values = {"size": size.name, "cases": ["1"], "prompt_tokens": 2, "new_tokens": 1, "dtype": "float32"}
            spec = settings.peer("transformers, dynamic cache", "torch_decode", static=False, **values)
            lanes["token", "cached"].append(_peer(settings, spec, environment))
    return cases + [
        Case(f"first {goal} of {size.name}, {state}", found, "starts") for (goal, state), found in lanes.items()
    ]


def _verbs() -> list[str]:
    from jslm.__main__ import VERBS

    return [verb for verb in VERBS if (ROOT / "jslm" / verb / "__main__.py").exists()]


def _help(settings: Settings, verb: str) -> Measured:
    lane = Measured(f"jslm {verb}", "jslm")
    for number in range(max(settings.rounds, 1)):
        started = time.perf_counter()
        process = _start(f"jslm.{verb}", "--help")
        process.communicate(timeout=_PATIENCE)
        _check(process)
        lane.turns[number] = (1, time.perf_counter() - started)
    return lane


def _first_step(size: str, folder: Path, run: Path, environment: Mapping[str, str]) -> float:
    """Seconds until the first line of metrics is on disk."""
    config = folder / f"{run.name}.toml"
    config.write_text(_toml(size, folder, run), "utf-8")
    metrics = run / "metrics.jsonl"
    started = time.perf_counter()
    process = _start("jslm.train", "--config", str(config), environment=environment)
    try:
        seconds = None
        while process.poll() is None:
            if seconds is None and metrics.exists() and metrics.stat().st_size:
                seconds = time.perf_counter() - started
            if time.perf_counter() - started > _PATIENCE:
                raise RuntimeError(f"jslm train: no first step within {_PATIENCE:.0f} s")
            time.sleep(0.005)
        _check(process)
    finally:
        process.kill()
        process.communicate()
    # It may have ended between two looks.
    return seconds if seconds is not None else time.perf_counter() - started


def _first_token(run: Path, environment: Mapping[str, str]) -> float:
    """Seconds until text is on stdout."""
    started = time.perf_counter()
    arguments = ("--run", str(run), "--prompt", _PROMPT, "--max-new-tokens", "16", "--seed", "1")
    process = _start("jslm.sample", *arguments, environment=environment)
    assert process.stdout is not None
    # Unbuffered: the prompt itself is not repeated.
    process.stdout.read(1)
    seconds = time.perf_counter() - started
    process.communicate(timeout=_PATIENCE)
    _check(process)
    return seconds


def _toml(size: str, folder: Path, run: Path) -> str:
    from jslm.config import config_from_dict, config_to_toml

    return config_to_toml(
        config_from_dict(
            {
                "run_dir": str(run),
                "data": {"dir": str(folder / "data")},
                "tokenizer": {"path": str(folder / "tokenizer.json")},
                "model": SIZES[size].model_section(),
                "train": {
                    "steps": 1, "batch_size": SIZES[size].batch, "log_every": 1, "eval_batches": 1,
                    "report": False, "tensorboard": False,
                },
                "sample": {"max_new_tokens": 1},
            },
            "benchmark",
        )
    )  # fmt: skip


def _peer(settings: Settings, spec: Spec, environment: Mapping[str, str]) -> Measured:
    lane = Measured(spec.name, "peer")
    left = settings.deadline - time.monotonic()
    started = time.perf_counter()
    try:
        process = LaneProcess(
            dataclasses.replace(spec, environment={**spec.environment, **environment}), timeout=min(left, _PATIENCE)
        )
    except LaneError as error:
        lane.error = f"not measured: {error}"
        return lane
    lane.turns[0] = (1, time.perf_counter() - started)
    lane.facts, lane.peak_memory = process.facts, process.peak_memory
    process.close()
    settings.say(f"  {spec.name}: {lane.turns[0][1]:.1f} s")
    return lane


def _start(module: str, *arguments: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    # As from a shell: the command sees to huge pages itself.
    inherited = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**inherited, **(environment or {}), "PYTHONPATH": path},
    )


def _check(process: subprocess.Popen[bytes]) -> None:
    if process.returncode:
        raise RuntimeError(f"exit status {process.returncode} from {process.args!r}")
