"""A run in a bucket that is begun on Python 3.11, with its older JAX, goes on on a newer one, and back."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.multidevice.processes import CONFIG

pytestmark = pytest.mark.peer

ROOT = Path(__file__).resolve().parents[2]
# The environment of `make dev` stands beside that of `make test-peers`, which runs this.
OTHER = Path(os.environ.get("JSLM_OTHER_PYTHON") or ROOT / ".venv" / "bin" / "python")
VERSIONS = "import sys, jax, moto, s3fs; print('%d.%d' % sys.version_info[:2], jax.__version__)"
OVERRIDES = ("optimizer.schedule=constant", "model.dtype=float32", "checkpoint.every=0")


@pytest.fixture(scope="module")
def other() -> tuple[str, str]:
    """The other interpreter, and its JAX; skips where there is none, or it is of this version."""
    if not OTHER.is_file():
        pytest.skip(f"no {OTHER}: make dev makes it, or JSLM_OTHER_PYTHON names another Python's")
    done = subprocess.run([OTHER, "-c", VERSIONS], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{OTHER} lacks what the tests need: make dev ({done.stderr.strip().splitlines()[-1]})")
    version, found = done.stdout.split()
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        pytest.skip(f"{OTHER} is Python {version} too")
    return str(OTHER), found


def test_a_run_goes_on_between_them(bucket: Any, other: tuple[str, str], tmp_path: Path) -> None:
    choice = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "big", "red", "dog", "near", "my"]
    (tmp_path / "text.txt").write_text("\n".join(" ".join(choice.choices(words, k=8)) for _ in range(120)), "utf-8")
    (tmp_path / "run.toml").write_text(CONFIG, "utf-8")

    def train(python: str, run: str, machine: str, steps: int) -> str:
        command = [python, "-m", "jslm.train", "--config", "run.toml", f"run_dir=s3://bucket/{run}", *OVERRIDES]
        environment = os.environ | bucket.environment
        environment |= {"PYTHONPATH": str(ROOT), "JSLM_CACHE": str(tmp_path / machine)}
        done = subprocess.run(
            [*command, f"train.steps={steps}", f"data.dir=data-{machine}"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stderr

    # Each start is another machine, with nothing of the run on it.
    train(sys.executable, "both", "first", 8)
    assert "resuming at step 8" in train(other[0], "both", "second", 16)
    assert json.loads(bucket.read("both/run.json"))["versions"]["jax"] == other[1]
    assert "resuming at step 16" in train(sys.executable, "both", "third", 24)
    train(sys.executable, "alone", "fourth", 24)
    assert len(losses(bucket, "both")) == len(losses(bucket, "alone")) == 24
    # Before the other's part they are the same; in it, and after it, two compilers round each in its own way.
    assert losses(bucket, "both")[:8] == losses(bucket, "alone")[:8]
    np.testing.assert_allclose(losses(bucket, "both"), losses(bucket, "alone"), rtol=1e-3)
    ends = [name for name in bucket.names("both/checkpoints/") if re.search(r"step_00000024/manifest\.json$", name)]
    assert len(ends) == 1


def losses(bucket: Any, run: str) -> list[float]:
    lines = map(json.loads, bucket.read(f"{run}/metrics.jsonl").splitlines())
    return [line["train/loss"] for line in lines if "train/loss" in line]
