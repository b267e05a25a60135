"""Two processes at one address or at two, and a kill between any two steps: nothing that was finished is lost."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jslm.errors import JslmError
from jslm.runs import remote
from jslm.runs.folder import RunFolder
from jslm.runs.lease import Lease, _is_gone
from jslm.runs.manifest import MANIFEST
from jslm.runs.mirror import Mirror, mirrored
from jslm.runs.remote import opened
from jslm.storage import DATA_LOCK, Objects, StorageError, announce, data_folder, folders, local_copy, push_data
from tests.runs.memory_runs import RUN, down, names, run, save, steps, wait_for

ROOT = Path(__file__).resolve().parents[2]
ARRAYS = "checkpoints/step_{:08d}/state/arrays"


class Killed(BaseException):
    """Nothing runs after it but what a test asks for."""


def test_a_checkpoint_saved_during_an_upload_has_its_metrics_there_before_it(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine("a")
    upload, write = Objects.upload, Objects.write
    metrics: dict[str, bytes | None] = {}

    def slow(self: Objects, file: Path, name: str) -> None:
        upload(self, file, name)
        if name == ARRAYS.format(1):
            save(folder, 2)

    def watched(self: Objects, name: str, data: bytes) -> None:
        write(self, name, data)
        if name.endswith(MANIFEST):
            metrics[name.split("/")[1]] = self.read("metrics.jsonl")

    monkeypatch.setattr(Objects, "upload", slow)
    monkeypatch.setattr(Objects, "write", watched)
    run(folder, [(1, None)])
    assert metrics == {"step_00000001": b'{"step": 1}\n', "step_00000002": b'{"step": 2}\n'}


def test_a_writer_that_slept_sends_nothing_over_what_another_has_finished(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # No beat: the machine sleeps. What wakes first is the thread that uploads.
    monkeypatch.setattr(Mirror, "_live", lambda self: None)
    first = Mirror(machine("a"), RUN, 2)
    first.start()
    run(machine("b"), [(1, None), (2, None)])
    before = {name: Objects(RUN).read(name) for name in names()}
    assert before[ARRAYS.format(2)] == b"arrays of 2"
    save(first.folder, 2, text="another's")
    wait_for(lambda: first.lost is not None)
    assert {name: Objects(RUN).read(name) for name in names()} == before


def test_of_two_that_begin_at_once_the_first_ends_before_it_trains(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mirror, "_live", lambda self: None)
    first, second = Mirror(machine("a"), RUN, 2), Mirror(machine("b"), RUN, 2)
    fetch = Mirror._fetch

    def meanwhile(self: Mirror, continues: bool) -> None:
        if self is first:
            second._lease.take()
            Objects(RUN).write(ARRAYS.format(1), b"on its way")
        fetch(self, continues)

    monkeypatch.setattr(Mirror, "_fetch", meanwhile)
    with pytest.raises(JslmError, match="another training process"):
        first.start()
    assert ARRAYS.format(1) in names()


def test_a_beat_on_its_way_does_not_arrive_after_the_end(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine("a")
    held = Lease(Objects(RUN))
    held.take()
    write, is_writing, may_go_on = Objects.write, threading.Event(), threading.Event()

    def slow(self: Objects, name: str, data: bytes) -> None:
        if not is_writing.is_set():
            is_writing.set()
            may_go_on.wait(10)
        write(self, name, data)

    monkeypatch.setattr(Objects, "write", slow)
    beat, end = threading.Thread(target=held.beat), threading.Thread(target=held.end)
    beat.start()
    assert is_writing.wait(10)
    end.start()
    end.join(0.3)
    may_go_on.set()
    beat.join(10)
    end.join(10)
    last = Objects(RUN).read("writer.json") or b""
    assert json.loads(last)["ended"]
    held.beat()
    assert Objects(RUN).read("writer.json") == last


def test_who_could_not_begin_keeps_nobody_waiting(
    machine: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(machine("a"), [(1, None)])
    Objects(RUN).write(ARRAYS.format(1), b"arrayz of 1")
    for name in ("b", "c"):
        with pytest.raises(JslmError, match="every checkpoint is damaged"):
            run(machine(name), [])
    assert "may still be writing here" not in capsys.readouterr().err


def test_who_could_not_begin_leaves_work_that_is_ahead_its_place(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = machine("a")
    run(ours, [(1, None)])
    save(ours, 2)
    with monkeypatch.context() as patch:
        other = machine("b")
        patch.setattr(Objects, "download", down)
        with pytest.raises(StorageError, match="ConnectionError"):
            run(other, [])
    assert json.loads(Objects(RUN).read("writer.json") or b"")["ended"]
    machine("a")
    with monkeypatch.context() as patch:
        patch.setattr(Mirror, "_fetch", down)
        for _ in range(8):
            with pytest.raises(StorageError, match="ConnectionError"):
                run(ours, [])
    run(ours, [])
    assert steps() == [1, 2]
    assert not list(ours.parent.glob("run.aside-*"))


def test_a_writer_that_slept_while_another_could_not_begin_has_lost_the_run(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had on its way is gone, so that its manifest would name objects that are not there."""
    monkeypatch.setattr(Mirror, "_live", lambda self: None)
    first = Mirror(machine("a"), RUN, 1)
    first.start()
    save(first.folder, 1)
    wait_for(lambda: steps() == [1])
    asleep, awake, list_names = threading.Event(), threading.Event(), Objects.names

    def slow(self: Objects, prefix: str = "") -> Any:
        found = list_names(self, prefix)
        if self is first._objects and "00000002" in prefix and not asleep.is_set():
            asleep.set()
            assert awake.wait(20)
        return found

    monkeypatch.setattr(Objects, "names", slow)
    save(first.folder, 2)
    assert asleep.wait(10)
    with monkeypatch.context() as patch:
        other = machine("b")
        patch.setattr(Objects, "download", down)
        with pytest.raises(StorageError, match="ConnectionError"):
            run(other, [])
    awake.set()
    wait_for(lambda: first.lost is not None)
    assert "took this run over while this one was silent" in str(first.lost)
    assert steps() == [1]
    assert ARRAYS.format(1) in names()
    # Started again, it goes on with what it has.
    machine("a")
    run(first.folder, [], keep=1)
    assert steps() == [2]


