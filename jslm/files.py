"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from jslm.errors import JslmError

_ADDRESS = re.compile(r"\w{2,}:/")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end. Raises JslmError where that cannot be done."""
    _refuse_address(path)
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes it at the end.

    Raises JslmError where `path` exists and is not empty, and where the folder cannot be written.
    """
    _refuse_address(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise JslmError(f"{path}: is there already, and nothing is overwritten; delete it, or choose another name")
    temporary = _beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.mkdir()
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    sync(file)
            # Replaces an empty folder, and refuses one that has been filled in the meantime.
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 `text`, line ends as they are, by `whole_file`."""
    with whole_file(path) as temporary:
        temporary.write_text(text, "utf-8", newline="")


def read_utf8(path: Path, where: str = "") -> str:
    """The text of a UTF-8 file, line ends as they are, without a byte-order mark. Raises JslmError, which begins with
    `where` (the path by default), for one that can't be read or is no such text."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise JslmError(f"{where or path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise JslmError(f"{where or path}: not UTF-8 text (byte {error.start:,})") from None


@contextlib.contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Holds the lock file `path`, made here; it goes with the process, however it ends. Raises JslmError, which says
    `taken`, where another process has it, and one that says so where the file system has no locks."""
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise JslmError(taken) from None
        except OSError as error:
            raise JslmError(f"{path}: cannot be locked ({error.strerror}); choose a folder on another disk") from None
        yield


def _refuse_address(path: Path) -> None:
    # It would make a folder called "s3:".
    if _ADDRESS.match(str(path)):
        raise JslmError(f"{path}: an address, and this is written to folders; write it to one, and copy it from there")


def _beside(path: Path) -> Path:
    # Not `tempfile`: what it makes is readable by its owner alone, and stays so after the rename.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def sync(file: Path) -> None:
    """Returns when what was written to the file is on the disk. Raises OSError."""
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _cannot_write(path: Path, error: OSError) -> JslmError:
    return JslmError(f"{path}: cannot be written ({error.strerror or error}); choose another path")
