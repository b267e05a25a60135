"""Whether prepared files were made of the sources as they are now: `inputs.json` says what those were like when read.

A file is as it was where size, time of change and time of status change (which copying and `touch` set anew) are those
of then, and then was long enough after the change that no clock is too coarse to tell a later one. Else its content is
hashed: that alone decides. What a server says of a version (ETag and the like) stands for the content; where it says
nothing, the file is fetched again and hashed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePath

from jslm.errors import JslmError
from jslm.files import write_text
from jslm.text.readers import InputFile
from jslm.text.readers.remote import is_remote
from jslm.tokens.token_file import META_NAME

INPUTS_NAME = "inputs.json"
# FAT counts time in two seconds; no file system is coarser.
GRAIN_NS = 2_000_000_000
# Hashing less than this takes no time that anyone would notice.
NOTED_BYTES = 16 << 20
_HASH_BLOCK = 1 << 20
_log = logging.getLogger("jslm")


@dataclass(frozen=True, slots=True)
class Seen:
    """A file as it was at `at_ns` (time.time_ns), before it was read; a remote one has `version` or `sha256`."""

    name: str
    size: int
    at_ns: int
    mtime_ns: int = 0
    ctime_ns: int = 0
    version: str = ""
    sha256: str = ""

    @property
    def identity(self) -> tuple[str, int, str]:
        """What tells its content from others."""
        return self.name, self.size, self.sha256 or self.version


def look(files: Sequence[InputFile]) -> list[Seen]:
    """Each file with a hash of its content, or what a server says of its version. JslmError where one is gone."""
    return [_look(file) for file in files]


def changed_meanwhile(before: Sequence[Seen]) -> str:
    """The name of a local file that was changed since it was looked at; empty where none was."""
    for seen in before:
        if is_remote(seen.name) or seen.name == "-":
            continue
        if _status(seen.name) != (seen.size, seen.mtime_ns, seen.ctime_ns):
            return seen.name
    return ""


def save_inputs(path: Path, inputs: Sequence[Seen]) -> None:
    """Writes what `read_inputs` gives back. Raises JslmError."""
    lines = ",\n ".join(json.dumps(asdict(seen)) for seen in inputs)
    write_text(path, f"[{lines}]\n")


def read_inputs(folder: Path) -> list[Seen] | None:
    """What a folder was made of; None where that is not written down (or not readable any more), as in earlier days."""
    try:
        return [Seen(**entry) for entry in json.loads((folder / INPUTS_NAME).read_text("utf-8"))]
    except (OSError, ValueError, TypeError):
        return None


def difference(folder: Path, files: Sequence[InputFile], *, rehash: bool = False) -> str:
    """How `files` are others than those that `folder` was made of, for people; empty where they are the same.

    `rehash`: by content alone. Where much had to be hashed and is the same, that is noted, so that the next look is
    quick again. Raises JslmError for a file that can't be read.
    """
    before = read_inputs(folder)
    if before is None:
        return ""
    names = [PurePath(seen.name).name for seen in before]
    found = [PurePath(file.name).name for file in files]
    if names != found:
        added, gone = (_first_of(one, other) for one, other in ((found, names), (names, found)))
        what = [f"{added} is new"] * bool(added) + [f"{gone} is gone"] * bool(gone)
        return ", ".join(what) or "their order is another"
    after = []
    for seen, file in zip(before, files, strict=True):
        now = _compare(seen, file, rehash)
        if now is None:
            return f"{file.name} has changed"
        after.append(now)
    hashed = sum(now.size for seen, now in zip(before, after, strict=True) if now != seen)
    if hashed > NOTED_BYTES:
        # Where data is read only, the next look takes as long.
        with suppress(JslmError):
            save_inputs(folder / INPUTS_NAME, after)
    return ""


def recorded_files(folder: Path) -> list[InputFile]:
    """The local files that `folder` was made of, as far as they are still there: what a mixture can look at."""
    files = []
    for seen in read_inputs(folder) or []:
        if is_remote(seen.name) or not Path(seen.name).is_file():
            return []
        files.append(InputFile(seen.name, Path(seen.name).stat().st_size))
    return files


def newer_than(folder: Path, files: Sequence[InputFile]) -> str:
    """A local file that was changed after `folder` was made; empty where none was."""
    made = (folder / META_NAME).stat().st_mtime_ns
    for file in files:
        with suppress(OSError):
            if not is_remote(file.name) and _status(file.name)[1] > made:
                return file.name
    return ""


def _look(file: InputFile) -> Seen:
    at_ns = time.time_ns()
    local = (0, 0) if is_remote(file.name) or file.name == "-" else _status(file.name)[1:]
    digest = ""
    if not file.version:
        # What can't be read is for `prepare.on_bad_document`.
        with suppress(JslmError):
            digest = _hash(file)
    return Seen(file.name, file.size, at_ns, *local, version=file.version, sha256=digest)


def _compare(seen: Seen, file: InputFile, rehash: bool) -> Seen | None:
    """The file as it is now where its content is that of `seen`, else None."""
    if file.size != seen.size:
        return None
    at_ns = time.time_ns()
    if is_remote(file.name):
        if seen.version and not rehash:
            return seen if file.version == seen.version else None
        now = replace(seen, name=file.name, at_ns=at_ns, version=file.version)
    else:
        _, mtime_ns, ctime_ns = _status(file.name)
        is_settled = max(seen.mtime_ns, seen.ctime_ns) < seen.at_ns - GRAIN_NS
        if not rehash and is_settled and (mtime_ns, ctime_ns) == (seen.mtime_ns, seen.ctime_ns):
            return seen
        now = replace(seen, at_ns=at_ns, mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        if not seen.sha256 and (mtime_ns, ctime_ns) != (seen.mtime_ns, seen.ctime_ns):
            return None
    if not seen.sha256:
        return now if file.version == seen.version else None
    return now if _hash(file) == seen.sha256 else None


def _status(name: str) -> tuple[int, int, int]:
    try:
        status = Path(name).stat()
    except OSError as error:
        raise JslmError(f"{name}: cannot be read: {error.strerror}") from None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash(file: InputFile) -> str:
    digest = hashlib.sha256()
    try:
        with file.open() as stream:
            while block := stream.read(_HASH_BLOCK):
                digest.update(block)
    except OSError as error:
        raise JslmError(f"{file.name}: cannot be read: {error.strerror or error}") from None
    return digest.hexdigest()


def _first_of(names: Sequence[str], others: Sequence[str]) -> str:
    known = set(others)
    return next((name for name in names if name not in known), "")
