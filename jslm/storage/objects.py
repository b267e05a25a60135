"""Objects at an address, through fsspec; what goes wrong is one line.

The only user of fsspec besides the readers of text. An object appears whole or not at all, as object stores promise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jslm.console import say
from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.storage.addresses import tidy

T = TypeVar("T")
# What servers call a version of an object: S3, Google, others; without one, the time of its change.
_VERSION_KEYS = ("ETag", "etag", "md5Hash", "generation", "created", "mtime")
# Tries are told apart from here; a library that tries for minutes by itself hides that the network is gone.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "s3": {"config_kwargs": {"connect_timeout": 5, "read_timeout": 30, "retries": {"max_attempts": 1}}},
}
_TRIES = 6


class StorageError(JslmError):
    """An object store that can't be reached or refuses. `is_lasting`: trying again will not help."""

    def __init__(self, message: str, *, is_lasting: bool = False) -> None:
        super().__init__(message)
        self.is_lasting = is_lasting


class Stat(NamedTuple):
    """Bytes of an object, and what changes when it does."""

    size: int
    version: str


class Objects:
    """What is under one address, by its name below it.

    Where the store can't be reached, every method tries again after 1, 2, 4, ... seconds, which is said once, and
    raises StorageError after the last of `tries`; at once for what lasts.
    """

    def __init__(self, address: str | Path, tries: int = _TRIES) -> None:
        """Raises JslmError where the address has a scheme that is unknown or whose package is absent."""
        self.address, self.tries = tidy(address), tries
        scheme = self.address.split("://")[0]
        fsspec = load_extra("fsspec", "cloud", f"{self.address}: an address")
        try:
            self._system, self._root = fsspec.core.url_to_fs(self.address, **_OPTIONS.get(scheme, {}))
        except ImportError:
            package = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}.get(scheme, "aiohttp")
            load_extra(package, "cloud", f"{self.address}: an address")
            raise
        except ValueError as error:
            raise JslmError(f"{self.address}: {_line(error)}; expected s3://… or gs://…") from None
        # s3fs tries five times by itself.
        self._system.retries = 1
        self._root = self._root.rstrip("/")

    def names(self, prefix: str = "") -> dict[str, Stat]:
        """Name -> size and version of all that is there now; the address itself, where it is an object, is ""."""
        self._system.invalidate_cache()
        where = f"{self._root}/{prefix}".rstrip("/")
        found = self._try(lambda: self._system.find(where, detail=True), absent={})
        start = self._root.strip("/")
        return {
            str(name).strip("/").removeprefix(start).strip("/"): Stat(int(info.get("size") or 0), _version(info))
            for name, info in found.items()
            # Consoles make an object for a folder.
            if info.get("type", "file") == "file" and not str(name).endswith("/")
        }

    def read(self, name: str) -> bytes | None:
        """The bytes of an object; None where it is not there."""
        return self._try(lambda: bytes(self._system.cat_file(self._path(name))), absent=None)

    def write(self, name: str, data: bytes) -> None:
        """Puts an object there, in place of what it was."""
        self._try(lambda: self._system.pipe_file(self._path(name), data))

    def upload(self, file: Path, name: str) -> None:
        """Puts a file there; OSError of the file itself is passed on."""
        file.stat()
        self._try(lambda: self._system.put_file(str(file), self._path(name)))

    def download(self, name: str, file: Path) -> None:
        """Gets an object as a file, in whose folder nothing else is touched. Raises StorageError where it is gone."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._try(lambda: self._system.get_file(self._path(name), str(file)))

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects; those that are not there are passed over."""
        for path in map(self._path, names):
            self._try(functools.partial(self._system.rm_file, path), absent=None)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, action: Callable[[], T], absent: Any = ...) -> T:
        for attempt in range(self.tries - 1):
            try:
                return self._once(action, absent)
            except StorageError as error:
                if error.is_lasting:
                    raise
                if not attempt:
                    say(f"{error}; trying again")
                time.sleep(2**attempt)
        return self._once(action, absent)

    def _once(self, action: Callable[[], T], absent: Any) -> T:
        try:
            return action()
        except FileNotFoundError as error:
            if absent is not ...:
                return absent
            raise StorageError(f"{self.address}: not there ({_line(error)})", is_lasting=True) from None
        except PermissionError as error:
            raise StorageError(f"{self.address}: not open to you ({_line(error)})", is_lasting=True) from None
        except Exception as error:  # each store's library has kinds of its own
            lacks_login = type(error).__name__ in ("NoCredentialsError", "DefaultCredentialsError")
            remedy = "; log in to the store on this machine (docs/cloud.md)" if lacks_login else ""
            raise StorageError(f"{self.address}: {_line(error)}{remedy}", is_lasting=lacks_login) from None


def _version(info: Mapping[str, Any]) -> str:
    return next((f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key)), "")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
