"""Compressed files and archives, opened as a stream of the plain files in them.

Nothing is unpacked to disk, except that what must be read out of order (ZIP, Parquet, EPUB) and comes from a place that
can't (a pipe, a `.gz`) goes through a temporary file.
"""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol, cast

from jslm.errors import JslmError
from jslm.text.readers.problems import OnBad, need

FORMATS = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".epub": "epub",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
}
_ARCHIVES = (".zip", ".tar", ".tgz")
_COMPRESSED = (".gz", ".zst")
ENDINGS = f"{', '.join(FORMATS)} (or one of these with {', '.join(_COMPRESSED)}), {', '.join(_ARCHIVES)}"
# What damaged or foreign bytes make the libraries raise. NotImplementedError: a rare compression inside ZIP.
DAMAGED = (
    EOFError,
    zlib.error,
    lzma.LZMAError,
    gzip.BadGzipFile,
    tarfile.TarError,
    zipfile.BadZipFile,
    NotImplementedError,
)
_MAX_DEPTH = 4
_SPOOL_BYTES = 16 << 20


def format_of(name: str) -> str | None:
    """`text` for `a.txt` and `a.txt.gz`; None where the ending is not known."""
    path = PurePosixPath(name.lower())
    if path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return FORMATS.get(path.suffix)


def is_readable_name(name: str) -> bool:
    """Whether a file in a folder or archive is read: a known ending, and not hidden."""
    base = PurePosixPath(name).name
    path = PurePosixPath(base.lower())
    if path.suffix in _COMPRESSED:
        path = path.with_suffix("")
    return not base.startswith(".") and (path.suffix in FORMATS or path.suffix in _ARCHIVES)


def open_plain(
    stream: BinaryIO, name: str, label: str, on_bad: OnBad, depth: int = 0
) -> Iterator[tuple[BinaryIO, str, str]]:
    """The plain files inside `stream`, each with the name that tells its format and the label for messages.

    A label is that of the outermost file, with `:a/b.txt` for members. ZIP members come sorted, those of a TAR file in
    its order; each is to be read before the next is asked for. Raises JslmError: a locked archive, archives nested too
    deep, a missing package; and the errors in `DAMAGED`.
    """
    lower = name.lower()
    if depth > _MAX_DEPTH:
        raise JslmError(f"{label}: archives inside archives, {_MAX_DEPTH} deep; unpack it")
    if lower.endswith(".tgz"):
        yield from open_plain(
            _forward(gzip.GzipFile(fileobj=stream, mode="rb")), f"{name[:-4]}.tar", label, on_bad, depth + 1
        )
    elif lower.endswith(".gz"):
        yield from open_plain(_forward(gzip.GzipFile(fileobj=stream, mode="rb")), name[:-3], label, on_bad, depth + 1)
    elif lower.endswith(".zst"):
        yield from open_plain(_forward(_Zstandard(stream, label)), name[:-4], label, on_bad, depth + 1)
    elif lower.endswith(_ARCHIVES):
        found = False
        for member, inner in _zip(stream, label) if lower.endswith(".zip") else _tar(stream):
            found = True
            yield from open_plain(member, inner, f"{label}:{inner}", on_bad, depth + 1)
        if not found:
            on_bad(JslmError(f"{label}: no {ENDINGS} file in this archive"))
    else:
        yield stream, name, label


@contextmanager
def seekable(stream: BinaryIO) -> Iterator[BinaryIO]:
    """The stream, or a temporary copy where it can only be read forwards."""
    if stream.seekable():
        yield stream
        return
    with tempfile.SpooledTemporaryFile(_SPOOL_BYTES) as copy:
        shutil.copyfileobj(stream, copy)
        copy.seek(0)
        yield cast(BinaryIO, copy)


def _zip(stream: BinaryIO, label: str) -> Iterator[tuple[BinaryIO, str]]:
    with seekable(stream) as file, zipfile.ZipFile(file) as archive:
        for inner in sorted(filter(is_member, archive.namelist())):
            if archive.getinfo(inner).flag_bits & 1:
                raise JslmError(f"{label}:{inner}: locked with a password; unpack it")
            with archive.open(inner) as member:
                yield cast(BinaryIO, member), inner


def _tar(stream: BinaryIO) -> Iterator[tuple[BinaryIO, str]]:
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        while (info := archive.next()) is not None:
            # The library remembers each member, which adds up over millions.
            archive.members = []  # type: ignore[attr-defined]
            if info.isfile() and is_member(info.name) and (member := archive.extractfile(info)):
                yield _forward(member), info.name


def is_member(name: str) -> bool:
    """Whether an archive's member is read; macOS adds files of its own under `__MACOSX`."""
    return is_readable_name(name) and not name.startswith("__MACOSX/")


def _forward(reader: _Reader) -> BinaryIO:
    return cast(BinaryIO, _ForwardOnly(reader))


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Zstandard:
    """Zstandard frames, one after the other, in pieces of the size asked for; windows up to `zstd --long=31`."""

    def __init__(self, stream: BinaryIO, label: str) -> None:
        own = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
        library = need(own, f"{label}: reading Zstandard", own)
        self._error = library.ZstdError
        self._file = library.ZstdFile(stream, options={library.DecompressionParameter.window_log_max: 31})

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, at least one but at the end. Raises EOFError where the last frame is cut off."""
        try:
            return cast(bytes, self._file.read1(size))
        except self._error as error:
            raise zlib.error(str(error)) from None


class _ForwardOnly(io.RawIOBase):
    """What a decompressor gives, read forwards alone: each step back would start over from the beginning."""

    def __init__(self, reader: _Reader) -> None:
        self._reader = reader
        self._left = memoryview(b"")

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fills the buffer as far as there is something."""
        data = self._left or memoryview(self._reader.read(len(buffer)))
        size = min(len(data), len(buffer))
        buffer[:size] = data[:size]
        self._left = data[size:]
        return size
