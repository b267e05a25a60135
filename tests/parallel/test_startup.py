"""What jslm sets for GPUs before JAX opens them."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from jslm.config import ModelConfig
from jslm.model import compute_dtype
from jslm.parallel import startup


def test_what_is_given_stays_and_the_rest_is_added() -> None:
    given = "--xla_gpu_enable_pipelined_all_reduce=false --xla_dump_to=/somewhere"
    flags = startup.gpu_flags(given).split()
    assert flags[:2] == given.split()
    assert sum("pipelined_all_reduce" in flag for flag in flags) == 1
    assert "--xla_gpu_enable_latency_hiding_scheduler=true" in flags
    assert startup.gpu_flags(" ".join(flags)).split() == flags


def test_what_is_on_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", startup.gpu_flags("--xla_gpu_enable_pipelined_all_reduce=false"))
    said = startup.describe_overlap("gpu", 2)
    assert said == "latency_hiding_scheduler, pipelined_all_gather, pipelined_reduce_scatter"
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_latency_hiding_scheduler")
    assert startup.describe_overlap("gpu", 2) == "latency_hiding_scheduler"
    monkeypatch.setenv("XLA_FLAGS", "")
    assert startup.describe_overlap("gpu", 2) == "as XLA does by default"
    assert startup.describe_overlap("tpu", 8)
    assert [startup.describe_overlap("gpu", 1), startup.describe_overlap("cpu", 8)] == ["", ""]


def test_this_jax_knows_every_flag() -> None:
    # XLA aborts a process that names one it does not know, whatever device it is for.
    def run(flags: str) -> int:
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", "import jax; jax.devices()"]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert jax.__version_info__ < startup._FLAGS_KNOWN_UNDER, "raise _FLAGS_KNOWN_UNDER if this test passes without it"
    assert run(startup.gpu_flags("")) == 0
    assert run("--xla_gpu_no_such_flag=true") != 0


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A driver's folder with two GPUs, and JAX's plugin for them: this process still opens none."""
    for name in ("XLA_FLAGS", "JAX_PLATFORMS", "XLA_CLIENT_MEM_FRACTION", "CUDA_VISIBLE_DEVICES", "JAX_NUM_PROCESSES"):
        monkeypatch.delenv(name, raising=False)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    find = importlib.util.find_spec
    plugin = importlib.machinery.ModuleSpec("jax_cuda13_plugin", None)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: plugin if name == "jax_cuda13_plugin" else find(name, *rest)
    )
    monkeypatch.setattr(startup, "Path", lambda path: tmp_path / "gpus" if "nvidia" in str(path) else Path(path))
    return monkeypatch


@pytest.mark.parametrize(
    ("settings", "count", "flags"),
    [
        ({}, 2, True),
        ({"CUDA_VISIBLE_DEVICES": "1"}, 1, False),
        ({"CUDA_VISIBLE_DEVICES": "1", "SLURM_STEP_NUM_TASKS": "4"}, 1, True),
        ({"CUDA_VISIBLE_DEVICES": ""}, 0, False),
        ({"JAX_PLATFORMS": "cpu"}, 0, False),
        ({"JAX_PLATFORMS": "cuda,cpu"}, 2, True),
    ],
)
def test_flags_are_for_several_gpus(
    two_gpus: pytest.MonkeyPatch, settings: dict[str, str], count: int, flags: bool
) -> None:
    for name, value in settings.items():
        two_gpus.setenv(name, value)
    assert startup._gpu_count() == count
    # Undone with the other settings: _set_for_gpus writes to the environment itself.
    two_gpus.setenv("XLA_FLAGS", "")
    two_gpus.setenv("XLA_CLIENT_MEM_FRACTION", "")
    two_gpus.delenv("XLA_CLIENT_MEM_FRACTION")
    startup._set_for_gpus(training=True)
    assert ("latency_hiding" in os.environ["XLA_FLAGS"]) == flags
    assert os.environ.get("XLA_CLIENT_MEM_FRACTION") == ("0.92" if count else None)


def test_memory_is_taken_for_training_alone_and_as_the_user_says(two_gpus: pytest.MonkeyPatch) -> None:
    two_gpus.setenv("XLA_FLAGS", "")
    two_gpus.setenv("XLA_CLIENT_MEM_FRACTION", "0.5")
    startup._set_for_gpus(training=True)
    assert os.environ["XLA_CLIENT_MEM_FRACTION"] == "0.5"
    two_gpus.delenv("XLA_CLIENT_MEM_FRACTION")
    startup._set_for_gpus(training=False)
    two_gpus.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.6")
    startup._set_for_gpus(training=True)
    assert "XLA_CLIENT_MEM_FRACTION" not in os.environ


@pytest.mark.parametrize(
    ("capability", "dtype"), [("7.0", jnp.float16), ("7.5", jnp.float16), ("8.0", jnp.bfloat16), ("9.0", jnp.bfloat16)]
)
def test_gpus_without_bfloat16_compute_in_float16(monkeypatch: pytest.MonkeyPatch, capability: str, dtype: Any) -> None:
    class Device:
        compute_capability = capability
        device_kind = "a GPU that no table knows"

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert compute_dtype(ModelConfig()) == dtype


def test_workers_of_a_slice_are_told_that_there_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*startup._CLUSTER_VARIABLES, "TPU_WORKER_HOSTNAMES", "JSLM_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)
    assert not startup._runs_on_cluster()
    monkeypatch.setenv("JSLM_DISTRIBUTED", "on")
    assert startup._runs_on_cluster()
