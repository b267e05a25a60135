"""Files elsewhere, through fsspec: `https://`, `s3://`, `gs://`, `hf://`, `memory://`, and Hugging Face dataset ids."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from jslm.errors import JslmError
from jslm.storage.stores import StorageError, content_version, failure, file_system, is_lasting, patiently
from jslm.text.readers.containers import ENDINGS, is_readable_name

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATASET = re.compile(r"hf-dataset:(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
# The Hub converts every dataset to Parquet files on this branch, as CONFIG/SPLIT/0000.parquet.
_PARQUET_BRANCH = "refs/convert/parquet"
_BLOCK_BYTES = 4 << 20
T = TypeVar("T")


def is_remote(source: str) -> bool:
    """Whether an entry of `data.source` is an address or a Hugging Face dataset id."""
    return bool(_URL.match(source)) or source.startswith("hf-dataset:")


def remote_file_name(address: str) -> str:
    """The part of an address that tells the format: without a query and fragment on the web."""
    return urlsplit(address).path if address.lower().startswith(("http://", "https://")) else address


def find_remote(source: str) -> list[tuple[str, int, str]]:
    """Address, size (0: not said) and version ("": not said) of the files that an address, a folder or glob elsewhere
    or a dataset id names.

    Raises JslmError: nothing there, no way there, a protocol that is unknown or whose package is absent.
    """
    if source.startswith("hf-dataset:"):
        return _find_dataset(source)
    system, path = _file_system(source)
    return _attempt(source, lambda: _list(system, path, source))


def open_remote(address: str) -> BinaryIO:
    """Opens an address for reading; what goes wrong then or later is a JslmError."""
    system, path = _file_system(address)
    stream = _attempt(address, lambda: system.open(path, "rb", block_size=_BLOCK_BYTES))
    return cast(BinaryIO, _Checked(stream, address))


def _file_system(address: str) -> tuple[Any, str]:
    return file_system(address, f"data.source: {address}", "data")


def _list(system: Any, path: str, source: str) -> list[tuple[str, int, str]]:
    is_web = source.lower().startswith(("http://", "https://"))
    # On the web `?` begins a query.
    if any(sign in path for sign in ("*[" if is_web else "*?[")):
        found = [name for name, info in system.glob(path, detail=True).items() if info["type"] == "file"]
        if not found:
            raise JslmError(f"data.source: no file matches {source}")
    elif path.endswith("/") if is_web else system.isdir(path):
        found = [name for name in system.find(path) if is_readable_name(name) and not _is_hidden(name, path)]
        if not found:
            raise JslmError(f"data.source: folder {source} has no {ENDINGS} file in it")
    else:
        found = [path]
    infos = [(str(system.unstrip_protocol(name)), system.info(name)) for name in sorted(found)]
    return [(name, int(info.get("size") or 0), content_version(info)) for name, info in infos]


def _is_hidden(name: str, folder: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(name.removeprefix(folder)).parts)


def _find_dataset(source: str) -> list[tuple[str, int, str]]:
    match = _DATASET.fullmatch(source)
    if match is None:
        raise JslmError(
            f"data.source = {source!r} is not a dataset id; write hf-dataset:OWNER/NAME, "
            "hf-dataset:OWNER/NAME/CONFIG or hf-dataset:OWNER/NAME/CONFIG:SPLIT"
        )
    root = f"hf://datasets/{match['id']}@{_PARQUET_BRANCH}"
    system, path = _file_system(root)
    config = match["config"] or _only(_folders(system, path, source), "default", source, "/CONFIG")
    split = match["split"] or "train"
    splits = _folders(system, f"{path}/{config}", source)
    # Of datasets over 5 GB the Hub converts the beginning alone, and says so in the name.
    chosen = next((name for name in (split, f"partial-{split}") if name in splits), None)
    if chosen is None:
        raise JslmError(f"data.source: {source} has no split {split!r}; it has {', '.join(splits)}")
    return find_remote(f"{root}/{config}/{chosen}/*.parquet")


def _folders(system: Any, path: str, source: str) -> list[str]:
    entries = _attempt(source, lambda: system.ls(path, detail=True))
    return sorted(PurePosixPath(entry["name"]).name for entry in entries if entry["type"] == "directory")


def _only(names: list[str], preferred: str, source: str, how: str) -> str:
    if len(names) == 1:
        return names[0]
    if preferred in names:
        return preferred
    found = ", ".join(names) or "none"
    raise JslmError(f"data.source: {source} has several configurations ({found}); choose one with {source}{how}")


def _attempt(address: str, action: Callable[[], T], tries: int | None = None) -> T:
    """Runs an action of a remote file system, patiently. Raises JslmError as it does, and StorageError."""

    def once() -> T:
        try:
            return action()
        except JslmError:
            raise
        except Exception as error:  # each store's library has kinds of its own
            if isinstance(error, FileNotFoundError) and is_lasting(error):
                raise StorageError(_absent(address), is_lasting=True) from None
            raise failure(error, f"{address}: cannot be read") from None

    return patiently(once, tries)


def _absent(address: str) -> str:
    remedy = "; a set that the Hub has not converted is read by its files, as in hf://datasets/OWNER/NAME/*.jsonl"
    return f"data.source: {address} does not exist, or is not open to you" + (
        remedy if address.startswith("hf-dataset:") else ""
    )


class _Checked:
    """A remote stream whose errors are JslmErrors; everything else is the stream's own.

    A read that fails for a while is tried again: a corpus that takes hours to read meets a network that is gone for
    some of them. Streams of the web can't go back to where they were.
    """

    def __init__(self, stream: Any, address: str) -> None:
        self._stream = stream
        self._address = address
        self._tries = 1 if address.lower().startswith(("http://", "https://")) else None

    def read(self, size: int = -1) -> bytes:
        return cast(bytes, _attempt(self._address, lambda: self._stream.read(size), self._tries))

    def seek(self, offset: int, whence: int = 0) -> int:
        return cast(int, _attempt(self._address, lambda: self._stream.seek(offset, whence)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
