"""Machines with a cache each, and a store in memory between them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from jslm.runs import lease, mirror, remote
from jslm.runs.folder import RunFolder
from jslm.storage import folders
from tests.runs.memory_runs import RUN


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`machine("a")`: from here on this is machine a, with a cache of its own; returns the run's folder there."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    for name, value in {"BEAT_SECONDS": 0.05, "LEASE_SECONDS": 0.4}.items():
        monkeypatch.setattr(lease, name, value)
    monkeypatch.setattr(mirror, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(mirror, "POLL_SECONDS", 0.01)

    def become(name: str) -> Path:
        monkeypatch.setenv("JSLM_CACHE", str(tmp_path / name))
        # Whoever read before has ended.
        while remote._reading:
            os.close(remote._reading.popitem()[1])
        remote._opened.cache_clear()
        folders._pulled.cache_clear()
        folder = RunFolder(RUN)
        folder.create()
        return folder.path

    yield become
    # What a test has given up is still between two uploads.
    for thread in threading.enumerate():
        if thread.name == "jslm upload":
            thread.join(10)
    system.store.clear()
