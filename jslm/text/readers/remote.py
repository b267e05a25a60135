"""Files elsewhere, through fsspec: `https://`, `s3://`, `gs://`, `hf://`, `memory://`, and Hugging Face dataset ids."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import urlsplit

from jslm.console import say
from jslm.errors import JslmError
from jslm.text.readers.containers import ENDINGS, is_readable_name
from jslm.text.readers.problems import need

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DATASET = re.compile(r"hf-dataset:(?P<id>[\w.-]+(?:/[\w.-]+)?)(?:/(?P<config>[\w.-]+))?(?::(?P<split>[\w.-]+))?")
# The Hub converts every dataset to Parquet files on this branch, as CONFIG/SPLIT/0000.parquet.
_PARQUET_BRANCH = "refs/convert/parquet"
_BLOCK_BYTES = 4 << 20
READ_TRIES = 7
# As fsspec's file systems name it: the web, S3, Google, the Hugging Face Hub. Times are not among them.
_VERSION_KEYS = ("ETag", "etag", "Content-MD5", "Digest", "md5Hash", "generation", "blob_id")
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
    fsspec = need("fsspec", f"reading {address}")
    try:
        system, path = fsspec.core.url_to_fs(address)
    except ImportError as error:
        packages = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}
        package = packages.get(address.split("://")[0].lower())
        remedy = f"pip install {package}" if package else str(error).split("\n")[0]
        raise JslmError(f"data.source: {address} needs a package that is not installed: {remedy}") from None
    except Exception as error:
        raise JslmError(f"data.source: {address}: {_one_line(error)}") from None
    return system, path


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
    return [(name, int(info.get("size") or 0), _version(info)) for name, info in infos]


def _version(info: Mapping[str, Any]) -> str:
    """What the server says that changes with the content; weak ETags promise less."""
    said = {key: str(info[key]) for key in _VERSION_KEYS if info.get(key)}
    return " ".join(f"{key}={value}" for key, value in said.items() if not value.startswith("W/"))


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


def _attempt(address: str, action: Callable[[], T]) -> T:
    """Runs an action of a remote file system, whose libraries each have errors of their own."""
    try:
        return action()
    except JslmError:
        raise
    except FileNotFoundError as error:
        cause = error.__cause__
        # fsspec says of all that fails on the web that it is not there.
        if getattr(cause, "status", 404) != 404 or (isinstance(cause, OSError) and cause.errno):
            raise JslmError(f"{address}: cannot be read: {_one_line(cause)}") from None
        remedy = "; a set that the Hub has not converted is read by its files, as in hf://datasets/OWNER/NAME/*.jsonl"
        raise JslmError(
            f"data.source: {address} does not exist, or is not open to you"
            + (remedy if address.startswith("hf-dataset:") else "")
        ) from None
    except Exception as error:
        raise JslmError(f"{address}: cannot be read: {_one_line(error)}") from None


def _one_line(error: BaseException | None) -> str:
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Checked:
    """A remote stream whose errors are JslmErrors; everything else is the stream's own.

    A read that fails for a while is tried again after 1, 2, 4, ... seconds: a corpus that takes hours to read meets a
    network that is gone for some of them. Streams of the web can't go back to where they were.
    """

    def __init__(self, stream: Any, address: str) -> None:
        self._stream = stream
        self._address = address

    def read(self, size: int = -1) -> bytes:
        tries = 1 if self._address.lower().startswith(("http://", "https://")) else READ_TRIES
        for attempt in range(tries - 1):
            try:
                return self._read(size)
            except JslmError as error:
                if not attempt:
                    say(f"{error}; trying again")
                time.sleep(2**attempt)
        return self._read(size)

    def _read(self, size: int) -> bytes:
        return cast(bytes, _attempt(self._address, lambda: self._stream.read(size)))

    def seek(self, offset: int, whence: int = 0) -> int:
        return cast(int, _attempt(self._address, lambda: self._stream.seek(offset, whence)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def __enter__(self) -> _Checked:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stream.close()
