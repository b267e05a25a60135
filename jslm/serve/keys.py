"""Who may call: keys as a TOML file has them, by their SHA-256, with what each may use. Imports nothing heavy.

A key that `new_key` makes has 192 random bits, which nobody guesses from a hash however fast that is; the file itself
lets nobody in.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import stat
import tomllib
from collections.abc import Collection
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from jslm.errors import JslmError
from jslm.files import read_utf8

# The name of the key of --api-key-file, in the log.
SINGLE = "api-key"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_PER_MINUTE = Annotated[int, Field(ge=1)]
_log = logging.getLogger("jslm")


class Key(BaseModel):
    """A `[[key]]`. `sha256`: of the key, in hexadecimal. `models`: ids it may use; None: all. Without a limit there is
    none. `metrics`: whether it may read /metrics, which is about all models and callers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: Annotated[str, StringConstraints(pattern=f"^{_NAME}$")]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] = Field(repr=False)
    models: list[str] | None = None
    requests_per_minute: _PER_MINUTE | None = None
    tokens_per_minute: _PER_MINUTE | None = None
    parallel: _PER_MINUTE | None = None
    metrics: bool = False

    def allows(self, model: str) -> bool:
        """Whether it may use that model."""
        return self.models is None or model in self.models


def digest(key: bytes) -> str:
    """SHA-256 in hexadecimal, as the file has it."""
    return hashlib.sha256(key).hexdigest()


def single_key(token: str) -> Key:
    """The one key of --api-key-file or of the environment: everything, without limits."""
    return Key(name=SINGLE, sha256=digest(token.encode()), metrics=True)


def new_key(name: str) -> tuple[str, str]:
    """A key, and the lines of TOML that let it in. Raises JslmError for a name that is none."""
    if not re.fullmatch(_NAME, name):
        raise JslmError(f"--new-key {name!r:.80}: expected letters, digits, '.', '_' and '-', at most 64")
    key = f"sk-{secrets.token_urlsafe(24)}"
    return key, f'[[key]]\nname = "{name}"\nsha256 = "{digest(key.encode())}"\n'


def read_keys(path: Path, models: Collection[str]) -> list[Key]:
    """The keys of a file. Raises JslmError for one that can't be read, that is not as `Key` has it, or that has a model
    outside `models`, a name or a key twice."""
    try:
        values = tomllib.loads(read_utf8(path, f"--keys {path}"))
    except tomllib.TOMLDecodeError as error:
        raise JslmError(f"--keys {path}: not valid TOML: {error}") from None
    tables = values.pop("key", [])
    if values or not isinstance(tables, list):
        found = ", ".join(values) or "key"
        raise JslmError(f"--keys {path}: found {found}; expected tables [[key]] and nothing else")
    keys: list[Key] = []
    for number, table in enumerate(tables, 1):
        keys.append(_key(table, f"--keys {path}: key {number}"))
        key = keys[-1]
        where = f"--keys {path}: key {number} ({key.name})"
        for other in keys[:-1]:
            if key.name == other.name:
                raise JslmError(f"{where}: a key before it has the same name; each needs its own")
            if key.sha256 == other.sha256:
                raise JslmError(f"{where}: has the sha256 of {other.name}; make another with jslm serve --new-key")
        for model in key.models or ():
            if model not in models:
                raise JslmError(f"{where}: models: no {model!r} here; there are: {', '.join(models)}")
    return keys


def warn_if_open(path: Path, option: str) -> None:
    """A line in the log where everybody on this machine can read a file that is meant for few."""
    if path.stat().st_mode & stat.S_IROTH:
        _log.warning("%s %s: everybody on this machine can read it; chmod o-r %s", option, path, path)


def _key(table: object, where: str) -> Key:
    if not isinstance(table, dict):
        raise JslmError(f"{where}: expected a table [[key]]")
    if "key" in table:
        raise JslmError(
            f"{where}: key: the file has no keys but their sha256 (printf %s KEY | sha256sum); "
            "jslm serve --new-key NAME makes a key and its lines"
        )
    try:
        return Key.model_validate(table)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        field = ".".join(map(str, first["loc"]))
        known = ", ".join(Key.model_fields)
        wanted = f"expected one of {known}" if first["type"] == "extra_forbidden" else first["msg"]
        # Never the value of sha256: somebody may have put the key itself there.
        shown = "" if field == "sha256" or first["type"] == "missing" else f" = {first['input']!r:.60}"
        raise JslmError(f"{where}: {field}{shown}: {wanted}") from None
