"""Every preset through the real TPU compiler, which needs no TPU."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs the TPU compiler: extra plan (libtpu)"
)

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted(path.stem for path in (ROOT / "configs").glob("*.toml"))
QUICK = "quickstart"


def plan(*arguments: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: this one's XLA_FLAGS are for speed of compiling, and libtpu stays loaded.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH", "")])])
    command = [sys.executable, "-m", "jslm.plan", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def planned(name: str, *arguments: str) -> dict[str, Any]:
    done = plan("--config", f"configs/{name}.toml", "--topology", "v5e:2x4", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == QUICK else pytest.mark.slow) for n in PRESETS])
def test_each_preset_fits_eight_chips(name: str) -> None:
    # Decoding is compiled for one preset below: it takes as long again. Unrolled layers, which small models have by
    # default, compile several times as long as scanned ones.
    found = planned(name, "--decode-batch", "0", *([] if name == QUICK else ["model.unroll=1"]))
    assert found["fits"]
    assert found["mesh"] == {"data": 8, "fsdp": 1, "tensor": 1}
    assert found["dtype"] == "bfloat16"
    memory = found["memory"]
    # Every device has the whole model in float32, its vocabulary padded, and moments of the same size (Muon has one for
    # matrices).
    assert 4 * found["parameters"] <= memory["parameters"] < 4 * found["parameters"] + 4 * 128 * 1024
    assert memory["parameters"] * 0.95 < memory["optimizer"] <= 2 * memory["parameters"] + 64
    assert memory["temporaries"] > 0
    assert memory["total"] < found["chip"]["memory_bytes"]
    # All gradients are summed over the eight devices at least once a step.
    reduced = [c for c in found["collectives"] if c["kind"] == "all-reduce" and c["group"] == 8]
    assert sum(c["payload_bytes"] for c in reduced) >= 2 * found["parameters"]
    # The step computes what the model needs; XLA's attention has no causal skip, and Muon has products of its own.
    needed = found["mfu"] * found["roofline"]["seconds"] * found["chip"]["flops"]
    assert found["flops"] > 0.99 * needed
    assert 0 < found["mfu"] < 1


def test_decoding_and_search_on_eight_chips() -> None:
    found = planned(QUICK, "--decode-batch", "4")
    decode = found["decode"]
    assert decode["fits"]
    assert decode["batch"] == 4
    # Two for each weight and row, and attention over a full context.
    assert decode["flops"] > 2 * 4 * found["parameters"]
    done = plan("--config", f"configs/{QUICK}.toml", "--topology", "v5e:2x4", "--search", "--tries", "2", "--json")
    assert done.returncode == 0, done.stderr
    plans = json.loads(done.stdout)
    assert len(plans) == 2
    assert plans[0]["roofline"]["seconds"] <= plans[1]["roofline"]["seconds"]


@pytest.mark.slow
def test_work_is_the_same_on_another_mesh() -> None:
    arguments = ("tinystories_1m", "--decode-batch", "0", "model.unroll=1")
    whole, split = planned(*arguments), planned(*arguments, "mesh.data=1", "mesh.fsdp=8")
    assert split["flops"] == pytest.approx(whole["flops"], rel=0.03)
    assert split["memory"]["parameters"] == pytest.approx(whole["memory"]["parameters"] / 8, rel=0.05)
    assert {"all-gather", "reduce-scatter"} <= {collective["kind"] for collective in split["collectives"]}


@pytest.mark.slow
@pytest.mark.parametrize("micro_batch", [8, 32])
@pytest.mark.parametrize(("data", "fsdp"), [(8, 1), (1, 8), (2, 4)])
def test_weights_and_gradients_travel_once_a_step(data: int, fsdp: int, micro_batch: int) -> None:
    """Of one micro-batch too, as the loss is in chunks; left to the compiler, 11.5 times the gradients travelled."""
    batch = ("train.batch_size=32", f"train.micro_batch={micro_batch}")
    mesh = (f"mesh.data={data}", f"mesh.fsdp={fsdp}")
    found = planned("gpt2_124m", "--decode-batch", "0", "model.n_layers=2", *batch, *mesh)
    travelled: dict[str, float] = {}
    for each in found["collectives"]:
        share = each["payload_bytes"] / (4 * found["parameters"])
        travelled[each["kind"]] = travelled.get(each["kind"], 0.0) + share
    # Sums of parts: over the groups that hold the same ones.
    assert travelled.pop("all-reduce") == pytest.approx(1.0 if fsdp == 1 else (1 / fsdp if data > 1 else 0.0), abs=0.01)
    if fsdp > 1:
        # Of weights, the compiler sends the 16 bits that it computes with.
        assert travelled == pytest.approx({"all-gather": 0.5, "reduce-scatter": 1.0}, abs=0.01)
    else:
        assert travelled == {}


@pytest.mark.slow
def test_what_does_not_fit_is_said() -> None:
    done = plan("--config", "configs/gpt2_124m.toml", "--topology", "v5e:1x1", "train.micro_batch=480")
    assert done.returncode == 1
    assert "DOES NOT FIT" in done.stdout
    assert "exceeds available HBM" in done.stdout
    assert "--search" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        ("train.batch_size=8", "train.micro_batch=8", "data.packing=documents"),
        ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "model.n_kv_heads=4", "model.remat=full"),
    ],
)
def test_splash_attention_compiles_and_saves_traffic(settings: tuple[str, ...]) -> None:
    arguments = ("gpt2_124m", "--decode-batch", "0", "model.n_layers=2", *settings)
    fused, plain = planned(*arguments), planned(*arguments, "model.attention=xla")
    # Of two layers and few sequences most traffic is the optimizer's.
    assert fused["bytes"] < 0.96 * plain["bytes"]
    # Nine products in place of six, for the three quarters of pairs that the mask leaves of blocks of 512.
    assert fused["flops"] == pytest.approx(plain["flops"], rel=0.03)
