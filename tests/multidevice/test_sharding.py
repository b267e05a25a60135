"""Eight devices compute what one does, whatever the mesh; and fsdp splits what it should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jslm.config import Config, MeshConfig, ModelConfig, TrainConfig
from jslm.errors import JslmError

pytestmark = pytest.mark.multidevice


@pytest.fixture(scope="module", params=["adamw", "muon"])
def runs(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Losses of 20 steps on each mesh, from a process with 8 CPU devices."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = Path(__file__).with_name("sharded_losses.py")
    done = subprocess.run(
        [sys.executable, str(script), request.param], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("mesh", ["data", "fsdp", "tensor", "mixed"])
def test_losses_equal_one_device(runs: dict[str, Any], mesh: str) -> None:
    np.testing.assert_allclose(runs[mesh]["losses"], runs["one"]["losses"], rtol=1e-4)
    # The losses move, so that equality says something.
    assert np.ptp(runs["one"]["losses"]) > 0.01


@pytest.mark.parametrize(
    ("mesh", "wanted"),
    [
        ("one", {}),
        ("data", {"all-reduce": 1.0}),
        ("fsdp", {"all-gather": 1.0, "reduce-scatter": 1.0, "all-reduce": 0.0}),
        # The sum of parts over the two groups that hold the same ones.
        ("both", {"all-gather": 1.0, "reduce-scatter": 1.0, "all-reduce": 1 / 4}),
    ],
)
def test_weights_and_gradients_travel_once_a_step(runs: dict[str, Any], mesh: str, wanted: dict[str, float]) -> None:
    """Of two micro-batches, with dropout: weights are gathered once, a gradient of each is summed once, a few numbers
    beside; and each row keeps the mask that it has on one device."""
    if "one, in parts" not in runs:
        pytest.skip("seen with AdamW")
    found = runs[f"{mesh}, in parts"]
    np.testing.assert_allclose(found["losses"], runs["one, in parts"]["losses"], rtol=1e-4)
    assert found["travelled"].keys() == wanted.keys()
    for kind, share in wanted.items():
        # The vectors, which `fsdp` splits too or not at all, and what metrics need.
        assert share - 0.01 <= found["travelled"][kind] < share + 0.01, kind


def test_share_of_the_state_a_device_holds(runs: dict[str, Any]) -> None:
    assert runs["data"]["share"] == 1.0
    assert 1 / 8 <= runs["fsdp"]["share"] < 1.1 / 8
    assert 1 / 8 <= runs["tensor"]["share"] < 1.3 / 8
    assert 1 / 4 <= runs["mixed"]["share"] < 1.3 / 4


def test_mesh_that_does_not_fit_is_refused() -> None:
    from jslm.parallel import check_mesh_fits, make_mesh

    with pytest.raises(JslmError, match=r"mesh\.data = 3.* does not fit 1 device"):
        make_mesh(MeshConfig(data=3))
    with pytest.raises(JslmError, match="does not fit 1 device"):
        make_mesh(MeshConfig(data=-1, fsdp=2))
    config = Config(model=ModelConfig(d_model=48, n_heads=6, vocab_size=100), train=TrainConfig(batch_size=3))

    class EightDevices:
        shape = {"data": 2, "fsdp": 1, "tensor": 4}  # noqa: RUF012

    with pytest.raises(JslmError, match=r"mesh\.tensor = 4 does not divide model\.n_heads = 6"):
        check_mesh_fits(config, EightDevices())  # type: ignore[arg-type]
