"""Preferences and distillation over several devices and processes: the model that is asked beforehand, the steps and
validation are those of one."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = [pytest.mark.multidevice, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
MODEL = """
[model]
n_layers = 2
d_model = 32
n_heads = 2
context_length = 24
dtype = "float32"
[train]
batch_size = 8
eval_every = 4
eval_batches = 0
log_every = 1
report = false
tensorboard = false
"""
BASE = f"""{MODEL}
steps = 20
[data]
source = "text.txt"
dir = "text"
[tokenizer]
kind = "char"
[optimizer]
learning_rate = 5e-3
"""
PREFERENCES = f"""{MODEL}
steps = 8
objective = "dpo"
init_from = "base"
[data]
source = "pairs.jsonl"
dir = "data"
template = "{{prompt}}\\t{{chosen}}"
prompt_end = "\\t"
rejected = "rejected"
packing = "documents"
validation_fraction = 0.3
[tokenizer]
path = "base/tokenizer.json"
[optimizer]
learning_rate = 1e-3
warmup_steps = 0
"""

STUDENT = f"""{MODEL}
steps = 8
objective = "distill"
[train.distill]
teachers = ["base"]
top_k = 6
[data]
source = "text.txt"
dir = "text"
[tokenizer]
kind = "char"
[optimizer]
learning_rate = 1e-3
warmup_steps = 0
"""


def train(folder: Path, config: str, name: str, *overrides: str, devices: int = 1, processes: int = 1) -> Path:
    """A run in processes of their own."""
    (folder / f"{name}.toml").write_text(config, "utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    common = os.environ | {
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}",
    }
    command = [sys.executable, "-m", "jslm.train", "--config", f"{name}.toml", f"run_dir={name}", *overrides]
    started = []
    for index in range(processes):
        trio = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes), "JAX_PROCESS_ID": str(index)}
        started.append(
            subprocess.Popen(
                command,
                cwd=folder,
                env=common | (trio if processes > 1 else {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    texts = [process.communicate(timeout=240)[0] for process in started]
    assert [process.returncode for process in started] == [0] * processes, "\n".join(texts)
    return folder / name


def column(run: Path, key: str) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    return [line[key] for line in lines if key in line]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("preferences")
    choice = random.Random(0)
    words = ["".join(choice.choices("abcdefgh", k=3)) for _ in range(60)]
    pairs = [{"prompt": f"{word} {number}", "chosen": f"{word}!", "rejected": f"{word} no"}
             for number, word in enumerate(words)]  # fmt: skip
    (path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), "utf-8")
    lines = [f"{pair['prompt']}\t{pair[side]}" for pair in pairs for side in ("chosen", "rejected")]
    (path / "text.txt").write_text("\n".join(lines), "utf-8")
    train(path, BASE, "base")
    train(path, PREFERENCES, "one")
    return path


@pytest.mark.parametrize(
    ("name", "processes", "devices", "overrides"),
    [
        ("meshed", 1, 8, ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "train.micro_batch=4"]),
        ("processes", 2, 2, []),
    ],
)
def test_many_devices_do_what_one_does(
    folder: Path, name: str, processes: int, devices: int, overrides: list[str]
) -> None:
    run = train(folder, PREFERENCES, name, *overrides, devices=devices, processes=processes)
    with np.load(run / "reference.npz") as found, np.load(folder / "one" / "reference.npz") as wanted:
        assert wanted["train_0"].shape == (42, 2)
        for split in ("train_0", "val_0"):
            np.testing.assert_allclose(found[split], wanted[split], rtol=1e-4)
    for key in ("train/loss", "train/margin", "train/accuracy", "val/loss", "val/margin", "val/pairs"):
        np.testing.assert_allclose(column(run, key), column(folder / "one", key), rtol=1e-3, atol=1e-4, err_msg=key)
    assert column(run, "val/margin")[-1] > 0.1
    if processes == 1:
        return
    # What is there is read, by all processes alike.
    before = (run / "reference.npz").read_bytes()
    train(folder, PREFERENCES, name, *overrides, "train.steps=10", devices=devices, processes=processes)
    assert column(run, "val/loss")[-1] < column(run, "val/loss")[0]
    assert (run / "reference.npz").read_bytes() == before


@pytest.fixture(scope="module")
def student(folder: Path) -> Path:
    return train(folder, STUDENT, "student")


@pytest.mark.parametrize(
    ("name", "processes", "devices", "overrides"),
    [
        ("student-meshed", 1, 8, ["mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "train.micro_batch=4"]),
        ("student-processes", 2, 2, []),
    ],
)
def test_a_student_on_several_devices(
    folder: Path, student: Path, name: str, processes: int, devices: int, overrides: list[str]
) -> None:
    if processes > 1:
        # The first of them asks, the other waits.
        shutil.rmtree(folder / "text" / "teachers")
    run = train(folder, STUDENT, name, *overrides, devices=devices, processes=processes)
    for key in ("train/loss", "train/divergence", "val/loss"):
        np.testing.assert_allclose(column(run, key), column(student, key), rtol=2e-4, err_msg=key)
    assert len(list((folder / "text" / "teachers").iterdir())) == 1
