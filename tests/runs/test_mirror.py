"""What goes up, in which order, what is believed, and who may write: with fsspec's file system in memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jslm.errors import JslmError
from jslm.files import whole_file
from jslm.runs import lease, mirror, remote
from jslm.runs.folder import RunFolder, step_folder
from jslm.runs.manifest import MANIFEST
from jslm.runs.mirror import Mirror, mirrored
from jslm.runs.remote import opened
from jslm.storage import Objects, data_folder, local_copy, push_data
from jslm.train.stopping import finish_uploads
from tests.runs.memory_runs import RUN, down, names, recorded, run, save, steps, wait_for


def test_manifests_come_last_and_the_newest_and_the_best_stay(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = machine("a")
    order: list[str] = []
    recorded(monkeypatch, order, "write", 0)
    recorded(monkeypatch, order, "upload", 1)
    run(folder, [(1, 3.0), (2, 1.0), (3, 2.0), (4, 2.5), (5, None)])
    assert steps() == [2, 4, 5]
    assert {name.split("/")[1] for name in names() if name.startswith("checkpoints/")} == set(map(step_folder, steps()))
    of_first = [name for name in order if name == "metrics.jsonl" or name.startswith("checkpoints/step_00000001/")]
    assert of_first[:4] == [
        "metrics.jsonl",
        "checkpoints/step_00000001/about",
        "checkpoints/step_00000001/state/arrays",
        f"checkpoints/step_00000001/{MANIFEST}",
    ]
    # What was written of a line is none yet.
    assert Objects(RUN).read("metrics.jsonl") == b'{"step": 5}\n'
    assert {"config.toml", "writer.json"} <= set(names())
    assert not any(name.startswith(".") or "/." in name for name in names())


def test_another_machine_goes_on_from_the_newest_that_is_whole(
    machine: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run(machine("a"), [(1, None), (2, None)])
    Objects(RUN).write("checkpoints/step_00000003/state/arrays", b"half")
    folder = machine("b")
    run(folder, [])
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000002"]
    assert (folder / "metrics.jsonl").read_text("utf-8") == '{"step": 2}\n'
    assert steps() == [1, 2]
    assert not any("step_00000003" in name for name in names())
    said = capsys.readouterr().err
    assert "1 checkpoint(s) whose upload was interrupted (step_00000003) are not believed, and removed" in said
    assert "fetched step_00000002" in said


def test_objects_that_differ_from_their_manifest_are_not_believed(
    machine: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    run(machine("a"), [(1, 2.0), (2, 1.0)])
    path = "checkpoints/step_00000002/state/arrays"
    Objects(RUN).write(path, b"arrayz of 2")
    machine("reader")
    found, step = opened(RUN)
    assert step == "1"
    assert Path(found, "checkpoints", "step_00000001", "about").read_text("utf-8") == "1"
    assert f"{RUN}/{path}: damaged: its checksum is not the one it was written with; not believed" in caplog.text
    with pytest.raises(JslmError, match="damaged: its checksum"):
        opened(RUN, "2")
    Objects(RUN).write(path, b"short")
    remote._opened.cache_clear()
    assert opened(RUN, "latest")[1] == "1"
    assert "damaged: 5 bytes, expected 11" in caplog.text
    folder = machine("b")
    run(folder, [])
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step_00000001"]
    # Nobody believes it any more.
    assert steps() == [1]
    Objects(RUN).write("checkpoints/step_00000001/about", b"?")
    for name in ("c", "reader2"):
        machine(name)
        with pytest.raises(JslmError, match="damaged"):
            opened(RUN) if name == "reader2" else run(machine(name), [])


def test_what_is_the_same_is_not_fetched_again(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = machine("a")
    run(folder, [(1, 2.0), (2, 1.0), (3, 1.5)])
    machine("reader")
    fetched: list[str] = []
    recorded(monkeypatch, fetched, "download", 0)
    assert opened(RUN)[1] == "2"
    assert sorted(fetched) == [
        "checkpoints/step_00000002/about",
        "checkpoints/step_00000002/state/arrays",
        "config.toml",
        "metrics.jsonl",
    ]
    remote._opened.cache_clear()
    fetched.clear()
    assert opened(RUN) == (str(local_copy(RUN, "read")), "2")
    assert opened(RUN, "latest")[1] == "3"
    assert {name.split("/")[1] for name in fetched} == {"step_00000003"}
    with pytest.raises(JslmError, match=r"no checkpoint '7'; there are best, latest, 2, 3"):
        opened(RUN, "7")
    Objects(RUN).delete([f"checkpoints/step_00000003/{MANIFEST}"])
    machine("reader")
    assert opened(RUN, "latest")[1] == "2"
    assert "1 checkpoint(s) not whole there (step_00000003)" in caplog.text
    assert [path.name for path in (local_copy(RUN, "read") / "checkpoints").iterdir()] == ["step_00000002"]


def test_model_files_and_what_is_not_there(machine: Callable[[str], Path]) -> None:
    machine("a")
    Objects("memory://bucket").write("mine.safetensors", b"weights")
    Objects("memory://bucket").write("hf/config.json", b"{}")
    Objects("memory://bucket").write("hf/sub/model.safetensors", b"w")
    assert Path(opened("memory://bucket/mine.safetensors")[0]).read_bytes() == b"weights"
    found = Path(opened("memory://bucket/hf/")[0])
    assert sorted(path.name for path in found.rglob("*.*") if path.name[0] != ".") == [
        "config.json",
        "model.safetensors",
    ]
    assert opened("runs/mine", "latest") == ("runs/mine", "latest")
    for name, said in {
        "memory://bucket/none": "nothing is there; expected a run",
        "memory://": "names no place",
        "s3://bucket/../x": "names no place",
        "nosuch://bucket/x": "expected something like s3://",
    }.items():
        with pytest.raises(JslmError, match=said):
            opened(name)


def test_two_writers_are_one_error(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Ends with the first beat that is seen, however late it comes on a busy machine.
    monkeypatch.setattr(lease, "LEASE_SECONDS", 60.0)
    with mirrored(machine("a"), RUN, 2) as first:
        assert first is not None
        second = machine("b")
        with pytest.raises(
            JslmError, match=r"run_dir = memory://bucket/run: another training process \(host .*stop it"
        ):
            Mirror(second, RUN, 2).start()
        assert capsys.readouterr().err.count("may still be writing here; waiting up to") == 1
    # It has said that it was done.
    run(second, [(1, None)])
    assert "waiting" not in capsys.readouterr().err


def test_a_writer_that_is_silent_is_replaced_and_notices(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Mirror, "_live", lambda self: None)
    first = Mirror(machine("a"), RUN, 2)
    first.start()
    run(machine("b"), [(1, None)])
    save(machine("a"), 2)
    wait_for(lambda: first.lost is not None)
    with pytest.raises(JslmError, match="another training process"):
        first.check()
    with pytest.raises(JslmError, match="another training process"):
        first.close()
    assert steps() == [1]


def test_work_ahead_of_the_address_goes_on_here_and_stands_aside_where_another_has_written(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = machine("a")
    run(ours, [(1, None)])
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "upload", down)
        left = Mirror(ours, RUN, 2)
        left.start()
        save(ours, 2)
        left.seconds = 0.2
        with pytest.raises(JslmError, match=r"not all of the run could be uploaded in 0 s: .*it is whole in "):
            left.close()
        left._stopped.set()
    assert steps() == [1]
    # The same command on this machine uploads it.
    monkeypatch.setattr(lease, "_is_gone", lambda writer: True)
    run(ours, [])
    assert steps() == [1, 2]
    save(ours, 9)
    run(machine("b"), [(3, None)])
    run(machine("a"), [])
    assert [path.name for path in (ours / "checkpoints").iterdir()] == ["step_00000003"]
    (kept,) = ours.parent.glob("run.aside-*")
    assert (kept / "checkpoints" / "step_00000009").is_dir()
    assert f"kept in {kept}, and the run goes on from the address" in capsys.readouterr().err


def test_a_damaged_folder_takes_what_the_address_has(
    machine: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = machine("a")
    run(folder, [(1, None)])
    arrays = folder / "checkpoints" / "step_00000001" / "state" / "arrays"
    for _ in range(2):
        arrays.write_text("arrayz of 1", "utf-8")
        run(folder, [])
        assert arrays.read_text("utf-8") == "arrays of 1"
    assert "damaged: its checksum is not the one it was written with; those at the address are used" in caplog.text
    assert (folder / "checkpoints" / "step_00000001.damaged").is_dir()


def test_a_store_that_cannot_be_reached_is_said_once_and_caught_up_with(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = machine("a")
    upload = Objects.upload
    monkeypatch.setattr(mirror, "_LONGEST_WAIT", 0.02)
    with mirrored(folder, RUN, 2) as found:
        assert found is not None
        monkeypatch.setattr(Objects, "upload", down)
        save(folder, 1)
        wait_for(lambda: bool(found._trouble))
        save(folder, 2)
        time.sleep(0.1)
        monkeypatch.setattr(Objects, "upload", upload)
        wait_for(lambda: steps() == [1, 2])
    said = capsys.readouterr().err
    assert said.count("training goes on, and uploads go on when it can be reached") == 1
    assert said.count("caught up") == 1


def test_told_to_stop_without_a_network_says_where_it_is_and_keeps_its_status(
    machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = machine("a")
    monkeypatch.setattr(mirror, "_LONGEST_WAIT", 0.02)
    upload = Objects.upload
    with mirrored(folder, RUN, 2) as found:
        assert found is not None
        monkeypatch.setattr(Objects, "upload", down)
        save(folder, 1)
        wait_for(lambda: bool(found._trouble))
        # Raises nothing: the exit status is that of the signal, by which launchers start it again.
        finish_uploads(found, "interrupted", RunFolder(RUN), 0.2)
    said = capsys.readouterr().err
    assert f"{RUN}: not all of the run is there yet; waiting up to 0 s for it" in said
    assert f"it is whole in {folder}: the same command on this machine uploads it" in said
    assert "uploaded; the same command on any machine" not in said
    # The run may be another's now: nothing of this one goes up behind its back.
    monkeypatch.setattr(Objects, "upload", upload)
    time.sleep(0.2)
    assert steps() == []


def test_data_counts_once_its_meta_is_there(machine: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    machine("a")
    address = "memory://bucket/run/data"
    folder = data_folder(address)
    assert folder == local_copy(address, "data")
    for name, text in {"train.bin": "tokens", "rejected/meta.json": "r", "meta.json": "{}", ".lock": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "write", down)
        with pytest.raises(JslmError, match=r"the data is whole in .*: the same command uploads it"):
            push_data(address)
    machine("b")
    assert not data_folder(address).exists()
    machine("a")
    push_data(address)
    machine("b")
    there = data_folder(address)
    assert sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.name[0] != ".") == [
        "meta.json",
        "rejected",
        "rejected/meta.json",
        "train.bin",
    ]
    assert names() == ["data/meta.json", "data/rejected/meta.json", "data/train.bin"]
    assert data_folder("data/mine") == Path("data/mine")


def test_nothing_makes_a_folder_called_s3() -> None:
    with pytest.raises(JslmError, match="an address, and this is written to folders"), whole_file(Path("s3://b/x.txt")):
        pass


def test_two_servers_with_a_bucket_of_one_name_have_copies_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    usual = local_copy("s3://bucket/run", "runs")
    assert usual.parts[-3:] == ("s3", "bucket", "run")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000/")
    other = local_copy("s3://bucket/run", "runs")
    assert other.parts[-3:] == ("s3@http%3A%2F%2F127.0.0.1%3A9000", "bucket", "run")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9001")
    assert local_copy("s3://bucket/run", "runs") not in (usual, other)
    assert local_copy("gs://bucket/run", "runs").parts[-3:] == ("gs", "bucket", "run")
