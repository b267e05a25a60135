"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from jslm.errors import JslmError
from jslm.files import locked, write_text


def test_a_failed_write_leaves_the_old_text(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old\r\n")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \ud800")
    assert path.read_bytes() == b"old\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file, not a folder", "utf-8")
    with pytest.raises(JslmError, match=r"file/new\.txt: cannot be written \(.*\); choose another path"):
        write_text(tmp_path / "file" / "new.txt", "text")


def test_a_lock_that_another_has(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locked(lock, "first"), pytest.raises(JslmError, match=r"^taken$"), locked(lock, "taken"):
        pass
    with locked(lock, "free again"):
        pass


def test_a_disk_without_locks_is_not_called_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    no_locks = r"cannot be locked .*; choose a folder on another disk"
    with pytest.raises(JslmError, match=no_locks), locked(tmp_path / ".lock", "taken"):
        pass
