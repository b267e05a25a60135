"""What is an address, and which folder of this machine stands for it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from jslm.errors import JslmError

# Two letters at least: C:/ is a disk. `Path` leaves one slash of two.
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?P<rest>.*)")
# Two servers may have a bucket of one name each.
_SERVERS = {
    "s3": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "gs": ("STORAGE_EMULATOR_HOST",),
    "gcs": ("STORAGE_EMULATOR_HOST",),
    "hf": ("HF_ENDPOINT",),
}
# `runs` is written by the training process alone, `read` by all who open a run, `data` holds prepared data.
Kind = Literal["runs", "read", "data"]


def is_address(name: str | Path) -> bool:
    """Whether `name` is an address such as `s3://bucket/run`, and no path of this machine."""
    return _ADDRESS.match(str(name)) is not None


def tidy(name: str | Path) -> str:
    """An address with two slashes after its scheme and none at its end."""
    match = _ADDRESS.match(str(name))
    assert match is not None, name
    return f"{match[1].lower()}://{match['rest'].rstrip('/')}"


def local_copy(address: str | Path, kind: Kind) -> Path:
    """The folder (or file) of this machine's cache that stands for an address; nothing is made or fetched.

    The cache is `$JSLM_CACHE`, by default `$XDG_CACHE_HOME/jslm`; it has folders of its own for each server that an
    environment variable names in place of the scheme's usual one. Raises JslmError for an address without a name, or
    with `..` or an empty name in it.
    """
    scheme, _, rest = tidy(address).partition("://")
    parts = [part for part in rest.split("/") if part]
    if not parts or {".", ".."} & set(parts):
        raise JslmError(f"{address}: names no place; expected something like s3://bucket/folder")
    if "//" in rest:
        # Stores tell it from the one with a single slash; folders don't, and the two would have one copy.
        raise JslmError(f"{address}: two slashes in the middle; expected one, or another name")
    server = next((value for name in _SERVERS.get(scheme, ()) if (value := os.environ.get(name))), "")
    place = f"{scheme}@{quote(server.rstrip('/'), safe='')}" if server else scheme
    return cache_folder() / kind / place / Path(*(quote(part, safe=" @+=,~") for part in parts))


def cache_folder() -> Path:
    """Where copies of what is at addresses are kept on this machine."""
    if chosen := os.environ.get("JSLM_CACHE"):
        return Path(chosen).absolute()
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(home) / "jslm"
