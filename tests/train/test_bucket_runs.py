"""A run in a bucket of a real S3 server: trained, cut off from it, stopped, gone on with elsewhere, opened, killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from s3fs import S3FileSystem

from jslm.config import Config, config_to_toml
from jslm.runs import mirror
from jslm.train.__main__ import main

ROOT = Path(__file__).resolve().parents[2]


def complete(bucket: Any, run: str) -> list[int]:
    names = bucket.names(f"{run}/checkpoints/")
    return sorted(int(name.split("/")[-2][5:]) for name in names if name.endswith("/manifest.json"))


def newest(folder: Path) -> int:
    return max((int(path.name[5:]) for path in (folder / "checkpoints").glob("step_????????")), default=0)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise AssertionError(process.communicate())
        time.sleep(0.02)


def place(bucket: Any) -> str:
    """Where the cache has what is in this server's bucket."""
    return f"s3@{quote(bucket.address, safe='')}/bucket"


@pytest.mark.slow
def test_cut_off_stopped_and_gone_on_with_on_another_machine(
    bucket: Any, make_config: Callable[..., Config], helpers: Any, tmp_path: Path
) -> None:
    keys = {"steps": 1_000_000, "eval_every": 0, "log_every": 50, "report": True, "tensorboard": True}
    config = make_config("unused", train=keys, checkpoint={"every": 50}, optimizer={"schedule": "constant"})
    file = tmp_path / "run.toml"
    file.write_text(config_to_toml(config.model_copy(update={"run_dir": "s3://bucket/e2e"})), "utf-8")
    here = helpers.Process(file)
    here.environment |= bucket.environment | {"JSLM_CACHE": str(tmp_path / "here")}
    metrics = tmp_path / "here" / "runs" / place(bucket) / "e2e" / "metrics.jsonl"
    said, cut_off = tmp_path / "said", "training goes on, and uploads go on when it can be reached"
    with said.open("w") as stderr:
        process = here.start(stderr=stderr)
    wait_for(lambda: bool(complete(bucket, "e2e")), process)
    bucket.stop()
    try:
        # Two that could not go up, one after the other, and training is past them.
        for _ in range(2):
            saved = newest(metrics.parent)
            wait_for(lambda: newest(metrics.parent) > saved, process)  # noqa: B023
        trained = metrics.stat().st_size
        wait_for(lambda: metrics.stat().st_size > trained, process)
        wait_for(lambda: cut_off in said.read_text(), process)
    finally:
        bucket.start()
    before = complete(bucket, "e2e")[-1]
    wait_for(lambda: complete(bucket, "e2e")[-1] > before, process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    err = said.read_text()
    assert process.returncode == 128 + signal.SIGTERM, err
    saved = complete(bucket, "e2e")[-1]
    assert f"stopped by SIGTERM at step {saved:,}; saved." in err
    assert "s3://bucket/e2e: uploaded; the same command on any machine goes on from there" in err
    assert err.count(cut_off) == 1
    assert err.count("s3://bucket/e2e: reached again after") == 1
    # The newest, and at most one more: the bucket keeps what the folder does.
    kept = {name.split("/")[2] for name in bucket.names("e2e/checkpoints/")}
    assert kept == {f"step_{step:08d}" for step in complete(bucket, "e2e")}
    assert len(kept) == 2

    # Another machine, with two devices and nothing of the run on it.
    there = helpers.Process(file)
    there.environment |= bucket.environment | {"JSLM_CACHE": str(tmp_path / "there")}
    there.environment["XLA_FLAGS"] = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=2"
    done = there.run(f"train.steps={saved + 50}")
    assert done.returncode == 0, done.stderr
    assert f"resuming at step {saved:,}" in done.stderr
    assert "mesh        data 2" in done.stderr
    assert complete(bucket, "e2e")[-1] == saved + 50
    steps = [line["step"] for line in map(json.loads, bucket.read("e2e/metrics.jsonl").splitlines())]
    assert sorted(set(steps)) == sorted({*range(50, saved + 51, 50), saved, saved + 50})
    assert {"e2e/report.html", "e2e/samples.md", "e2e/run.json", "e2e/data/meta.json"} <= set(bucket.names("e2e/"))
    assert len(bucket.names("e2e/tensorboard/")) == 2

    # A third one reads.
    reading = os.environ | bucket.environment | {"PYTHONPATH": str(ROOT), "JSLM_CACHE": str(tmp_path / "reading")}
    command = [sys.executable, "-m", "jslm.sample", "--run", "s3://bucket/e2e", "--prompt", "the", "--json"]
    sampled = subprocess.run(command, env=reading, capture_output=True, text=True)
    assert sampled.returncode == 0, sampled.stderr
    assert '"prompt": "the"' in sampled.stdout


@pytest.mark.slow
def test_what_could_not_go_up_at_the_end_fails_and_goes_up_with_the_same_command(
    bucket: Any,
    make_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = make_config("unused", train={"report": True}, checkpoint={"every": 4})
    file = tmp_path / "run.toml"
    file.write_text(config_to_toml(config.model_copy(update={"run_dir": "s3://bucket/late"})), "utf-8")
    for name, value in (bucket.environment | {"JSLM_CACHE": str(tmp_path / "here")}).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()
    monkeypatch.setattr(mirror, "END_SECONDS", 2.0)
    here = tmp_path / "here" / "runs" / place(bucket) / "late"

    def cut(method: str, path: str) -> None:
        if method == "PUT" and "/late/" in path and path.endswith("/manifest.json"):
            bucket.after = lambda method, path: None
            bucket.stop()

    bucket.after = cut
    try:
        assert main(["--config", str(file)]) == 2
    finally:
        bucket.start()
    said = capsys.readouterr().err
    assert said.count("training goes on, and uploads go on when it can be reached") <= 1
    (error,) = (line for line in said.splitlines() if line.startswith("jslm train: error: "))
    assert "s3://bucket/late: not all of the run could be uploaded in 2 s: " in error
    assert error.endswith(f"; it is whole in {here}: the same command on this machine uploads it")
    assert newest(here) == 12
    assert len(complete(bucket, "late")) == 1
    assert main(["--config", str(file)]) == 0
    assert "nothing to do" in capsys.readouterr().err
    assert complete(bucket, "late")[-1] == 12
    for name in ("report.html", "run.json", "metrics.jsonl", "samples.md"):
        assert bucket.read(f"late/{name}") == (here / name).read_bytes(), name
    S3FileSystem.clear_instance_cache()


@pytest.mark.slow
@pytest.mark.parametrize(("store", "kills"), [("s3", 5), ("gs", 3)])
def test_kills_in_the_middle_of_uploads_lose_nothing(store: str, kills: int) -> None:
    """`scripts/kill_drill.py --kills 30` is the whole of it."""
    pytest.importorskip({"s3": "moto", "gs": "gcp_storage_emulator"}[store], reason="not installed: make dev")
    command = [sys.executable, str(ROOT / "scripts" / "kill_drill.py"), "--kills", str(kills), "--seed", "1"]
    done = subprocess.run([*command, "--store", store], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (last,) = (line for line in done.stdout.splitlines() if "lost a checkpoint" in line)
    assert last.startswith(f"{kills} kills, 0 lost a checkpoint; left unfinished at the end: none; arrays the same, ")
    assert re.search(r"losses of \d+ steps the same$", last)
