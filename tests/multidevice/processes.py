"""Several processes of one run, and a run that they make quickly."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
run_dir = "run"
[data]
source = "text.txt"
dir = "data"
[tokenizer]
kind = "char"
[model]
n_layers = 2
d_model = 16
n_heads = 2
d_ff = 32
context_length = 16
dropout = 0.1
[optimizer]
learning_rate = 1e-2
warmup_steps = 4
[train]
steps = 24
batch_size = 8
micro_batch = 4
eval_every = 8
log_every = 1
report = false
tensorboard = false
[checkpoint]
every = 4
[sample]
max_new_tokens = 4
"""


def write_run(folder: Path) -> Path:
    """Puts a text and `run.toml` into the folder, and returns it."""
    choice = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat", "and", "saw", "one", "big", "red", "dog", "near", "my"]
    (folder / "text.txt").write_text("\n".join(" ".join(choice.choices(words, k=8)) for _ in range(120)), "utf-8")
    (folder / "run.toml").write_text(CONFIG, "utf-8")
    return folder


class Group:
    """`jslm train` of `run.toml` (or of `what`) in `count` processes that know of each other; `environment` is added to
    each one's."""

    def __init__(
        self,
        folder: Path,
        name: str,
        count: int,
        *overrides: str,
        devices: int = 1,
        environment: Mapping[str, str] | None = None,
        what: Sequence[str] = ("--config", "run.toml"),
    ) -> None:
        self.run_dir = folder / name
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        common = os.environ | {
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
            **(environment or {}),
        }
        self.processes = []
        for index in range(count):
            trio = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count), "JAX_PROCESS_ID": str(index)}
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "jslm.train", *what, f"run_dir={name}", *overrides],
                    cwd=folder,
                    env=common | (trio if count > 1 else {}),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
            )

    def wait_for_step(self, step: int) -> None:
        file = self.run_dir / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not file.exists() or file.read_bytes().count(b'"train/loss"') < step:
            assert all(process.poll() is None for process in self.processes), self.outputs()
            assert time.monotonic() < deadline, "no progress"
            time.sleep(0.01)

    def outputs(self) -> list[str]:
        return [process.communicate(timeout=600)[0] for process in self.processes]

    def finish(self, code: int = 0) -> list[str]:
        texts = self.outputs()
        assert [process.returncode for process in self.processes] == [code] * len(texts), "\n".join(texts)
        return texts

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
