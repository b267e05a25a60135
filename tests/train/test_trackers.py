"""Trackers of a run: what each is told, across resumes, and that none of them can stop or slow a run."""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.train import train
from jslm.train.trackers import workers
from jslm.train.trackers.tracker import TrackedRun
from jslm.train.trackers.workers import Trackers


class Noted:
    """A tracker that notes what it is told, and fails or waits where a test says so."""

    def __init__(self, run: TrackedRun, fails: str = "", waits: threading.Event | None = None) -> None:
        self.run, self.fails, self.waits = run, fails, waits
        self.calls: list[tuple[Any, ...]] = []

    def note(self, method: str, *arguments: Any) -> None:
        if self.waits is not None:
            self.waits.wait(30)
        if method == self.fails:
            raise ConnectionError("the network\nis away")
        self.calls.append((method, *arguments))

    def scalars(self, step: int, values: Mapping[str, float], walltime: float) -> None:
        self.note("scalars", step, values)

    def text(self, step: int, tag: str, text: str) -> None:
        self.note("text", step, tag, text)

    def file(self, path: Path) -> None:
        self.note("file", path.name)

    def close(self, status: str) -> None:
        self.note("close", status)


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Noted]]:
    """`tracker("wandb", fails="scalars")`: puts one in the place of that name, and returns those that were opened."""

    def put(name: str, **how: Any) -> list[Noted]:
        opened: list[Noted] = []

        def open_tracker(run: TrackedRun) -> Noted:
            if how.get("fails") == "open":
                raise SystemExit("no such server")
            opened.append(Noted(run, **how))
            run.keep_id(run.known_id or f"{name}-1")
            return opened[-1]

        module = ModuleType(name)
        module.open_tracker = open_tracker  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"jslm.train.trackers.{name}", module)
        return opened

    return put


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "train.trackers" in record.getMessage()]


def test_a_run_tells_its_trackers_and_goes_on_in_the_same_one(
    make_config: Callable[..., Config], tracker: Callable[..., list[Noted]]
) -> None:
    opened = tracker("wandb")
    config = make_config(train={"trackers": ["wandb"], "steps": 8, "report": True}, sample={"prompts": ["the "]})
    train(config)
    train(make_config(train={"trackers": ["wandb"], "report": True}, sample={"prompts": ["the "]}))
    first, second = opened
    assert (first.run.known_id, first.run.first_step) == ("", 1)
    assert (second.run.known_id, second.run.first_step) == ("wandb-1", 9)
    assert json.loads(Path(config.run_dir, "trackers.json").read_text("utf-8")) == {"wandb": "wandb-1"}
    assert first.run.name == "run"
    assert first.run.config["train"]["steps"] == 8
    losses = [call[1] for call in first.calls if call[0] == "scalars" and "train/loss" in call[2]]
    assert losses == [2, 4, 6, 8]
    assert [call[1] for call in second.calls if call[0] == "scalars" and "val/loss" in call[2]] == [12]
    assert [call[:3] for call in first.calls if call[0] == "text"] == [("text", 4, "samples"), ("text", 8, "samples")]
    assert first.calls[-3:] == [("file", "report.html"), ("file", "samples.md"), ("close", "finished")]


@pytest.mark.parametrize("fails", ["open", "scalars", "text", "close"])
def test_a_tracker_that_fails_never_stops_a_run(
    fails: str,
    make_config: Callable[..., Config],
    tracker: Callable[..., list[Noted]],
    helpers: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    tracker("wandb", fails=fails)
    beside = tracker("mlflow")
    config = make_config(train={"trackers": ["wandb", "mlflow"], "steps": 4}, sample={"prompts": ["the "]})
    with caplog.at_level(logging.WARNING, "jslm"):
        assert train(config).status == "finished"
    assert [line["step"] for line in helpers.read_lines(config.run_dir)] == [2, 4, 4]
    assert beside[0].calls[-1] == ("close", "finished")
    reason = "no such server" if fails == "open" else "the network is away"
    # Two lines of training, a validation, the samples of one step and their file.
    lost = {"open": 5, "scalars": 3, "text": 1, "close": 0}[fails]
    count = [f"train.trackers: wandb: {lost} of 5 figures, texts and files did not reach it; the run folder has all"]
    assert messages(caplog) == [
        f"train.trackers: wandb: {reason}; the run goes on, and what does not reach it is counted",
        *(count if lost else []),
    ]


def test_a_tracker_that_hangs_is_left_behind(
    tmp_path: Path, tracker: Callable[..., list[Noted]], caplog: pytest.LogCaptureFixture
) -> None:
    release = threading.Event()
    tracker("wandb", waits=release)
    trackers = Trackers(("wandb",), tmp_path, {}, resume_step=None, waiting=5, closing_seconds=0.1)
    began = time.monotonic()
    for step in range(100):
        trackers.scalars(step, {"x": 1.0}, 0.0)
    trackers.close("finished")
    assert time.monotonic() - began < 5
    release.set()
    full, left = messages(caplog)
    assert "5 figures and texts wait for it already" in full
    assert "did not end within 0 s and is left behind; " in left
    # The one that it was told and those that waited are lost too, but for the one it has in its hands.
    assert left.split("; ")[1].split(" of ")[0] in ("99", "100")


def test_a_library_that_is_missing_is_one_line(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(make_config(train={"trackers": ["wandb"], "steps": 4})).status == "finished"
    first, count = messages(caplog)
    assert first.startswith("train.trackers: wandb: train.trackers = ['wandb'] needs the package wandb: ")
    assert " 5 of 5 " in count


def test_a_damaged_file_of_names_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / workers.TRACKERS_FILE
    assert workers._read_ids(path) == {}
    path.write_text('{"wandb": "abc"}')
    assert workers._read_ids(path) == {"wandb": "abc"}
    path.write_text('{"wandb": 3')
    assert workers._read_ids(path) == {}
    assert "trackers begin a new run" in caplog.text


def test_the_keys(make_config: Callable[..., Config]) -> None:
    names = {
        "default": make_config(train={"tensorboard": True}),
        "off": make_config(train={"tensorboard": False}),
        "both": make_config(train={"tensorboard": False, "trackers": ["tensorboard", "wandb", "wandb"]}),
        "none": make_config(train={"tensorboard": True, "trackers": []}),
    }
    found = {name: config.train.tracker_names for name, config in names.items()}
    assert found == {"default": ("tensorboard",), "off": (), "both": ("wandb",), "none": ()}
    with pytest.raises(JslmError, match=r"train\.trackers"):
        config_from_dict({"train": {"trackers": ["comet"]}}, "test")