def test_a_manifest_does_not_go_up_over_a_hole(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    upload = Objects.upload
    lost: list[str] = []

    def losing(self: Objects, file: Path, name: str) -> None:
        upload(self, file, name)
        if not lost:
            lost.append(name)
            self.delete([name])

    monkeypatch.setattr(Objects, "upload", losing)
    run(machine("a"), [(1, None)])
    assert set(lost) < set(names())
    assert f"{RUN}/{lost[0]}: was uploaded, and is not there as it was; training goes on" in capsys.readouterr().err


def test_runs_inside_one_another_are_one_error(machine: Callable[[str], Path]) -> None:
    def train(address: str) -> None:
        folder = RunFolder(address)
        folder.create()
        with folder.locked(), mirrored(folder.path, folder.address, 2):
            pass

    machine("a")
    for address in (RUN, f"{RUN}2", f"{RUN}-v2/a"):
        train(address)
    with pytest.raises(
        JslmError, match=rf"run_dir = {RUN}/in/v2: the run {RUN}/in/v2 would lie inside the run {RUN}, "
    ):
        train(f"{RUN}/in/v2")
    machine("b")
    train(f"{RUN}/in/v2")
    with pytest.raises(
        JslmError, match=rf"run_dir = {RUN}: the run {RUN}/in/v2 would lie inside the run {RUN}, .*or del"
    ):
        train(RUN)
    # Two addresses that would have one folder.
    with pytest.raises(JslmError, match="memory://bucket//run: two slashes in the middle"):
        local_copy("memory://bucket//run", "runs")


def test_whose_work_a_folder_continues_is_never_half_written(machine: Callable[[str], Path]) -> None:
    folder = machine("a")
    run(folder, [(1, None)])
    before = (folder / ".writers").read_text("utf-8")
    with (folder / ".writers").open() as as_it_was:
        run(folder, [])
        assert as_it_was.read() == before
    assert (folder / ".writers").read_text("utf-8").startswith(before)


def test_a_fetch_that_was_killed_leaves_no_metrics_of_before(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine("a")
    run(folder, [(1, None), (2, None)])
    # Of what a disk has lost the address has all.
    shutil.rmtree(folder / "checkpoints")
    (folder / "metrics.jsonl").write_text('{"step": 1}\n', "utf-8")
    download = Objects.download

    def killed(self: Objects, name: str, file: Path) -> None:
        if name == "metrics.jsonl":
            raise Killed
        download(self, name, file)

    with monkeypatch.context() as patch:
        patch.setattr(Objects, "download", killed)
        with pytest.raises(Killed):
            run(folder, [])
    run(folder, [])
    assert Objects(RUN).read("metrics.jsonl") == b'{"step": 2}\n'
    assert (folder / "metrics.jsonl").read_text("utf-8") == '{"step": 2}\n'


def test_a_download_appears_whole_or_not_at_all(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    machine("a")
    objects, file = Objects(RUN, tries=1), tmp_path / "file"
    objects.write("file", b"new")
    file.write_bytes(b"old")

    def half(_: str, target: str) -> None:
        Path(target).write_bytes(b"n")
        raise OSError("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(objects._system, "get_file", half)
        with pytest.raises(StorageError, match="cut off"):
            objects.download("file", file)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.glob(".file*")) == []
    objects.download("file", file)
    assert file.read_bytes() == b"new"


def test_what_is_whole_here_is_kept_where_it_is_damaged_at_the_address(
    machine: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    ours = machine("a")
    run(ours, [(1, None), (2, None)])
    run(machine("b"), [])
    Objects(RUN).write(ARRAYS.format(2), b"arrayz of 2")
    run(machine("a"), [])
    (kept,) = ours.parent.glob("run.aside-*")
    assert (kept / ARRAYS.format(2)).read_text("utf-8") == "arrays of 2"
    assert f"kept in {kept}, and the run goes on from the address" in capsys.readouterr().err
    # Nor is it without a word where nothing there is whole.
    shutil.rmtree(kept)
    run(machine("c"), [])
    Objects(RUN).write(ARRAYS.format(1), b"arrayz of 1")
    machine("a")
    with pytest.raises(JslmError, match="every checkpoint is damaged"):
        run(ours, [])
    (kept,) = ours.parent.glob("run.aside-*")
    assert f"{ours}: what was here is kept in {kept}" in capsys.readouterr().err
    assert (kept / ARRAYS.format(1)).read_text("utf-8") == "arrays of 1"


def test_what_stands_aside_is_told_before_anything_is_fetched(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = machine("a")
    run(ours, [(1, None)])
    save(ours, 9)
    run(machine("b"), [])
    machine("a")
    said: list[str] = []

    def killed(*_: Any) -> None:
        # A kill leaves no time for more.
        said.append(capsys.readouterr().err)
        raise Killed

    monkeypatch.setattr(Objects, "download", killed)
    with pytest.raises(Killed):
        run(ours, [])
    (kept,) = ours.parent.glob("run.aside-*")
    assert (kept / "checkpoints" / "step_00000009").is_dir()
    assert f"kept in {kept}, and the run goes on from the address" in said[0]


def test_what_people_said_meanwhile_stays(machine: Callable[[str], Path]) -> None:
    folder = machine("a")
    run(folder, [(1, None)])
    for said in (b"seven answers", b"nine answers"):
        # By `jslm judge`, on any machine.
        Objects(RUN).write("judgements/study.json", said)
        run(folder, [])
        assert (folder / "judgements" / "study.json").read_bytes() == said
        assert Objects(RUN).read("judgements/study.json") == said


def test_a_process_of_another_container_is_not_taken_to_be_gone(machine: Callable[[str], Path]) -> None:
    """Containers may share the machine's name and its boot; the number of a process means another one in each."""
    machine("a")
    writer = Lease(Objects(RUN))._mine
    assert not _is_gone(writer)
    assert _is_gone(dataclasses.replace(writer, started=writer.started + 1))
    code = (
        "import json, sys; from jslm.runs.lease import Writer, _is_gone; "
        "print(_is_gone(Writer(*json.loads(sys.argv[1]))))"
    )
    inside = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if shutil.which(inside[0]) is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no process numbers of one's own may be had here: unshare")
    command = [*inside, sys.executable, "-c", code, json.dumps(dataclasses.astuple(writer))]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "False\n"


def test_a_checkpoint_that_another_process_reads_stays(machine: Callable[[str], Path]) -> None:
    run(machine("a"), [(1, 2.0), (2, 1.0), (3, 1.5)])
    machine("reader")
    path, step = opened(RUN, "latest")
    assert step == "3"
    checkpoints = Path(path, "checkpoints")
    Objects(RUN).delete([f"checkpoints/step_00000003/{MANIFEST}"])
    # Another process opens the run.
    remote._opened.cache_clear()
    assert opened(RUN, "latest")[1] == "2"
    assert (checkpoints / "step_00000003" / MANIFEST).is_file()
    # Both have ended.
    machine("reader")
    assert opened(RUN, "latest")[1] == "2"
    assert [path.name for path in checkpoints.iterdir()] == ["step_00000002"]


def test_data_is_not_fetched_over_what_another_process_prepares(
    machine: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    address = "memory://bucket/data"

    def write(text: str) -> None:
        for name in ("train.bin", "meta.json"):
            (folder / name).write_text(f"{name} {text}", "utf-8")

    def there(name: str) -> Any:
        return Objects(address).read(name)

    machine("a")
    folder = local_copy(address, "data")
    folder.mkdir(parents=True)
    write("of before")
    push_data(address)
    other = threading.Thread(target=data_folder, args=(address,))
    with (folder / DATA_LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        announce(address)
        write("prepared again")
        folders._pulled.cache_clear()
        other.start()
        time.sleep(0.3)
        push_data(address)
    other.join(10)
    for name in ("train.bin", "meta.json"):
        assert (folder / name).read_text("utf-8") == f"{name} prepared again"
        assert there(name) == f"{name} prepared again".encode()
    assert f"{folder}: another process is preparing or fetching it; waiting" in capsys.readouterr().err
    assert steps() == []


def test_data_made_again_and_not_uploaded_is_kept_and_uploaded_later(
    machine: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    address = "memory://bucket/data"

    def write(text: str) -> None:
        for name in ("train.bin", "meta.json"):
            (folder / name).write_text(f"{name} {text}", "utf-8")

    def fetch() -> str:
        folders._pulled.cache_clear()
        return (data_folder(address) / "train.bin").read_text("utf-8")

    machine("a")
    folder = local_copy(address, "data")
    folder.mkdir(parents=True)
    announce(address)
    write("of before")
    push_data(address)

    # Made anew, and killed before a byte was sent.
    announce(address)
    write("made anew")
    assert fetch() == "train.bin made anew"
    assert "`jslm prepare` and `jslm train` upload it" in capsys.readouterr().err
    push_data(address)
    assert Objects(address).read("train.bin") == b"train.bin made anew"

    # Sent whole: what another machine makes counts from here on.
    machine("b")
    other = local_copy(address, "data")
    other.mkdir(parents=True)
    for name in ("train.bin", "meta.json"):
        (other / name).write_text(f"{name} of b", "utf-8")
    announce(address)
    push_data(address)
    machine("a")
    assert fetch() == "train.bin of b"

    # Another machine's came between: it counts, and what is here is not sent over it.
    announce(address)
    write("made anew again")
    Objects(address).write("train.bin", b"train.bin of c")
    Objects(address).write("meta.json", b"meta.json of c")
    assert fetch() == "train.bin of c"
    push_data(address)
    assert Objects(address).read("train.bin") == b"train.bin of c"
