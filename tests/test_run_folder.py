"""What a run folder may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from jslm.errors import JslmError
from jslm.runs.folder import RunFolder


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket/run"])
def test_addresses_are_no_folders(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JslmError, match=r"an address, and runs are written to folders; mount the bucket"):
        RunFolder(address).create()
    assert list(tmp_path.iterdir()) == []
