"""Tiny runs: a text, its config, and training in this process or in one of its own."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.config import Config, config_from_dict

TEXT = "the cat sat on a mat and saw one big red dog near my old tree while rain fell down"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 3 kB: some 160 windows of 16 characters."""
    choice = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(" ".join(choice.choice(TEXT.split()) for _ in range(8)) for _ in range(90)), "utf-8")
    return path


@pytest.fixture
def make_config(text_file: Path, tmp_path: Path) -> Callable[..., Config]:
    """`make_config("run", train={...})`: a run under tmp_path that takes about a second once compiled."""

    def make(name: str = "run", **sections: Any) -> Config:
        values: dict[str, Any] = {
            "run_dir": str(tmp_path / name),
            "data": {"source": str(text_file)},
            "tokenizer": {"kind": "char"},
            "model": {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": 16, "dtype": "float32"},
            "optimizer": {"warmup_steps": 4, "learning_rate": 0.01},
            "train": {
                "steps": 12, "batch_size": 8, "eval_every": 4, "log_every": 2, "tensorboard": False, "report": False,
            },
            "sample": {"max_new_tokens": 4},
        }  # fmt: skip
        for section, keys in sections.items():
            values[section] = values.get(section, {}) | keys if isinstance(keys, dict) else keys
        return config_from_dict(values, "test")

    return make


class Process:
    """`jslm train --config FILE` in a process of its own."""

    def __init__(self, config_file: Path) -> None:
        self.config_file = config_file
        self.environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}

    def start(self, *overrides: str, stderr: Any = subprocess.PIPE) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "jslm.train", "--config", str(self.config_file), *overrides],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )

    def run(self, *overrides: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*overrides)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            # One that is left behind would go on at the bucket that the next test has.
            process.kill()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def read_lines(run_dir: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text("utf-8").splitlines()]


def read_checkpoint(run_dir: str | Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint: parameters, moments, counters."""
    import jax

    from jslm.runs.checkpoint import CheckpointStore

    store = CheckpointStore(Path(run_dir, "checkpoints"))
    step = store.steps()[-1]
    store.verify(step)
    names = {name.split("/")[0] for name in store._saved_arrays(step) if "/" in name}
    trees = {name: store.load_part(step, name) for name in sorted(names)}
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(trees)}


def assert_same_arrays(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Byte for byte."""
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].tobytes() == array.tobytes(), name


@pytest.fixture
def helpers() -> Any:
    """This file's functions: test modules can't import each other."""
    return sys.modules[__name__]
