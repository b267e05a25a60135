"""Checkpoints of a run: asynchronous, atomic, verified, newest and best kept. The only module that knows Orbax.

`checkpoints/step_00000500/` is an Orbax checkpoint of a flat `{"params/embed/tokens": array, ...}` dict with the run's
position, config and tokenizer as its metadata, and a manifest of sizes and CRC-32s, since array files carry none.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from jslm.errors import JslmError
from jslm.files import write_text

_MANIFEST = "manifest.json"
_STEP = re.compile(r"step_(\d+)")
_log = logging.getLogger("jslm")


def flatten_tree(tree: Any) -> dict[str, Any]:
    """A tree as `{"path/of/leaf": leaf}`; the same for dicts, tuples and optax's named tuples."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(_name(part) for part in path): leaf for path, leaf in leaves}


def unflatten_params(flat: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """The nested dict under `prefix/` of a flat one."""
    result: dict[str, Any] = {}
    for path, leaf in flat.items():
        if not path.startswith(prefix + "/"):
            continue
        *parents, name = path.removeprefix(prefix + "/").split("/")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = leaf
    return result


class CheckpointStore:
    """The checkpoints of one run. One save is in flight at most; `wait()` before reading what was just saved."""

    def __init__(self, folder: str | Path, keep: int = 2) -> None:
        self.folder = Path(folder).absolute()
        self.keep = keep
        self._pending: tuple[int, ocp.AsyncResponse] | None = None

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending."""
        if not self.folder.is_dir():
            return []
        found = (_STEP.fullmatch(entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(int(match[1]) for match in found if match)

    def path(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / f"step_{step:08d}"

    def metadata(self, step: int) -> dict[str, Any]:
        """What `save` was given as metadata. Raises JslmError where it can't be read."""
        try:
            found = ocp.metadata(self.path(step)).custom_metadata
        except Exception as error:  # Orbax raises many kinds for damaged files
            raise JslmError(f"{self.path(step)}: damaged checkpoint: {_first_line(error)}") from None
        if not isinstance(found, dict) or "step" not in found:
            raise JslmError(f"{self.path(step)}: not a checkpoint of jslm: no metadata")
        return found

    def best_step(self) -> int | None:
        """The step with the lowest validation loss, or the newest where none was validated."""
        steps = self.steps()
        losses = {}
        for step in steps:
            try:
                loss = self.metadata(step).get("val_loss")
            except JslmError as error:
                _log.warning("%s", error)
                continue
            if loss is not None and math.isfinite(loss):
                losses[step] = loss
        return min(losses, key=lambda step: losses[step]) if losses else (steps[-1] if steps else None)

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts writing; returns when the arrays have been copied from the devices, so that they may be donated.

        Raises JslmError where the disk is full, here or at the next call or `wait`.
        """
        self.wait()
        with self._disk_errors(step):
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.path(step)
            if path.exists() and jax.process_index() == 0:
                shutil.rmtree(path)
            flat = flatten_tree(state)
            self._check_space(step, flat)
            response = ocp.save_async(path, flat, custom_metadata={"step": step, **metadata})
            self._pending = (step, response)

    def wait(self) -> None:
        """Blocks until the save in flight is on disk, then drops what is no longer kept. Raises what the save
        raised.
        """
        if self._pending is None:
            return
        (step, response), self._pending = self._pending, None
        with self._disk_errors(step):
            response.result()
            if jax.process_index() == 0:
                _write_manifest(self.path(step))
        if jax.process_index() == 0:
            self._drop_old()

    def restore(self, abstract_state: Any, step: int) -> Any:
        """The state saved at `step`, with the shapes, types and shardings of `abstract_state`.

        Raises JslmError where files are damaged, or naming the first array whose shape disagrees.
        """
        path = self.path(step)
        self.verify(step)
        wanted = flatten_tree(abstract_state)
        saved = self._saved_arrays(step)
        for name in sorted(wanted.keys() | saved.keys()):
            here, there = wanted.get(name), saved.get(name)
            if here is None or there is None or tuple(here.shape) != tuple(there.shape):
                raise JslmError(
                    f"{path}: {name} is {_shape(there)} in the checkpoint and {_shape(here)} in this config; "
                    "use the config it was trained with, or another run_dir"
                )
        flat = self._load(step, wanted)
        leaves, treedef = jax.tree.flatten(abstract_state)
        assert len(leaves) == len(flat)
        return jax.tree.unflatten(treedef, [flat[name] for name in wanted])

    def load_part(self, step: int, prefix: str, sharding: Any = None) -> dict[str, Any]:
        """The nested dict of arrays under `prefix` ("params" or "ema") alone; the rest is not read.

        `sharding` is one for all arrays; by default they go to this process's first device.
        """
        sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        self.verify(step)
        saved = self._saved_arrays(step)
        wanted = {
            name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
            if name.startswith(prefix + "/")
            else ocp.PLACEHOLDER
            for name, leaf in saved.items()
        }
        part = unflatten_params(self._load(step, wanted), prefix)
        if not part:
            raise JslmError(f"{self.path(step)}: holds no {prefix!r}; it was trained without")
        return part

    def restore_newest(self, restore: Callable[[int], Any]) -> tuple[int, Any] | None:
        """`restore(step)` of the newest checkpoint that is whole. Damaged ones are named and set aside.

        None where there is no checkpoint; JslmError where there are some and none is whole.
        """
        if jax.process_index() == 0:
            self._drop_unfinished()
        steps = self.steps()
        for step in reversed(steps):
            try:
                self.verify(step)
                self.metadata(step)
            except JslmError as error:
                aside = self.path(step).with_name(self.path(step).name + ".damaged")
                _log.warning("%s; set aside as %s, the one before is used", error, aside.name)
                if jax.process_index() == 0:
                    shutil.rmtree(aside, ignore_errors=True)
                    os.replace(self.path(step), aside)
                continue
            return step, restore(step)
        if steps:
            raise JslmError(f"{self.folder}: every checkpoint is damaged; delete the folder to start again")
        return None

    def verify(self, step: int) -> None:
        """Raises JslmError naming the first file that is missing, short, or has another CRC-32 than when written."""
        path = self.path(step)
        try:
            manifest = json.loads((path / _MANIFEST).read_text("utf-8"))
        except FileNotFoundError:
            # Killed between Orbax's commit and ours: the checkpoint itself is whole.
            return
        except (OSError, ValueError) as error:
            raise JslmError(f"{path / _MANIFEST}: damaged: {_first_line(error)}") from None
        for name, (size, checksum) in manifest.items():
            file = path / name
            if not file.is_file():
                raise JslmError(f"{file}: missing from the checkpoint")
            if file.stat().st_size != size:
                raise JslmError(f"{file}: damaged: {file.stat().st_size:,} bytes, expected {size:,}")
            if _crc32(file) != checksum:
                raise JslmError(f"{file}: damaged: its checksum is not the one it was written with")

    def _saved_arrays(self, step: int) -> dict[str, Any]:
        try:
            return dict(ocp.metadata(self.path(step)).metadata)
        except Exception as error:
            raise JslmError(f"{self.path(step)}: damaged checkpoint: {_first_line(error)}") from None

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(ocp.load(self.path(step), wanted))
        except (ValueError, OSError, KeyError, RuntimeError) as error:
            raise JslmError(f"{self.path(step)}: damaged checkpoint: {_first_line(error)}") from None

    def _drop_old(self) -> None:
        best = self.best_step()
        for step in self.steps()[: -self.keep]:
            if step != best:
                shutil.rmtree(self.path(step), ignore_errors=True)
        self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        """Removes what a killed or failed save left; call it only while no save is in flight."""
        for leftover in self.folder.glob("*orbax-checkpoint-tmp*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _check_space(self, step: int, flat: Mapping[str, Any]) -> None:
        # Running into a full disk works too, but Orbax's threads tell of it in tracebacks. Compression saves under a
        # tenth.
        needed = sum(leaf.nbytes for leaf in flat.values()) // jax.process_count()
        free = shutil.disk_usage(self.folder).free
        if free < 0.8 * needed:
            raise JslmError(
                f"{self.path(step)}: no space left on the disk: a checkpoint takes {needed / 1e6:,.1f} MB, and "
                f"{free / 1e6:,.1f} MB are free; those before it are whole: free some space, then run the same command "
                "again"
            )

    @contextlib.contextmanager
    def _disk_errors(self, step: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # tensorstore's own kinds, which tell of the disk in their text alone
            if jax.process_index() == 0:
                self._drop_unfinished()
            if "No space left on device" not in str(error):
                raise
            raise JslmError(
                f"{self.path(step)}: no space left on the disk, so this checkpoint was not saved; those before it are "
                "whole: free some space, then run the same command again"
            ) from error


def _name(part: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    raise TypeError(part)


def _shape(leaf: Any) -> str:
    return "absent" if leaf is None else "x".join(map(str, leaf.shape)) or "a scalar"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0][:200]


def _write_manifest(path: Path) -> None:
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != _MANIFEST)
    manifest = {str(file.relative_to(path)): (file.stat().st_size, _crc32(file)) for file in files}
    write_text(path / _MANIFEST, json.dumps(manifest))


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum
