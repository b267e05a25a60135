"""The plan's memory against what a process really takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A quarter of a gigabyte, so that the runtime's own few megabytes do not matter.
CONFIG = """
[tokenizer]
kind = "byte"

[model]
n_layers = 4
d_model = 512
n_heads = 8
context_length = 256

[train]
steps = 10
batch_size = 8
"""
# The peak of resident memory while the step runs, over what was resident before the state was made. Compiling is over
# by then, its freed memory is handed back, and the kernel's high-water mark is reset.
MEASURE = """
import ctypes, gc, json, sys, time
import jax, jax.numpy as jnp, numpy as np
from jslm.config import load_config
from jslm.model import compute_dtype
from jslm.parallel import batch_sharding, make_mesh
from jslm.plan.program import compile_train
from jslm.learn import abstract_state, make_optimizer, make_train_step
from jslm.learn.state import init_state

config = load_config(sys.argv[1], ["model.vocab_size=257"])
mesh, dtype = make_mesh(config.mesh), compute_dtype(config.model)
optimizer = make_optimizer(config.optimizer, 10)

def resident(field):
    with open("/proc/self/status") as file:
        return 1024 * int(next(line for line in file if line.startswith(field)).split()[1])

with jax.set_mesh(mesh):
    shape = (1, config.train.batch_size, config.model.context_length)
    rows = jax.device_put(np.ones(shape, np.int32), batch_sharding(mesh, accumulation=True))
    batch = {"inputs": rows, "targets": rows}
    step = make_train_step(config, optimizer, 10, mesh, dtype).lower(
        abstract_state(config, optimizer, mesh, dtype), batch
    ).compile()
    state = init_state(config, optimizer, mesh, dtype)
    state, metrics = step(state, batch)
    jax.block_until_ready(state)
    del state
    # The runtime's threads let go of buffers when they come to it.
    before = resident("VmRSS")
    for _ in range(30):
        time.sleep(0.1)
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        before = min(before, resident("VmRSS"))
    state = init_state(config, optimizer, mesh, dtype)
    jax.block_until_ready(state)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    for _ in range(2):
        state, metrics = step(state, batch)
        jax.block_until_ready(state)
    print(json.dumps({"before": before, "peak": resident("VmHWM") - before}))
"""


@pytest.mark.slow
def test_estimate_for_a_cpu_is_within_15_percent_of_the_measured_peak(tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("measures with the high-water mark of /proc, which is not here")
    path = tmp_path / "quarter_gigabyte.toml"
    path.write_text(f'run_dir = "{tmp_path / "run"}"\n{CONFIG}', "utf-8")
    # Blocks of a megabyte and more go back to the kernel when freed: what stays resident is in use.
    fixed = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | fixed

    def run(*arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        return dict(json.loads(done.stdout))

    measured = run("-c", MEASURE, str(path))["peak"]
    plan = run("-m", "jslm.plan", "--config", str(path), "--topology", "cpu", "--json", "--decode-batch", "0")
    estimate = plan["memory"]["total"]
    assert measured > 2e8
    assert abs(estimate / measured - 1) < 0.15, f"estimated {estimate:,}, measured {measured:,}: {plan['memory']}"
