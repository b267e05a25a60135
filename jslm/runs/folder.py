"""The files of one run, and opening a run for reading. Shared by every verb that writes or reads a run."""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import math
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jslm.config import Config, config_to_toml, load_config
from jslm.errors import JslmError
from jslm.files import locked, write_text
from jslm.storage import is_address, local_copy, tidy

# First line of a run's config, over what follows. A flipped digit would be a setting like any other.
_CHECKSUM = "# crc32 = "
_CHECKSUM_LINE = re.compile(rf"{_CHECKSUM}([0-9a-f]{{8}}) of all lines below; delete this one to change them by hand\n")
_INFO_CHECKSUM = "crc32"
# Held by the process that trains the run.
RUN_LOCK = ".lock"
# What people made of the run, a file a study: written by those who judge, from any machine.
JUDGEMENTS = "judgements"
_STEP = re.compile(r"step_(\d+)")
_log = logging.getLogger("jslm")


class RunFolder:
    """Paths inside a run's folder, and its lock.

    Of a run at an address, `path` is the folder of this machine in which it is trained (`jslm.runs.mirror`).
    """

    def __init__(self, path: str | Path) -> None:
        self.address = tidy(path) if is_address(path) else ""
        self.path = local_copy(path, "runs") if self.address else Path(path)
        self.config = self.path / "config.toml"
        self.tokenizer = self.path / "tokenizer.json"
        self.chat_template = self.path / "chat_template.jinja"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.md"
        self.info = self.path / "run.json"
        self.reference = self.path / "reference.npz"
        self.judgements = self.path / JUDGEMENTS

    @property
    def name(self) -> str:
        """What the user calls it: its address or its path."""
        return self.address or str(self.path)

    def create(self) -> None:
        """Makes the folder; JslmError where that is not allowed."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            # Another process that starts here now makes the same one.
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise JslmError(
                f"run_dir = {self.path}: cannot be written ({os.strerror(error.errno or 0)}); choose another run_dir"
            ) from None

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Holds the folder against other processes. Raises JslmError where one of them has it."""
        taken = "another training process is using this folder; wait for it, or choose another run_dir"
        return locked(self.path / RUN_LOCK, f"run_dir = {self.name}: {taken}")

    def write_config(self, config: Config) -> None:
        """Writes the resolved config, atomically, with a checksum of it."""
        text = config_to_toml(config)
        line = f"{_CHECKSUM}{_crc32(text):08x} of all lines below; delete this one to change them by hand\n"
        write_text(self.config, line + text)

    def write_info(self, info: dict[str, Any]) -> None:
        """Writes `run.json`: environment, data, result; atomically. A figure that is not finite becomes null."""
        values = {name: value for name, value in finite(info).items() if name != _INFO_CHECKSUM}
        values[_INFO_CHECKSUM] = _info_crc32(values)
        write_text(self.info, json.dumps(values, indent=1, allow_nan=False) + "\n")

    def read_info(self) -> dict[str, Any]:
        """`run.json`, or an empty dict where there is none, or, which is said, where it is damaged."""
        try:
            found = json.loads(self.info.read_text("utf-8"))
            if not isinstance(found, dict):
                raise ValueError("no JSON object")
            expected = found.pop(_INFO_CHECKSUM, None)
            if expected not in (None, _info_crc32(found)):
                raise ValueError("its checksum is not the one it was written with")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            _warn_once(f"{self.info}: damaged ({error}); going on without what it says of this run")
            return {}
        return found

    def read_config(self) -> Config:
        """The resolved config of the run. Raises JslmError where this is not a run folder, or it is not as written."""
        if not self.path.exists():
            raise JslmError(f"{self.path}: no such run folder; train one with jslm train --config FILE")
        if not self.config.is_file():
            raise JslmError(f"{self.path}: not a run folder: it has no config.toml")
        self._check_config()
        return load_config(self.config)

    def _check_config(self) -> None:
        try:
            text = self.config.read_bytes().decode("utf-8")
        except OSError as error:
            raise JslmError(f"{self.config}: cannot be read ({error.strerror})") from None
        except UnicodeDecodeError as error:
            raise JslmError(f"{self.config}: damaged: not UTF-8 text ({error.reason})") from None
        if not text.strip():
            raise JslmError(f"{self.config}: damaged: empty; put it back from a copy")
        if not text.startswith(_CHECKSUM):
            # Of an earlier version, or written by hand.
            return
        line = _CHECKSUM_LINE.match(text)
        if line is None or int(line[1], 16) != _crc32(text[line.end() :]):
            raise JslmError(
                f"{self.config}: edited or damaged: its checksum is not the one it was written with; put it back, or, "
                "if it was changed by hand, delete its first line"
            )


@functools.cache
def _warn_once(message: str) -> None:
    # Several steps of one command read the same file.
    _log.warning("%s", message)


def _crc32(text: str) -> int:
    return zlib.crc32(text.encode("utf-8"))


def _info_crc32(values: dict[str, Any]) -> int:
    return _crc32(json.dumps(values, sort_keys=True))


def finite(value: Any) -> Any:
    """The value with null for each number in it that is not finite, as JSON has no word for it."""
    if isinstance(value, dict):
        return {key: finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def best_of(losses: Mapping[int, float | None]) -> int | None:
    """The step with the lowest validation loss, the first of equal ones; the newest where none was validated."""
    known = {step: loss for step, loss in sorted(losses.items()) if loss is not None and math.isfinite(loss)}
    return min(known, key=lambda step: known[step]) if known else max(losses, default=None)


def step_folder(step: int) -> str:
    """What the folder of a checkpoint is called."""
    return f"step_{step:08d}"


def step_of(folder: str) -> int | None:
    """The step of a finished checkpoint's folder, None for other names."""
    match = _STEP.fullmatch(folder)
    return int(match[1]) if match else None


def resolve_checkpoint(steps: list[int], best: int | None, asked: str, where: str | Path) -> int:
    """The step that "best", "latest" or a number names among `steps`. Raises JslmError, which begins with `where`."""
    if not steps:
        raise JslmError(f"{where}: no checkpoint yet; the run has not saved one")
    if asked == "latest":
        return steps[-1]
    if asked == "best":
        return steps[-1] if best is None else best
    if asked.isdigit() and int(asked) in steps:
        return int(asked)
    raise JslmError(f"{where}: no checkpoint {asked!r}; there are best, latest, {', '.join(map(str, steps))}")


def is_run_folder(path: Path) -> bool:
    """Whether `path` has the config of a run."""
    return RunFolder(path).config.is_file()
