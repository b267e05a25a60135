"""`manifest.json`: sizes and CRC-32s of all files of a folder, by which damage is found and named."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.files import write_text

MANIFEST = "manifest.json"
_FORMAT = 2
_BLOCK = 1 << 20
# File name, with folders -> (bytes, CRC-32).
Manifest = dict[str, tuple[int, int]]


def write_manifest(folder: Path, about: Mapping[str, Any] | None = None) -> None:
    """Writes the manifest of what is in `folder` now, with a CRC-32 of its own, and what is to be known `about` it."""
    # One after the other: training goes on meanwhile, and wants the cores.
    files = {name: measured(folder / name) for name in sorted(_names(folder))}
    values = {"format": _FORMAT, "crc32": _own_crc32(files), "files": files, "about": dict(about or {})}
    write_text(folder / MANIFEST, json.dumps(values))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of `folder`, None where there is none. Raises JslmError where it is damaged.

    That of an earlier version, which has no CRC-32 of its own, is read too.
    """
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JslmError(f"{path}: damaged: {_first_line(error)}") from None
    return parse_manifest(data, str(path))[0]


def parse_manifest(data: bytes, where: str) -> tuple[Manifest, dict[str, Any]]:
    """The files of a `manifest.json`, and what it says about them. Raises JslmError where it is damaged."""
    try:
        found = json.loads(data.decode("utf-8"))
        files = _files(found["files"] if "format" in found else found)
        if "format" in found and (found["format"] != _FORMAT or found["crc32"] != _own_crc32(files)):
            raise ValueError("its checksum is not the one it was written with")
        about = found.get("about", {}) if "format" in found else {}
        return files, dict(about)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise JslmError(f"{where}: damaged: {_first_line(error)}") from None


def check_files(folder: Path, manifest: Manifest, is_chosen: Callable[[str], bool] | None = None) -> None:
    """Raises JslmError naming the first file that is missing, additional, of another size, or of another CRC-32.

    With `is_chosen`, checksums of those files alone are compared; the others are not read.
    """
    found = _names(folder)
    for name in sorted(manifest.keys() | found):
        if name not in found:
            raise JslmError(f"{folder / name}: damaged: missing, though {MANIFEST} lists it")
        if name not in manifest:
            raise JslmError(f"{folder / name}: damaged: additional, and {MANIFEST} does not list it")
    names = [name for name in sorted(manifest) if is_chosen is None or is_chosen(name)]

    def size_of(name: str) -> int:
        return (folder / name).stat().st_size

    try:
        for name, (size, _) in sorted(manifest.items()):
            if (here := size_of(name)) != size:
                raise JslmError(f"{folder / name}: damaged: {here:,} bytes, expected {size:,}")
        with ThreadPoolExecutor(_threads()) as pool:
            checksums = pool.map(lambda name: measured(folder / name)[1], names)
            for name, checksum in zip(names, checksums, strict=True):
                if checksum != manifest[name][1]:
                    raise JslmError(f"{folder / name}: damaged: its checksum is not the one it was written with")
    except OSError as error:
        raise JslmError(f"{error.filename or folder}: damaged: {error.strerror or error}") from None


def _names(folder: Path) -> set[str]:
    return {
        file.relative_to(folder).as_posix()
        for file in folder.rglob("*")
        if not file.is_dir() and file != folder / MANIFEST
    }


def _files(values: Any) -> Manifest:
    """Checked in type, since a damaged file may be JSON still."""
    files = {}
    for name, (size, checksum) in values.items():
        if not isinstance(size, int) or not isinstance(checksum, int):
            raise ValueError(f"no size and checksum of {name!r}")
        files[name] = (size, checksum)
    if not files:
        raise ValueError("no files in it")
    return files


def _own_crc32(files: Manifest) -> int:
    return zlib.crc32(json.dumps(sorted(files.items())).encode("utf-8"))


def measured(file: Path) -> tuple[int, int]:
    """(bytes, CRC-32) of a file; zlib lets other threads run meanwhile. Raises OSError."""
    size = checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return size, checksum


def _threads() -> int:
    return min(4, os.cpu_count() or 1)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0][:200]
