"""The files of one run, and opening a run for reading. Shared by every verb that writes or reads a run."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jslm.config import Config, config_to_toml, load_config
from jslm.errors import JslmError
from jslm.files import write_text


class RunFolder:
    """Paths inside a run's folder, and its lock."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.toml"
        self.tokenizer = self.path / "tokenizer.json"
        self.chat_template = self.path / "chat_template.jinja"
        self.checkpoints = self.path / "checkpoints"
        self.metrics = self.path / "metrics.jsonl"
        self.samples = self.path / "samples.md"
        self.info = self.path / "run.json"
        self.reference = self.path / "reference.npz"

    def create(self) -> None:
        """Makes the folder; JslmError where that is not allowed, and for an address."""
        if re.match(r"\w{2,}:/", str(self.path)):
            raise JslmError(
                f"run_dir = {self.path}: an address, and runs are written to folders; mount the bucket or the disk, "
                "and give the folder where it is mounted"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise JslmError(
                f"run_dir = {self.path}: cannot be written ({os.strerror(error.errno or 0)}); choose another run_dir"
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folder against other processes; the lock goes with the process, however it ends."""
        with (self.path / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise JslmError(
                    f"run_dir = {self.path}: another training process is using this folder; "
                    "wait for it, or choose another run_dir"
                ) from None
            yield

    def write_config(self, config: Config) -> None:
        """Writes the resolved config, atomically."""
        write_text(self.config, config_to_toml(config))

    def write_info(self, info: dict[str, Any]) -> None:
        """Writes `run.json`: environment, data, result; atomically. A figure that is not finite becomes null."""
        write_text(self.info, json.dumps(_finite(info), indent=1, allow_nan=False) + "\n")

    def read_info(self) -> dict[str, Any]:
        """`run.json`, or an empty dict where there is none or it is damaged."""
        try:
            found = json.loads(self.info.read_text("utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def read_config(self) -> Config:
        """The resolved config of the run. Raises JslmError where this is not a run folder."""
        if not self.path.exists():
            raise JslmError(f"{self.path}: no such run folder; train one with jslm train --config FILE")
        if not self.config.is_file():
            raise JslmError(f"{self.path}: not a run folder: it has no config.toml")
        return load_config(self.config)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def resolve_checkpoint(steps: list[int], best: int | None, asked: str, where: Path) -> int:
    """The step that "best", "latest" or a number names among `steps`. Raises JslmError where there is none."""
    if not steps:
        raise JslmError(f"{where}: no checkpoint yet; the run has not saved one")
    if asked == "latest":
        return steps[-1]
    if asked == "best":
        return steps[-1] if best is None else best
    if asked.isdigit() and int(asked) in steps:
        return int(asked)
    raise JslmError(f"{where}: no checkpoint {asked!r}; there are best, latest, {', '.join(map(str, steps))}")
