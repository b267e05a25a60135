"""A run folder that older code wrote (26 November 2026), before model, training and decoding were rebuilt."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

import jslm
from jslm.config import load_config
from jslm.model import kernels
from jslm.model.kernels import cpu, plain
from jslm.runs.checkpoint import CheckpointStore, flatten_tree
from jslm.runs.folder import RunFolder
from jslm.runs.model import read_run
from jslm.train import train

ARCHIVE = Path(__file__).parent / "data" / "run_of_2026-11-26.tar.xz"


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which it was trained: c.toml, text.txt, data, old_run with steps 6 and 12, expected.json."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_opens_and_writes_what_it_wrote(old: Path) -> None:
    expected = json.loads((old / "expected.json").read_text("utf-8"))
    model = jslm.load(old / "old_run")
    (result,) = model.generate_results("the ", greedy=True, max_new_tokens=10)
    assert result.text == expected["greedy"]
    np.testing.assert_allclose(result.logprobs, expected["logprobs"], atol=1e-5)
    assert model.generate("a ", seed=4, temperature=1.0, max_new_tokens=10) == expected["drawn"]


def test_it_goes_on_as_it_did(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From its step 6, with accumulation, averages, and dropout by the masks of its time, to the weights that it had at
    step 12. (Masks are hashes since, so that elements of their own drop out.)"""
    of_its_time = dataclasses.replace(cpu.training("blocked"), dropout=plain.dropout, attention=plain.attention)
    monkeypatch.setattr(kernels, "_training", lambda *_: of_its_time)
    wanted = flatten_tree(read_run(old / "old_run", checkpoint="12", ema=False).params)
    averaged = flatten_tree(read_run(old / "old_run", checkpoint="12", ema=True).params)
    shutil.rmtree(old / "old_run" / "checkpoints" / "step_00000012")
    outcome = train(load_config(old / "c.toml"))
    assert (outcome.status, outcome.step) == ("finished", 12)
    assert CheckpointStore(RunFolder(old / "old_run").checkpoints).steps() == [6, 12]
    for ema, before in ((False, wanted), (True, averaged)):
        after = flatten_tree(read_run(old / "old_run", checkpoint="12", ema=ema).params)
        assert after.keys() == before.keys()
        for name, array in after.items():
            np.testing.assert_allclose(array, before[name], atol=2e-5, err_msg=name)


def test_finished_it_is_left_alone(old: Path) -> None:
    before = {path: path.read_bytes() for path in (old / "old_run").rglob("*") if path.is_file()}
    assert train(load_config(old / "c.toml")).status == "finished"
    changed = {path.name for path in before if path.read_bytes() != before[path]}
    assert changed <= {"run.json", "config.toml", "report.html"}, "checkpoints and metrics stay as they are"
