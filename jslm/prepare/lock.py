"""One writer a folder."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jslm.storage import DATA_LOCK
from jslm.tokens.token_file import disk_error

LOCK_NAME = DATA_LOCK


@contextmanager
def folder_lock(folder: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Makes `folder` and holds its lock, waiting while another process has it; the system frees a dead process's.

    Raises JslmError where the folder can't be written or its file system has no locks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_NAME).open("a")
    except OSError as error:
        raise disk_error(folder, error) from None
    with file:
        if not _try_lock(file, folder, wait=False):
            log(f"{folder}: another process is preparing it; waiting")
            _try_lock(file, folder, wait=True)
        yield


def _try_lock(file: IO[str], folder: Path, wait: bool) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        return True
    except BlockingIOError:
        return False
    except OSError as error:
        raise disk_error(folder, error) from None
