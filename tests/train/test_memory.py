"""`train.micro_batch = "auto"`, and one line where a device's memory runs out: real allocations that fail."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from jslm.cli import is_out_of_memory
from jslm.config import Config, config_to_toml
from jslm.errors import JslmError
from jslm.parallel import make_mesh
from jslm.plan import compile_step, largest_micro_batch, with_settings
from jslm.runs.folder import RunFolder
from jslm.train import train

ROOT = Path(__file__).resolve().parents[2]
MakeConfig = Callable[..., Config]
LIMITED = """
import resource, runpy, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
sys.argv = sys.argv[2:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


def limited(gigabytes: float, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m ...` that gets so much memory, and no more, from the kernel."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JSLM_HUGE_PAGES": "off"}
    command = [sys.executable, "-c", LIMITED, str(int(gigabytes * 2**30)), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


@pytest.mark.slow
def test_step_without_memory_says_what_to_lower_and_what_plan_estimates(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    model = {"n_layers": 2, "d_model": 64, "context_length": 128}
    # Six gigabytes of activations.
    config = make_config(model=model, train={"steps": 1, "batch_size": 4096, "eval_batch_size": 4})
    path = tmp_path / "big.toml"
    path.write_text(config_to_toml(config), "utf-8")
    done = limited(3, "jslm.train", "--config", str(path))
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().split("\n")[-1]
    assert re.match(r"jslm train: error: out of memory on CPU, \d+ cores \(asked for \d+ bytes\);", said)
    assert re.search(r"a step takes an estimated [\d.]+ GB a device \([\d.]+ kB of them weights and optimizer\)", said)
    assert "lower train.micro_batch (now 4096, or 'auto' for what fits), or set model.remat = 'full'" in said
    assert f"jslm plan --config {tmp_path / 'run' / 'config.toml'} --topology cpu --search" in said
    # The same run fits with a part of the rows at once.
    done = limited(3, "jslm.train", "--config", str(path), "train.micro_batch=256")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_sampling_without_memory_is_one_line(make_config: MakeConfig) -> None:
    config = make_config(model={"d_model": 64, "context_length": 512}, train={"steps": 1, "batch_size": 1})
    train(config)
    run = ["--run", config.run_dir]
    done = limited(1.1, "jslm.sample", *run, "--num-samples", "8000", "--max-new-tokens", "500")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    said = done.stderr.strip().split("\n")[-1]
    assert said.startswith("jslm sample: error: out of memory (")
    assert said.endswith("; give fewer prompts or --num-samples at once, or a shorter --max-new-tokens")


def test_arrays_that_no_memory_holds_are_recognised() -> None:
    with pytest.raises(Exception, match=r"(?i)out of memory|exhausted") as caught:
        jnp.zeros((2**46,), jnp.int8).block_until_ready()
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("RESOURCE_EXHAUSTED: write: No space left on device"))
    assert not is_out_of_memory(ValueError("memory"))


def resolved(config: Config) -> Config:
    return with_settings(config, model={"vocab_size": 40})


@pytest.mark.slow
def test_largest_micro_batch_is_the_last_that_fits(make_config: MakeConfig) -> None:
    config = resolved(make_config(model={"context_length": 64}, train={"batch_size": 4, "micro_batch": "auto"}))
    mesh, dtype = make_mesh(config.mesh), jnp.dtype(jnp.float32)
    needed = compile_step(with_settings(config, train={"micro_batch": 2}), mesh, dtype).memory.total
    chosen, program = largest_micro_batch(config, mesh, dtype, needed)
    assert chosen.train.micro_batch == 2
    assert program.memory.total == needed
    chosen, program = largest_micro_batch(config, mesh, dtype, 1e12)
    assert chosen.train.micro_batch == 4
    assert program.memory.total > needed
    one = with_settings(config, train={"batch_size": 1})
    with pytest.raises(JslmError, match=r"train\.micro_batch = 'auto': a step with 1 sequence\(s\) takes .* CPU"):
        largest_micro_batch(one, mesh, dtype, 1000)


@pytest.mark.slow
def test_run_keeps_its_first_choice(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = make_config(train={"micro_batch": "auto"})
    mesh = make_mesh(config.mesh)
    two = with_settings(config, model={"vocab_size": 21}, train={"micro_batch": 2})
    room = compile_step(two, mesh, jnp.dtype(jnp.float32)).memory.total
    asked = []

    def device_memory(device: jax.Device) -> float:
        asked.append(device)
        return float(room)

    monkeypatch.setattr("jslm.train.memory.device_memory", device_memory)
    with caplog.at_level(logging.INFO, "jslm"):
        train(with_settings(config, train={"steps": 4}))
    chosen = RunFolder(config.run_dir).read_config().train.micro_batch
    assert chosen in (1, 2, 4)
    said = [r.getMessage() for r in caplog.records if "micro_batch" in r.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"train.micro_batch = {chosen} of 8 sequences: ")
    # More memory changes nothing for a run that has begun.
    room, seen = 10**12, len(asked)
    train(config)
    assert RunFolder(config.run_dir).read_config().train.micro_batch == chosen
    assert len(asked) == seen


def test_undecided_is_a_whole_batch_and_only_that_word(make_config: MakeConfig) -> None:
    assert make_config(train={"micro_batch": "auto"}).train.micro_rows == 8
    assert make_config(train={"micro_batch": 4}).train.micro_rows == 4
    with pytest.raises(JslmError, match=r"train\.micro_batch"):
        make_config(train={"micro_batch": "most"})
    with pytest.raises(JslmError, match="does not divide"):
        make_config(train={"micro_batch": 3})
