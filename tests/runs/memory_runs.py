"""A run in fsspec's file system in memory: what is at its address, and a training process without the training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

from jslm.runs.folder import step_folder
from jslm.runs.manifest import MANIFEST, write_manifest
from jslm.runs.mirror import mirrored
from jslm.storage import Objects, StorageError

RUN = "memory://bucket/run"


def names() -> list[str]:
    return sorted(name.removeprefix("/bucket/run/") for name in fsspec.filesystem("memory").find("/bucket/run"))


def steps() -> list[int]:
    return [int(name.split("/")[1][5:]) for name in names() if name.endswith(f"/{MANIFEST}")]


def save(folder: Path, step: int, loss: float | None = None, text: str = "arrays") -> None:
    """A checkpoint as a store leaves it."""
    saving = folder / "checkpoints" / f"{step_folder(step)}.saving"
    (saving / "state").mkdir(parents=True)
    (saving / "state" / "arrays").write_text(f"{text} of {step}", "utf-8")
    (saving / "about").write_text(str(step), "utf-8")
    (folder / "config.toml").write_text("seed = 1\n", "utf-8")
    (folder / "metrics.jsonl").write_text(f'{{"step": {step}}}\n{{"st', "utf-8")
    write_manifest(saving, {"val_loss": loss})
    saving.rename(folder / "checkpoints" / step_folder(step))


def run(folder: Path, saved: list[tuple[int, float | None]], keep: int = 2) -> None:
    """A training process from start to end, each checkpoint uploaded before the next."""
    with mirrored(folder, RUN, keep) as mirror:
        assert mirror is not None
        for step, loss in saved:
            save(folder, step, loss)
            wait_for(lambda step=step: step in steps())  # type: ignore[misc]


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def recorded(monkeypatch: pytest.MonkeyPatch, into: list[str], method: str, place: int) -> None:
    """From here on each call of a method of `Objects` leaves its argument at `place`, the object's name."""
    before = getattr(Objects, method)

    def call(self: Objects, *arguments: Any) -> None:
        into.append(arguments[place])
        before(self, *arguments)

    monkeypatch.setattr(Objects, method, call)


def down(*_: Any) -> None:
    raise StorageError(f"{RUN}: ConnectionError")
