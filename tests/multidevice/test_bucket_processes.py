"""Several processes of one run whose folder is in a bucket: one uploads, one holds it, all end together and go on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.multidevice.processes import Group, write_run

pytestmark = [pytest.mark.multidevice, pytest.mark.slow]

STEPS = 24
MANIFEST = re.compile(r"/bucket/(\w+)/checkpoints/step_(\d+)/manifest\.json")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("bucket-processes"))


@pytest.fixture
def start(bucket: Any, folder: Path) -> Iterator[Callable[..., Group]]:
    """`start(run, machine, count)`: processes with the cache of a machine, and the bucket."""
    groups = []

    def make(run: str, machine: str, count: int, *overrides: str) -> Group:
        environment = bucket.environment | {"JSLM_CACHE": str(folder / machine)}
        # All of them alike, and so as quickly compiled as the other tests' programs.
        environment["XLA_FLAGS"] = os.environ["XLA_FLAGS"]
        few = ("train.eval_every=0", "sample.prompts=[]", *overrides)
        groups.append(Group(folder, f"s3://bucket/{run}", count, *few, environment=environment))
        return groups[-1]

    yield make
    bucket.after = lambda method, path: None
    for group in groups:
        group.kill()


def losses(bucket: Any, run: str) -> dict[int, float]:
    lines = map(json.loads, bucket.read(f"{run}/metrics.jsonl").splitlines())
    return {line["step"]: line["train/loss"] for line in lines if "train/loss" in line}


def test_one_uploads_and_where_one_is_killed_both_go_on_elsewhere(bucket: Any, start: Callable[..., Group]) -> None:
    group = start("several", "here", 2)
    puts: Counter[str] = Counter()

    def stored(method: str, path: str) -> None:
        puts[path] += method == "PUT"
        found = MANIFEST.fullmatch(path)
        if method == "PUT" and found and int(found[2]) >= 8:
            group.processes[1].kill()

    bucket.after = stored
    first, _ = group.outputs()
    bucket.after = lambda method, path: None
    assert all(process.returncode for process in group.processes), first
    saved = {path: count for path, count in puts.items() if "/checkpoints/" in path}
    assert set(saved.values()) == {1}
    complete = max(int(found[2]) for found in map(MANIFEST.fullmatch, puts) if found)
    assert json.loads(bucket.read("several/writer.json"))["pid"] == group.processes[0].pid

    first, second = start("several", "there", 2).finish()
    resumed = re.search(r"resuming at step (\d+)", first)
    assert resumed, first
    assert int(resumed[1]) >= complete
    assert "s3://bucket/several" not in second, "only the first process speaks of the bucket"
    start("whole", "third", 2).finish()
    assert losses(bucket, "several") == losses(bucket, "whole")
    assert len(losses(bucket, "whole")) == STEPS
    assert {"several/run.json", "several/config.toml", "several/tokenizer.json"} <= set(bucket.names("several/"))


def test_another_run_in_the_folder_is_refused_in_one_line(bucket: Any, start: Callable[..., Group]) -> None:
    endless = ("train.steps=1000000", "optimizer.schedule=constant", "checkpoint.every=50")
    group = start("taken", "here", 2, *endless)
    deadline = time.monotonic() + 600
    while not any(name.endswith("/manifest.json") for name in bucket.names("taken/checkpoints/")):
        assert all(process.poll() is None for process in group.processes), group.outputs()
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (alone,) = start("taken", "there", 1, *endless).finish(2)
    several = start("taken", "elsewhere", 2, *endless).finish(2)
    refused = "run_dir = s3://bucket/taken: another training process (host "
    for said in (alone, several[0]):
        (line,) = (line for line in said.splitlines() if line.startswith("jslm train: error: "))
        assert refused in line
        assert f"process {group.processes[0].pid})" in line
    assert "run_dir = s3://bucket/taken: the first process ended, and says why" in several[1]
    assert not any("Traceback" in said for said in (alone, *several))
    # It was not disturbed.
    assert all(process.poll() is None for process in group.processes)
    group.processes[1].send_signal(signal.SIGTERM)
    said = group.finish(128 + signal.SIGTERM)[0]
    assert "s3://bucket/taken: uploaded; the same command on any machine goes on from there" in said
