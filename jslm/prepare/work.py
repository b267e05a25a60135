"""The work folder: what an interrupted `prepare` goes on from.

It holds parts, each a file that is written under another name, flushed, and renamed: a part is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from jslm.errors import JslmError
from jslm.tokens.token_file import disk_error

WORK_NAME = ".work"
_KEY_NAME = "key"
_TEMPORARY = "part.tmp"


class WorkFolder:
    """Parts by kind and number from 0 on; a folder that another key has made is emptied."""

    def __init__(self, folder: Path, key: Mapping[str, Any], log: Callable[[str], None]) -> None:
        """`key` is all that decides what is in the parts. Raises JslmError where the folder can't be written."""
        self._folder = folder
        self.path = folder / WORK_NAME
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        try:
            found = (self.path / _KEY_NAME).read_text("ascii")
        except (OSError, UnicodeDecodeError):
            found = ""
        if found != digest:
            if found:
                log(f"{folder}: settings or input files have changed since a run was interrupted here; starting over")
            remove_work(folder)
            try:
                self.path.mkdir()
            except OSError as error:
                raise disk_error(folder, error) from None
            self.write(_KEY_NAME, lambda file: file.write(digest.encode("ascii")))

    def part(self, kind: str, number: int) -> Path:
        """The path of a part, there or not."""
        return self.path / f"{kind}-{number:06d}"

    def parts(self, kind: str) -> list[Path]:
        """The parts of a kind that are there, in order."""
        return sorted(self.path.glob(f"{kind}-[0-9]*"))

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> None:
        """Makes a file, by `fill`, that is whole whenever it is there. Raises JslmError as the disk does."""
        temporary = self.path / _TEMPORARY
        try:
            with temporary.open("wb") as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, self.path / name)
        except OSError as error:
            raise disk_error(self._folder, error) from None


def remove_work(folder: Path) -> None:
    """Removes what an interrupted run has left in `folder`. Raises JslmError where that is not allowed."""
    path = folder / WORK_NAME
    try:
        # The key first: a folder that is half removed is no work folder.
        (path / _KEY_NAME).unlink(missing_ok=True)
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise JslmError(f"{path}: cannot be removed: {error.strerror}") from None
