"""Objects at an address, through fsspec; what goes wrong is one line.

The only user of fsspec besides the readers of text. An object appears whole or not at all, as object stores promise.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from jslm.storage.addresses import tidy
from jslm.storage.stores import TRIES, content_version, failure, file_system, patiently

T = TypeVar("T")


class Stat(NamedTuple):
    """Bytes of an object, and what changes when it does."""

    size: int
    version: str


class Objects:
    """What is under one address, by its name below it.

    Where the store can't be reached, every method tries again as `patiently` does, up to `tries` times, and raises
    StorageError then; at once for what lasts.
    """

    def __init__(self, address: str | Path, tries: int = TRIES) -> None:
        """Raises JslmError where the address has a scheme that is unknown or whose package is absent."""
        self.address, self.tries = tidy(address), tries
        self._system, self._root = file_system(self.address, self.address, "cloud")
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
        """Gets an object as a file, which appears whole or stays what it was. Raises StorageError where it is gone."""
        file.parent.mkdir(parents=True, exist_ok=True)
        # Of this process: what another fetches into the same folder is not to be taken for it.
        fetching = file.with_name(f".{file.name}.{os.getpid()}.fetching")
        try:
            self._try(lambda: self._system.get_file(self._path(name), str(fetching)))
            os.replace(fetching, file)
        finally:
            fetching.unlink(missing_ok=True)

    def delete(self, names: Iterable[str]) -> None:
        """Removes objects; those that are not there are passed over."""
        for path in map(self._path, names):
            self._try(functools.partial(self._system.rm_file, path), absent=None)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _try(self, action: Callable[[], T], absent: Any = ...) -> T:
        return patiently(lambda: self._once(action, absent), self.tries)

    def _once(self, action: Callable[[], T], absent: Any) -> T:
        try:
            return action()
        except Exception as error:  # each store's library has kinds of its own
            found = failure(error, self.address)
            if isinstance(error, FileNotFoundError) and found.is_lasting and absent is not ...:
                return absent
            raise found from None


def _version(info: Mapping[str, Any]) -> str:
    """What changes when an object does: without a word on its content, the time of its change."""
    return content_version(info) or next(
        (f"{key}={info[key]}" for key in ("created", "mtime", "LastModified") if info.get(key)), ""
    )
