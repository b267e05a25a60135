"""Prepared data at an address: a folder whose `meta.json` comes last, and tells what the rest should be."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jslm.console import say
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.storage.addresses import is_address, local_copy, tidy
from jslm.storage.objects import Objects

_LAST = "meta.json"
# In a folder of prepared data: held by who prepares, fetches or uploads it.
DATA_LOCK = ".lock"
_PULLING = ".pulling"
# In a copy that is made anew here: the checksum of the `meta.json` at the address that it is to replace.
_UNSENT = ".unsent"
# Fetching less than this takes no time that anyone would ask about.
SAID_BYTES = 16 << 20


def data_folder(name: str | Path) -> Path:
    """The folder of prepared data that `name` stands for: itself, or this machine's copy of what is at an address.

    The copy is brought up to date, once a process: what is at the address counts once its `meta.json` is there, and is
    fetched where this machine has another. Where nothing is there yet, the copy stays as it is, and so does one made
    here to replace what is there still (`announce`). Whoever opens token files compares them with the checksums in
    `meta.json`. Raises StorageError where the address can't be reached.
    """
    if not is_address(name):
        return Path(name)
    address = tidy(name)
    return _pulled(address, local_copy(address, "data"))


def announce(name: str | Path) -> None:
    """Notes that data is about to be made in this machine's copy of the address `name`, to replace what is there.

    Without it, a copy that was made and not uploaded would look like one that another machine's data has made old. A
    path is left alone. The caller holds the copy's lock. Raises StorageError where the address can't be reached.
    """
    if is_address(name):
        address = tidy(name)
        write_text(local_copy(address, "data") / _UNSENT, _checksum(Objects(address).read(_LAST)))


def push_data(name: str | Path) -> None:
    """Uploads prepared data to the address `name` from this machine's copy, unless the same is there; `meta.json` last.

    Only what was made here (`announce`) replaces what is there. A path is left alone. The caller holds the copy's lock
    (`DATA_LOCK`), so that nobody fetches what was there before over what is uploaded. Raises StorageError where that
    fails; the same call goes on.
    """
    if not is_address(name):
        return
    address = tidy(name)
    folder = local_copy(address, "data")
    objects = Objects(address)
    unsent = folder / _UNSENT
    meta = (folder / _LAST).read_bytes()
    there = objects.read(_LAST)
    if there is not None and (there == meta or not unsent.exists()):
        unsent.unlink(missing_ok=True)
        return
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(folder).parts)
    )
    size = sum(file.stat().st_size for file in files)
    # What is there is another set, and mixed with this one it would be neither.
    objects.delete([_LAST])
    try:
        for file in files:
            if file != folder / _LAST:
                target = file.relative_to(folder).as_posix()
                objects.upload(file, target)
        objects.write(_LAST, meta)
        unsent.unlink(missing_ok=True)
    except JslmError as error:
        raise JslmError(f"{error}; the data is whole in {folder}: the same command uploads it") from None
    say(f"{address}: {len(files)} files, {size / 1e6:,.1f} MB uploaded")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds this machine's copy against other processes that fetch, prepare or upload it."""
    with (folder / DATA_LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{folder}: another process is preparing or fetching it; waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def _pulled(address: str, folder: Path) -> Path:
    objects = Objects(address)
    if objects.read(_LAST) is None:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        # Who had the lock before may have put another set there.
        meta = objects.read(_LAST)
        if meta is None:
            return folder
        names = objects.names()
        here = folder / _LAST
        if (
            here.is_file()
            and here.read_bytes() == meta
            and all(_has(folder / name, names[name].size) for name in names)
        ):
            return folder
        unsent = folder / _UNSENT
        if here.is_file() and unsent.exists() and unsent.read_text("ascii") == _checksum(meta):
            say(f"{address}: what was made here is not uploaded yet; `jslm prepare` and `jslm train` upload it")
            return folder
        if (size := sum(stat.size for stat in names.values())) > SAID_BYTES:
            say(f"{address}: fetching {size / 1e6:,.1f} MB")
        pulling = folder / _PULLING
        shutil.rmtree(pulling, ignore_errors=True)
        for name in names:
            objects.download(name, pulling / name)
        if (pulling / _LAST).read_bytes() != meta:
            raise JslmError(f"{address}: changed while it was fetched; run the same command again")
        here.unlink(missing_ok=True)
        # meta.json of the folder itself after all others: with it, the folder counts.
        for name in sorted(names, key=lambda name: name == _LAST):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(pulling / name, folder / name)
        shutil.rmtree(pulling, ignore_errors=True)
        unsent.unlink(missing_ok=True)
    return folder


def _checksum(meta: bytes | None) -> str:
    return "" if meta is None else hashlib.sha256(meta).hexdigest()


def _has(file: Path, size: int) -> bool:
    return file.is_file() and file.stat().st_size == size
