"""Plans for GPUs that are not here, and their compiled steps: by the GPU's own compiler, which needs no GPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from jslm.errors import JslmError
from jslm.parallel import compute_capability
from jslm.plan.chips import chip_named
from jslm.plan.gpus import GPUS, gpu_devices, is_gpu_topology, target_config

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = [f"jax_cuda{version}_plugin" for version in (13, 12)]
compiler = pytest.mark.skipif(
    not any(map(importlib.util.find_spec, PLUGINS)), reason="needs the GPU's compiler: make test EXTRAS=cuda13"
)
GPT2 = """
run_dir = "run"
[tokenizer]
kind = "gpt2"
[model]
vocab_size = 50257
n_layers = 12
d_model = 768
n_heads = 12
norm = "layernorm"
position = "learned"
activation = "gelu"
qkv_bias = true
out_bias = true
mlp_bias = true
context_length = 1024
[train]
steps = 1000
batch_size = 16
"""
PROGRAM = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from jslm.config import load_config
from jslm.model import compute_dtype
from jslm.parallel import make_mesh
from jslm.plan.program import compiled_train
from jslm.plan.topology import topology_devices
config = load_config(sys.argv[1])
mesh = make_mesh(config.mesh, topology_devices(sys.argv[2]))
device = mesh.devices.flat[0]
print(compiled_train(config, mesh, compute_dtype(config.model, platform="gpu", kind=device.device_kind)).as_text())
"""


def run(tmp_path: Path, text: str, *command: str) -> str:
    (tmp_path / "run.toml").write_text(text, "utf-8")
    # In a process of its own: this one's XLA_FLAGS are for speed of compiling.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plan(tmp_path: Path, text: str, *arguments: str) -> Any:
    command = ("-m", "jslm.plan", "--config", "run.toml", "--decode-batch", "0", "--json", *arguments)
    return json.loads(run(tmp_path, text, *command))


@pytest.mark.parametrize("name", GPUS)
def test_what_the_compiler_is_told_agrees_with_the_tables(name: str) -> None:
    gpu = GPUS[name]
    said = dict(line.strip().split(": ", 1) for line in target_config(name).splitlines() if line.count(":") == 1)
    capability = compute_capability(gpu.kind)
    assert f"major: {int(capability)} minor: {round(capability * 10) % 10}" in target_config(name)
    assert said["device_description_str"] == f'"{gpu.kind}"'
    assert int(said["memory_bandwidth"]) == chip_named(gpu.kind).memory_bandwidth
    assert int(said["device_memory_size"]) == chip_named(gpu.kind).memory_bytes >= 16e9
    # A block takes a part of a core's shared memory; NVIDIA's own peak is two FLOP a lane and clock in float32.
    assert int(said["shared_memory_per_block_optin"]) <= int(said["shared_memory_per_core"])


def test_names_and_counts() -> None:
    assert [is_gpu_topology(text) for text in ("h100", "a100-80gb:8", "cpu", "v5e:2x4", "h101")] == [
        True, True, False, False, False,
    ]  # fmt: skip


def test_absent_compiler_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in PLUGINS else find(name))
    with pytest.raises(JslmError, match=r"needs the GPU's compiler .*pip install .*\[cuda13\]"):
        gpu_devices("h100")


@compiler
@pytest.mark.slow
def test_the_step_of_124m_on_an_h100(tmp_path: Path) -> None:
    """1,012 kernels and 10.47 GB before the model lost its CPU's words."""
    h100 = plan(tmp_path, GPT2, "--topology", "h100", "--price", "2")
    assert h100["fits"]
    assert h100["operations"] < 720
    assert h100["memory"]["total"] < 10e9
    # 33.3 ms on an H200, whose memory is faster.
    assert 0.8 * 0.0333 < h100["expected_seconds"] < 1.4 * 0.0333
    assert h100["cost"] == pytest.approx(2 * h100["accelerator_hours"])
    assert h100["dtype"] == "bfloat16"


@compiler
@pytest.mark.slow
def test_a_t4_takes_four_rows_at_once(tmp_path: Path) -> None:
    """Its compiler refuses programs with Triton's kernels, and it multiplies no bfloat16."""
    t4 = plan(tmp_path, GPT2, "--topology", "t4", "train.micro_batch=4")
    assert t4["fits"]
    assert t4["dtype"] == "float16"


@compiler
@pytest.mark.slow
def test_what_stays_out_of_memory(tmp_path: Path) -> None:
    text = run(tmp_path, GPT2, "-c", PROGRAM, "run.toml", "h100")
    assert "cudnn" in text, "attention by cuDNN"
    assert "f32[16,1024,50304]" not in text.replace("f32[16384,50304]", "f32[16,1024,50304]").split("ENTRY")[-1], (
        "no logits in float32 but inside a kernel"
    )


@compiler
@pytest.mark.slow
def test_several_gpus_sum_gradients(tmp_path: Path) -> None:
    found = plan(tmp_path, GPT2.replace("n_layers = 12", "n_layers = 2"), "--topology", "h100:2")
    assert found["mesh"]["data"] == 2
    reduced = [c for c in found["collectives"] if c["kind"] == "all-reduce" and c["group"] == 2]
    assert sum(c["payload_bytes"] for c in reduced) >= 2 * found["parameters"]
