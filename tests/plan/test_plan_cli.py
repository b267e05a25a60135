"""The command line of `jslm plan` on this machine, and what it says where something is missing."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from jslm.config import Config, ModelConfig, load_config
from jslm.errors import JslmError
from jslm.model import compute_dtype, flops_per_token
from jslm.plan import make_plan
from jslm.plan.__main__ import main
from jslm.plan.assume import resolve
from jslm.plan.search import search_plans
from jslm.plan.show import describe_plan, describe_search
from jslm.plan.topology import check_topology, topology_devices

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    "tokenizer.kind=byte",
    "model.n_layers=2",
    "model.d_model=32",
    "model.n_heads=2",
    "model.context_length=16",
    "train.batch_size=4",
    "train.steps=10",
]


@pytest.fixture(autouse=True)
def _same_settings_after() -> Iterator[None]:
    """The command line turns the compilation cache off for its process, which here is everyone's."""
    before = jax.config.jax_enable_compilation_cache
    yield
    jax.config.update("jax_enable_compilation_cache", before)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(f'run_dir = "{tmp_path / "run"}"\n', "utf-8")
    return path


@pytest.mark.parametrize(
    ("topology", "said"),
    [
        ("v4:2x2x1", "expected CHIP:SHAPE with a chip of v5e, v5p, v6e"),
        ("v5e", "expected CHIP:SHAPE"),
        ("v5e:2x2x1", "a v5e slice has 2 sides, found 3"),
        ("v5p:2x2", "a v5p slice has 3 sides, found 2"),
        ("v5e:32x32", "1,024 chips; one slice of 1 to 512"),
        ("v6e:0x4", "0 chips"),
        ("h300", "a GPU of h100, h200"),
        ("h100:0", "expected h100:N with 1 to 64 GPUs"),
        ("t4:2x2", "expected t4:N"),
    ],
)
def test_bad_topology(topology: str, said: str) -> None:
    with pytest.raises(JslmError, match=said):
        check_topology(topology)


def test_absent_compiler_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    with pytest.raises(JslmError, match=r"needs the TPU compiler \(libtpu\).*pip install .*\[plan\]"):
        topology_devices("v5e:2x4")


def test_absent_gpu_is_one_line(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        topology_devices("gpu")
    except JslmError:
        assert main(["--config", str(tiny), *TINY, "--topology", "gpu"]) == 2
        assert capsys.readouterr().err.startswith("jslm plan: error: --topology gpu: JAX finds no such device")
    else:
        pytest.skip("a GPU is here")


def test_plan_for_this_machine(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tiny), *TINY, "train.micro_batch=2", "--topology", "cpu", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    config = load_config(tiny, [*TINY, "model.vocab_size=257"])
    assert plan["dtype"] == "float32"
    assert plan["fits"]
    # float32 weights over the padded vocabulary (384), and two moments.
    padded = plan["parameters"] + (384 - 257) * 32
    assert plan["memory"]["parameters"] == 4 * padded
    assert plan["memory"]["optimizer"] == pytest.approx(8 * padded, abs=64)
    assert plan["memory"]["batch"] == 2 * 4 * 4 * 16
    assert plan["memory"]["total"] == sum(v for name, v in plan["memory"].items() if name != "total")
    # The products of the step: 6 a weight and token, and attention without a causal skip (padding adds to the head).
    needed = flops_per_token(config.model) * 4 * 16
    attention = 6 * 2 * 32 * 16 * 4 * 16
    padding = 6 * (384 - 257) * 32 * 4 * 16
    # On CPUs a product finds each number's partner of the rotary positions, forward and backward, in 2 layers.
    rotary = 2 * 2 * (2 * (2 + 2) * 16 * 16) * 4 * 16
    assert plan["flops"] == pytest.approx(needed + attention + padding + rotary, rel=0.02)
    assert plan["run_seconds"] == pytest.approx(10 * plan["roofline"]["seconds"])
    assert plan["decode"]["flops"] > 2 * plan["parameters"]


def test_text_says_all_kinds(tiny: Path) -> None:
    config = load_config(tiny, [*TINY, "tokenizer.kind=char", "train.steps=0"])
    text = describe_plan(make_plan(config, "cpu"))
    for word in (
        "parameters",
        "optimizer",
        "activations, gradients",
        "arithmetic",
        "memory",
        "links",
        "MFU",
        "decoding",
    ):
        assert word in text
    assert "assumed: a vocabulary of 128 characters" in text
    assert "unknown: the length of the run" in text
    assert "accelerator-hours" not in text


def test_search_ranks_what_was_compiled(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tiny), *TINY, "--topology", "cpu", "--search", "--tries", "3"]) == 0
    assert "3 tried, 3 fit. The first: mesh.data=1" in capsys.readouterr().out
    assert main(["--config", str(tiny), *TINY, "--topology", "cpu", "--search", "--tries", "3", "--json"]) == 0
    plans = json.loads(capsys.readouterr().out)
    seconds = [plan["roofline"]["seconds"] for plan in plans]
    assert len(set(seconds)) > 1
    assert seconds == sorted(seconds)
    assert sum(plan["as_given"] for plan in plans) == 1


