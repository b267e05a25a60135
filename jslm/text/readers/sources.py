"""`data.source` -> the files it names, on this machine or elsewhere, and generated stories."""

from __future__ import annotations

import atexit
import difflib
import functools
import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from jslm.errors import JslmError
from jslm.text.readers.containers import ENDINGS, is_readable_name
from jslm.text.readers.remote import find_remote, is_remote, open_remote

STANDARD_INPUT = "-"
_STORIES = re.compile(r"stories:(?P<size>\d+(?:\.\d+)?)(?P<unit>KB|MB|GB)(?::seed=(?P<seed>\d+))?", re.IGNORECASE)
_MEGABYTES = {"KB": 1e-3, "MB": 1.0, "GB": 1e3}


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file to read; `name` is a path, an address or `-`, and `size` its bytes, 0 where a server does not say.

    `version` is what a server calls this content of an address (an ETag or the like), empty where it says nothing.
    """

    name: str
    size: int
    version: str = ""

    def open(self) -> BinaryIO:
        """The bytes, from the start. Raises OSError, and JslmError for what is not on this machine."""
        if self.name == STANDARD_INPUT:
            return _standard_input().open("rb")
        if is_remote(self.name):
            return open_remote(self.name)
        return Path(self.name).open("rb")


@dataclass(frozen=True, slots=True)
class StoriesSource:
    """A parsed `stories:20MB:seed=3`."""

    megabytes: float
    seed: int


def find_files(sources: Iterable[str]) -> list[InputFile | StoriesSource]:
    """The files (each once, sorted within a folder or glob) and generators that the entries of `data.source` name.

    Raises JslmError: nothing there, a folder without a readable file, an address that can't be reached, a malformed
    `stories:`.
    """
    entries: list[InputFile | StoriesSource] = []
    seen: set[str] = set()
    for source in sources:
        if source.startswith("stories:"):
            entries.append(parse_stories(source))
            continue
        for file in _find(source):
            real = file.name if is_remote(file.name) or file.name == "-" else str(Path(file.name).resolve())
            if real not in seen:
                seen.add(real)
                entries.append(file)
    return entries


def parse_stories(source: str) -> StoriesSource:
    """`stories:20MB` or `stories:500KB:seed=3` -> size and seed; raises JslmError where it is neither."""
    match = _STORIES.fullmatch(source)
    megabytes = float(match["size"]) * _MEGABYTES[match["unit"].upper()] if match else 0.0
    if match is None or megabytes <= 0:
        raise JslmError(
            f"data.source = {source!r} is not a stories source; write stories:20MB or stories:20MB:seed=3 "
            "(a size above 0 in KB, MB or GB)"
        )
    return StoriesSource(megabytes, int(match["seed"] or 0))


def _find(source: str) -> list[InputFile]:
    if source == STANDARD_INPUT:
        return [InputFile(source, _standard_input().stat().st_size)]
    if is_remote(source):
        return [InputFile(*found) for found in find_remote(source)]
    try:
        return [InputFile(str(path), path.stat().st_size) for path in _find_local(source)]
    except OSError as error:
        raise JslmError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _find_local(source: str) -> list[Path]:
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        files = _walk(path)
        if not files:
            raise JslmError(f"data.source: folder {source} has no {ENDINGS} file in it")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(source):
        files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        if not files:
            raise JslmError(f"data.source: no file matches {source} (relative to {Path.cwd()})")
        return files
    raise JslmError(f"data.source: {source} does not exist{_nearby(path)}")


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        # os.walk descends into what is left in this list: not into .git and the like.
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if is_readable_name(name)]
    return sorted(files)


def _nearby(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return "" if path.is_absolute() else f" (relative to {Path.cwd()})"


@functools.cache
def _standard_input() -> Path:
    """A temporary copy of standard input, which can be read only once, while a corpus is read several times over."""
    if sys.stdin is None or sys.stdin.isatty():
        raise JslmError("data.source = '-' reads standard input, but nothing is piped into this command")
    with tempfile.NamedTemporaryFile(prefix="jslm-stdin-", delete=False) as copy:
        path = Path(copy.name)
        atexit.register(path.unlink, missing_ok=True)
        shutil.copyfileobj(sys.stdin.buffer, copy)
    return path
