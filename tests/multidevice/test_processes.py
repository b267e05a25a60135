"""Two real processes over gloo train, stop and go on as one does; runs go on with other processes or another mesh."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from jslm.config import load_config
from jslm.runs.checkpoint import CheckpointStore
from tests.multidevice.processes import Group, write_run

pytestmark = [pytest.mark.multidevice, pytest.mark.slow]

STEPS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("processes"))


@pytest.fixture
def start(folder: Path) -> Iterator[Any]:
    groups = []

    def make(name: str, count: int, *overrides: str, **options: Any) -> Group:
        groups.append(Group(folder, name, count, *overrides, **options))
        return groups[-1]

    yield make
    for group in groups:
        group.kill()


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, np.ndarray]:
    """The end of a run of two processes that nothing disturbed."""
    group = Group(folder, "whole", 2)
    try:
        first, second = group.finish()
    finally:
        group.kill()
    assert "mesh        data 2" in first
    assert "step " not in second, "only the first process speaks"
    return final_arrays(folder / "whole")


def final_arrays(run_dir: Path) -> dict[str, np.ndarray]:
    params = CheckpointStore(run_dir / "checkpoints").load_part(STEPS, "params")
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def assert_close(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    for name, array in wanted.items():
        # Sums in another order differ in the last bits, and Adam's first steps magnify what is nearly zero.
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-5 * np.abs(array).max(), err_msg=name)


def test_the_dial_is_asked_once_for_all(folder: Path, start: Any) -> None:
    small = ["model.n_layers=1", "model.d_model=32", "model.n_heads=1", "train.batch_size=2", "train.steps=6"]
    (folder / "longer.txt").write_text((folder / "text.txt").read_text("utf-8") * 2, "utf-8")
    for _ in range(2):
        first, second = start("dialled", 2, *small, "--minutes", "5", what=["longer.txt"]).finish()
    assert "dial.toml: chosen before, kept" in first
    assert "nothing to do" in first
    assert "dial.toml" not in second
    assert load_config(folder / "dialled" / "dial.toml").data.source == "longer.txt"


def test_two_processes_end_where_one_does(folder: Path, start: Any, whole: dict[str, np.ndarray]) -> None:
    start("one", 1).finish()
    assert_close(final_arrays(folder / "one"), whole)


def test_killed_together_and_started_again_end_with_the_same_bytes(
    folder: Path, start: Any, whole: dict[str, np.ndarray]
) -> None:
    killed = start("killed", 2)
    killed.wait_for_step(10)
    killed.kill()
    assert "resuming at step" in start("killed", 2).finish()[0]
    for name, array in final_arrays(folder / "killed").items():
        assert array.tobytes() == whole[name].tobytes(), name


def test_sigterm_to_one_stops_both_and_one_process_goes_on(
    folder: Path, start: Any, whole: dict[str, np.ndarray]
) -> None:
    stopped = start("stopped", 2)
    stopped.wait_for_step(6)
    # Twice, as launchers do that pass it on: the second must not cost the checkpoint.
    for _ in range(2):
        stopped.processes[1].send_signal(signal.SIGTERM)
    assert "stopped by SIGTERM" in stopped.finish(128 + signal.SIGTERM)[0]
    assert "resuming at step" in start("stopped", 1).finish()[0]
    assert_close(final_arrays(folder / "stopped"), whole)


def test_two_processes_go_on_where_one_stopped(folder: Path, start: Any, whole: dict[str, np.ndarray]) -> None:
    alone = start("alone", 1)
    alone.wait_for_step(6)
    alone.processes[0].send_signal(signal.SIGTERM)
    alone.finish(128 + signal.SIGTERM)
    assert "resuming at step" in start("alone", 2).finish()[0]
    assert_close(final_arrays(folder / "alone"), whole)


def test_another_mesh_goes_on(folder: Path, start: Any, whole: dict[str, np.ndarray]) -> None:
    sharded = start("sharded", 1, "mesh.data=1", "mesh.fsdp=4", devices=4)
    sharded.wait_for_step(6)
    sharded.processes[0].send_signal(signal.SIGTERM)
    assert "fsdp 4" in sharded.finish(128 + signal.SIGTERM)[0]
    text = start("sharded", 1, "mesh.data=2", "mesh.tensor=2", devices=4).finish()[0]
    assert "resuming at step" in text
    assert "data 2, fsdp 1, tensor 2" in text
    assert_close(final_arrays(folder / "sharded"), whole)
