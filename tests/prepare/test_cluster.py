"""The same files from a Dask cluster: a real scheduler and two worker processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jslm.config import Config, DataConfig, PrepareConfig, TokenizerConfig
from jslm.errors import JslmError
from jslm.prepare import encode, prepare
from jslm.prepare.tasks import Task, Workers, run_tasks

distributed = pytest.importorskip("distributed")
ROOT = Path(__file__).resolve().parents[2]
silent: Callable[[str], None] = lambda message: None  # noqa: E731
# distributed's own use of tornado and dask.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:distributed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (folder / "log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"},
            cwd=folder,
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A scheduler's address, with two workers; and a folder from which they import."""
    folder = tmp_path_factory.mktemp("cluster")
    file = folder / "scheduler.json"
    processes = [
        start(
            folder,
            "distributed.cli.dask_scheduler",
            *("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--no-show", "--scheduler-file", str(file)),
        )
    ]
    try:
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text():
            assert processes[0].poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.1)
        address = json.loads(file.read_text())["address"]
        for _ in range(2):
            processes.append(
                start(folder, "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny", "--no-dashboard")
            )
        with distributed.Client(address, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        yield address, folder
    finally:
        # Workers first: without their scheduler they take their time.
        for process in reversed(processes):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_the_files_are_those_of_this_machine(
    cluster: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode, "CHUNK_CHARACTERS", 20_000)
    config = Config(
        run_dir=str(tmp_path / "here"),
        data=DataConfig(source="stories:300KB:seed=1", cleaners=["normalize"]),
        tokenizer=TokenizerConfig(kind="bpe", vocab_size=500),
        prepare=PrepareConfig(workers=1),
    )
    here = prepare(config, log=silent)
    there = prepare(
        config.model_copy(
            update={"run_dir": str(tmp_path / "there"), "prepare": PrepareConfig(executor=cluster[0])},
        ),
        log=silent,
    )
    for name in ("train.bin", "train.idx", "val.bin", "val.idx", "tokenizer.json", "meta.json"):
        assert (there.dir / name).read_bytes() == (here.dir / name).read_bytes(), name


def test_both_workers_work_and_results_keep_their_order(
    cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, folder = cluster
    (folder / "slowly.py").write_text(
        "import os, time\ndef slowly(shared, work):\n    time.sleep(0.2 if work % 2 else 0.01)\n"
        "    return shared, work, os.getpid()\n"
    )
    monkeypatch.syspath_prepend(folder)
    import slowly  # type: ignore[import-not-found]

    tasks = (Task(number, number, 1) for number in range(20))
    results = list(run_tasks(slowly.slowly, "shared", tasks, Workers(address=address)))
    assert [(kept, result[:2]) for kept, result in results] == [(n, ("shared", n)) for n in range(20)]
    assert len({result[2] for _, result in results} - {os.getpid()}) == 2


def test_nobody_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jslm.prepare.cluster.CONNECT_SECONDS", 1)
    with pytest.raises(JslmError, match="no Dask scheduler answers there") as caught:
        list(run_tasks(max, 1, [Task(None, 2, 1)], Workers(address="tcp://127.0.0.1:9")))
    assert "\n" not in str(caught.value)


def test_a_worker_without_jslm_of_this_version_is_refused(
    cluster: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jslm.__version__", "99.0")
    with pytest.raises(JslmError, match=r"worker tcp://.* has jslm .*, this process 99\.0; install the same version"):
        list(run_tasks(max, 1, [Task(None, 2, 1)], Workers(address=cluster[0])))