def test_search_says_how_the_best_stands_to_the_config(tiny: Path) -> None:
    plans = search_plans(load_config(tiny, [*TINY, "train.micro_batch=1", "model.remat=full"]), "cpu", tries=2)
    (own,) = [plan for plan in plans if plan.as_given]
    assert (own.micro_batch, own.remat) == (1, "full")
    worse = [dataclasses.replace(plan, as_given=plan is not plans[0]) for plan in plans]
    assert re.search(r"^[1-9]\d*\.\d\d times as fast as the config as it is\.$", describe_search(worse), re.M)
    best = [dataclasses.replace(plan, as_given=plan is plans[0]) for plan in plans]
    assert "These are the config's own settings: nothing that was tried is faster." in describe_search(best)
    cramped = [worse[0], dataclasses.replace(worse[1], fits=False)]
    assert "As it is, the config does not fit." in describe_search(cramped)


@pytest.mark.parametrize("settings", [["train.micro_batch=auto"], ["train.micro_batch=1", "model.remat=full"]])
def test_search_recommends_nothing_slower_than_what_it_was_given(tiny: Path, settings: list[str]) -> None:
    plans = search_plans(load_config(tiny, [*TINY, *settings]), "cpu", tries=2)
    (own,) = [plan for plan in plans if plan.as_given]
    assert plans[0].seconds_per_sequence <= own.seconds_per_sequence
    # What `auto` is here: all of the batch.
    assert own.micro_batch == (4 if settings == ["train.micro_batch=auto"] else 1)


def test_search_looks_for_a_mesh_where_the_config_has_none_that_suits(tiny: Path) -> None:
    (plan,) = search_plans(load_config(tiny, [*TINY, "mesh.data=3"]), "cpu", tries=1)
    assert not plan.as_given
    assert plan.mesh == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize("arguments", [["--tries", "0"], ["--decode-batch", "-1"]])
def test_bad_numbers(tiny: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", str(tiny), "--topology", "cpu", *arguments]) == 2
    assert f"{arguments[0]} {arguments[1]}: expected a number" in capsys.readouterr().err


def test_batches_are_changed_to_divide_and_said() -> None:
    config = Config.model_validate({"train": {"batch_size": 12, "steps": 5}, "model": {"vocab_size": 300}})
    resolved, notes = resolve(config, 8)
    assert (resolved.train.batch_size, resolved.train.micro_batch) == (16, 16)
    assert notes == ["changed to divide over 8 devices: train.batch_size=16 train.micro_batch=16 (was 12 and 12)"]


@pytest.mark.parametrize(("kind", "size"), [("gpt2", 50257), ("byte", 257), ("bpe", 4096), ("char", 128)])
def test_vocabulary_is_the_tokenizers(kind: str, size: int) -> None:
    config = Config.model_validate({"tokenizer": {"kind": kind}, "train": {"steps": 1}})
    assert resolve(config, 1)[0].model.vocab_size == size


def test_steps_come_from_prepared_data(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("A line of text to count.\n" * 400, "utf-8")
    from jslm.prepare import ensure_prepared

    values = {
        "run_dir": str(tmp_path / "run"),
        "data": {"source": str(text)},
        "tokenizer": {"kind": "byte"},
        "model": {"context_length": 16},
        "train": {"batch_size": 4, "epochs": 2.0},
    }
    config = Config.model_validate(values)
    tokens = ensure_prepared(config).meta["train"]["tokens"]
    resolved, notes = resolve(config, 1)
    # As training counts: every token but the first is a target.
    assert resolved.train.steps == math.ceil(2 * math.ceil((tokens - 1) / 16) / 4)
    assert f"{tokens:,} tokens" in notes[0]


def test_type_of_computation_is_that_of_the_planned_device() -> None:
    assert compute_dtype(ModelConfig(), platform="tpu").name == "bfloat16"
    assert compute_dtype(ModelConfig(), platform="cpu").name == "float32"
    assert compute_dtype(ModelConfig(dtype="float16"), platform="tpu").name == "float16"


def test_undecided_micro_batch_is_the_largest_that_fits(tiny: Path) -> None:
    plan = make_plan(load_config(tiny, [*TINY, "train.micro_batch=auto"]), "cpu", decode_batch=0)
    assert plan.micro_batch == 4
    assert "train.micro_batch=auto is 4 here" in plan.notes
