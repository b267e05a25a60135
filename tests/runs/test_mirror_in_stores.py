"""What `test_mirror.py` holds in memory, over the APIs of Amazon and Google: whole or not at all, and going on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jslm.runs import mirror
from jslm.runs.folder import RunFolder, step_folder
from jslm.runs.manifest import MANIFEST, write_manifest
from jslm.runs.mirror import mirrored
from jslm.runs.remote import opened
from jslm.storage import Objects, StorageError

# Connections of asynchronous clients live until their event loop ends, with the process: so does what warns of them.
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::DeprecationWarning"
)


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A bucket, named in the environment of this process."""
    found = request.getfixturevalue("bucket" if request.param == "s3" else "google_bucket")
    for name, value in found.environment.items():
        monkeypatch.setenv(name, value)
    # File systems are kept by their arguments, and would answer for the server of another test.
    for system in dict(fsspec.registry).values():
        system.clear_instance_cache()
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(mirror, "_LONGEST_WAIT", 0.05)
    yield found
    found.before = found.after = lambda method, path: None


@pytest.fixture
def machine(store: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """`machine("a")`: from here on this is machine a, with a cache of its own; returns the run's folder there."""

    def become(name: str) -> Path:
        monkeypatch.setenv("JSLM_CACHE", str(tmp_path / name))
        folder = RunFolder(address(store))
        folder.create()
        return folder.path

    return become


def address(store: Any) -> str:
    return f"{store.scheme}://bucket/mirrored"


def steps(store: Any) -> list[int]:
    names = store.names("mirrored/checkpoints/")
    return [int(name.split("/")[2][5:]) for name in names if name.endswith(f"/{MANIFEST}")]


def save(folder: Path, step: int) -> None:
    """A checkpoint as a training process leaves it."""
    saving = folder / "checkpoints" / f"{step_folder(step)}.saving"
    (saving / "state").mkdir(parents=True)
    (saving / "state" / "arrays").write_bytes(bytes([step]) * 6_000_000)
    (saving / "about").write_text(str(step), "utf-8")
    (folder / "config.toml").write_text("seed = 1\n", "utf-8")
    (folder / "metrics.jsonl").write_text(f'{{"step": {step}}}\n', "utf-8")
    write_manifest(saving, {"val_loss": None})
    saving.rename(folder / "checkpoints" / step_folder(step))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_objects(store: Any, tmp_path: Path) -> None:
    objects = Objects(f"{store.scheme}://bucket/plain")
    assert objects.names() == {}
    assert objects.read("none") is None
    with pytest.raises(StorageError, match="not there"):
        objects.download("none", tmp_path / "none")
    objects.write("in/a", b"one")
    before = objects.names()["in/a"]
    assert before.size == 3
    objects.write("in/a", b"two")
    after = objects.names()["in/a"]
    assert after.version
    assert after.version != before.version
    # Libraries send what is large in parts.
    (tmp_path / "large").write_bytes(bytes(range(256)) * 40_000)
    objects.upload(tmp_path / "large", "large")
    objects.download("large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes() == store.read("plain/large")
    objects.delete(["in/a", "in/a", "none"])
    assert list(objects.names()) == ["large"]
    objects.delete(["large"])


def test_a_run_is_cut_off_interrupted_and_goes_on(
    store: Any, machine: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    here = machine("a")
    with mirrored(here, address(store), 2) as found:
        assert found is not None
        save(here, 1)
        wait_for(lambda: steps(store) == [1])
        store.stop()
        try:
            save(here, 2)
            wait_for(lambda: bool(found._trouble))
        finally:
            store.start()
        wait_for(lambda: steps(store) == [1, 2])
    said = capsys.readouterr().err
    assert said.count("training goes on, and uploads go on when it can be reached") == 1
    assert said.count("caught up") == 1
    # An upload that was interrupted: all but the manifest, which comes last.
    store.write("mirrored/checkpoints/step_00000003/state/arrays", b"half")
    assert opened(address(store), "latest")[1] == "2"
    there = machine("b")
    with mirrored(there, address(store), 2):
        assert (there / "checkpoints" / "step_00000002" / "state" / "arrays").read_bytes() == b"\x02" * 6_000_000
        assert (there / "metrics.jsonl").read_text("utf-8") == '{"step": 2}\n'
    said = capsys.readouterr().err
    assert "1 checkpoint(s) whose upload was interrupted (step_00000003) are not believed, and removed" in said
    assert not any("step_00000003" in name for name in store.names("mirrored/"))
