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
from jslm.model import FLASH_PREFIX
from jslm.parallel import compute_capability
from jslm.plan.chips import chip_named
from jslm.plan.gpus import GPUS, gpu_devices, is_gpu_topology, target_config
from jslm.plan.hlo import count_traffic
from jslm.plan.hlo_text import parse_hlo

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
from jslm.plan.assume import resolve
from jslm.plan.program import compiled_train
from jslm.plan.topology import topology_devices
config, _ = resolve(load_config(sys.argv[1], sys.argv[3:]), 1)
mesh = make_mesh(config.mesh, topology_devices(sys.argv[2]))
device, model = mesh.devices.flat[0], config.model
program = compiled_train(config, mesh, compute_dtype(model, platform="gpu", kind=device.device_kind))
sizes = program.memory_analysis()
held = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
held += sizes.temp_size_in_bytes + sizes.generated_code_size_in_bytes
shape = model.model_dump() | {"padded_vocab_size": model.padded_vocab_size}
print(json.dumps({"text": program.as_text(), "memory": held, "model": shape}))
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
    assert said["device_description_str"] == f'"{gpu.described}"'
    assert chip_named(gpu.described) == chip_named(gpu.kind)
    assert compute_capability(gpu.like or gpu.kind) == capability == compute_capability(gpu.described)
    assert int(said["memory_bandwidth"]) == chip_named(gpu.kind).memory_bandwidth
    assert int(said["device_memory_size"]) == chip_named(gpu.kind).memory_bytes >= 4e9
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
@pytest.mark.parametrize("topology", [name for name, gpu in GPUS.items() if gpu.like])
def test_cards_that_pallas_has_no_name_for(tmp_path: Path, topology: str) -> None:
    """With dropout every kernel of jslm's own is in the step."""
    model = GPT2.replace("n_layers = 12", "n_layers = 1").replace("50257", "4096") + "micro_batch = 2\n"
    found = plan(tmp_path, model, "--topology", topology, "model.dropout=0.1")
    assert found["fits"]
    assert found["dtype"] == "bfloat16"


@compiler
@pytest.mark.slow
@pytest.mark.parametrize(("topology", "mesh"), [("h100:2", (2, 1)), ("h100:8", (1, 8)), ("h100:8", (2, 4))])
def test_weights_and_gradients_travel_once_a_step(tmp_path: Path, topology: str, mesh: tuple[int, int]) -> None:
    """Of four micro-batches: 482 all-reduces of 19.5 GB, when the compiler was left to it."""
    data, fsdp = mesh
    model = GPT2.replace("n_layers = 12", "n_layers = 2").replace("batch_size = 16", "batch_size = 32\nmicro_batch = 8")
    found = plan(tmp_path, model, "--topology", topology, f"mesh.data={data}", f"mesh.fsdp={fsdp}")
    assert found["mesh"] == {"data": data, "fsdp": fsdp, "tensor": 1}
    travelled: dict[str, float] = {}
    for each in found["collectives"]:
        share = each["payload_bytes"] / (4 * found["parameters"])
        travelled[each["kind"]] = travelled.get(each["kind"], 0.0) + share
    # Padding of the vocabulary is a thousandth. Sums of parts: over the groups that hold the same ones.
    assert travelled.pop("all-reduce") == pytest.approx(1.0 if fsdp == 1 else (1 / fsdp if data > 1 else 0.0), abs=0.01)
    assert travelled == pytest.approx({} if fsdp == 1 else {"all-gather": 1.0, "reduce-scatter": 1.0}, abs=0.01)
    assert sum(each["count"] for each in found["collectives"]) < 20


@compiler
@pytest.mark.slow
def test_search_for_two_gpus_recommends_nothing_slower_than_what_it_was_given(tmp_path: Path) -> None:
    model = GPT2.replace("n_layers = 12", "n_layers = 1").replace("50257", "4096")
    slow = ("--topology", "h100:2", "--search", "--tries", "3", "train.micro_batch=2", "model.remat=full")
    plans = plan(tmp_path, model, *slow)
    seconds = [each["expected_seconds"] for each in plans]
    assert seconds == sorted(seconds)
    (own,) = [each for each in plans if each["as_given"]]
    assert seconds[0] < own["expected_seconds"]
    best = plans[0]
    assert best["micro_batch"] > 2
    chosen = [f"mesh.{axis}={size}" for axis, size in best["mesh"].items()]
    chosen += [f"train.micro_batch={best['micro_batch']}", f"model.remat={best['remat']}"]
    again = plan(tmp_path, model, "--topology", "h100:2", "--search", "--tries", "2", *chosen)
    assert again[0]["as_given"] or again[0]["expected_seconds"] < best["expected_seconds"]


# By preset and GPU: sequences of a micro-batch; the most GB and kernels that a step of two layers may take (a tenth
# over what it took on 2026-11-27); whose attention it has.
STEPS = [
    ("gpt2_124m", "h100", 12, 3.34, 5_820, "__cudnn$fmha"),
    ("movie_scripts", "h100", 8, 1.29, 5_950, FLASH_PREFIX),
    ("lillm_39m", "h100", 64, 2.34, 1_050, FLASH_PREFIX),
    ("gpt2_124m", "t4", 4, 3.17, 21_900, ""),
    ("movie_scripts", "t4", 8, 2.08, 7_920, ""),
    ("lillm_39m", "t4", 16, 2.02, 4_930, ""),
]


@compiler
@pytest.mark.slow
@pytest.mark.parametrize(("preset", "gpu", "rows", "gigabytes", "kernels", "attention"), STEPS)
def test_steps_of_presets(
    tmp_path: Path, preset: str, gpu: str, rows: int, gigabytes: float, kernels: int, attention: str
) -> None:
    settings = [f"train.micro_batch={rows}", "train.steps=1000", "model.n_layers=2"]
    found = json.loads(run(tmp_path, "", "-c", PROGRAM, str(ROOT / "configs" / f"{preset}.toml"), gpu, *settings))
    model = found["model"]
    module = parse_hlo(found["text"])
    fused = {
        each.calls.get("calls")
        for computation in module.computations.values()
        for each in computation.instructions.values()
        if each.opcode == "fusion"
    }
    buffers = [
        (each, shape)
        for name, computation in module.computations.items()
        if name not in fused
        for each in computation.instructions.values()
        for shape in each.shapes
    ]
    length = model["context_length"]
    logits, size = rows * length * model["padded_vocab_size"], rows * model["n_heads"] * length**2
    # Of lillm_39m as many as logits.
    scores = [each.name for each, shape in buffers if shape.elements == size and shape.dims[-1] == length]
    large = {each.name for each, shape in buffers if shape.dtype == "f32" and shape.elements >= logits}
    assert not large - set(scores)
    # Each layer's attention, forward and backward, and nobody else's.
    calls = [each for each, _ in buffers if each.opcode == "custom-call"]
    for name in ("__cudnn$fmha", FLASH_PREFIX):
        count = len({each.name for each in calls if name in each.attributes})
        assert count >= 2 * model["n_layers"] if name == attention else count == 0
    assert bool(scores) == (not attention), "scores of attention in memory"
    traffic = count_traffic(module)
    assert traffic.collectives == ()
    assert traffic.operations < kernels
    assert found["memory"] < 1e9 * gigabytes
