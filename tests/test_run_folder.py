"""What a run folder may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from jslm.runs.folder import RunFolder


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run/"])
def test_addresses_are_folders_of_the_cache(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("JSLM_CACHE", str(tmp_path / "cache"))
    folder = RunFolder(address)
    folder.create()
    assert folder.path == tmp_path / "cache" / "runs" / address[:2] / "bucket" / "run"
    assert folder.name == address.rstrip("/")
    # Nothing called "s3:" beside the texts.
    assert list((tmp_path / "here").iterdir()) == []


def test_a_path_is_itself(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert (folder.address, folder.name) == ("", str(tmp_path / "run"))
