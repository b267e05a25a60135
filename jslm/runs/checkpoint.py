"""Checkpoints of a run: asynchronous, atomic, verified, newest and best kept. The only module that knows Orbax.

`checkpoints/step_00000500/` is an Orbax checkpoint of a flat `{"params/embed/tokens": array, ...}` dict with the run's
position, config and tokenizer as its metadata, and a manifest of sizes and CRC-32s (`jslm.runs.manifest`), since array
files carry none. Orbax writes it under another name; it gets its own once the manifest is in it, so that what has the
name of a checkpoint can be verified.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from jslm.errors import JslmError
from jslm.runs.folder import best_of, step_folder, step_of
from jslm.runs.manifest import check_files, read_manifest, write_manifest

# What a save writes into, and what is being removed: folders under these names are no checkpoints.
_SAVING, _DROPPED = ".saving", ".dropped"
# In the metadata of every checkpoint that got its name with a manifest inside; earlier versions wrote it afterwards.
_HAS_MANIFEST = "has_manifest"
_log = logging.getLogger("jslm")


def flatten_tree(tree: Any) -> dict[str, Any]:
    """A tree as `{"path/of/leaf": leaf}`; the same for dicts, tuples and optax's named tuples."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {"/".join(_name(part) for part in path): leaf for path, leaf in leaves}


def check_params(params: Mapping[str, Any], shapes: Mapping[str, Any], where: str, config: str) -> None:
    """Raises JslmError where `params`, of `where`, is not the tree of `shapes` that the file `config` asks for."""
    wanted, found = flatten_tree(shapes), flatten_tree(params)
    for name in sorted(wanted.keys() | found.keys()):
        there, here = (list(tree[name].shape) if name in tree else "absent" for tree in (found, wanted))
        if there != here:
            raise JslmError(f"{where}: {name} is {there}, and {here} by {config}; put back the config it was made with")


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
        self._pending: _Save | None = None
        # Steps whose every file this object has compared with its manifest.
        self._whole: set[int] = set()

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending. They may be damaged: see `whole_steps`."""
        if not self.folder.is_dir():
            return []
        found = (step_of(entry.name) for entry in self.folder.iterdir() if entry.is_dir())
        return sorted(step for step in found if step is not None)

    def whole_steps(self) -> list[int]:
        """Steps of the checkpoints that are whole, ascending; every file of all of them is read.

        Damaged ones are named in a warning and set aside as `step_X.damaged`. Raises JslmError where there are some and
        none is whole; all is left as it is then.
        """
        whole, damaged = [], {}
        for step in reversed(self.steps()):
            try:
                self.verify(step)
            except JslmError as error:
                # A training process may have dropped it in the meantime.
                if self.path(step).is_dir():
                    damaged[step] = error
            else:
                whole.append(step)
        if damaged and not whole:
            raise JslmError(
                f"{damaged[max(damaged)]}; every checkpoint is damaged: put the files back from a copy, or delete "
                f"{self.folder} to start again"
            )
        for step, reason in damaged.items():
            self._set_aside(step, reason)
        return whole[::-1]

    def path(self, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder / step_folder(step)

    def metadata(self, step: int) -> dict[str, Any]:
        """What `save` was given as metadata. Raises JslmError where it is damaged, whatever the arrays are."""
        path = self.path(step)
        if step not in self._whole and (manifest := read_manifest(path)):
            # Orbax keeps what is no array in small files beside the arrays' folder.
            check_files(path, manifest, lambda name: "/" not in name)
        return self._read_metadata(step)

    def _read_metadata(self, step: int) -> dict[str, Any]:
        try:
            found = ocp.metadata(self.path(step)).custom_metadata
        except Exception as error:  # Orbax raises many kinds for damaged files
            raise JslmError(f"{self.path(step)}: damaged checkpoint: {_first_line(error)}") from None
        if not isinstance(found, dict) or "step" not in found:
            raise JslmError(f"{self.path(step)}: not a checkpoint of jslm: no metadata")
        return found

    def best_step(self, steps: Sequence[int] | None = None) -> int | None:
        """Of `steps` (by default all) the one with the lowest validation loss, the newest where none was validated."""
        steps = self.steps() if steps is None else steps
        losses: dict[int, float | None] = {}
        for step in steps:
            try:
                loss = self.metadata(step).get("val_loss")
            except JslmError as error:
                _log.warning("%s", error)
                continue
            losses[step] = loss
        return best_of(losses) if losses else (steps[-1] if steps else None)

    def save(self, step: int, state: Any, metadata: Mapping[str, Any]) -> None:
        """Starts writing; returns when the arrays have been copied from the devices, so that they may be donated.

        Raises JslmError where the disk is full, here or at the next call or `wait`.
        """
        self.wait()
        with self._disk_errors(step):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._whole.discard(step)
            path = self.path(step)
            saving = path.with_name(path.name + _SAVING)
            if saving.exists() and jax.process_index() == 0:
                shutil.rmtree(saving)
            flat = flatten_tree(state)
            self._check_space(step, flat)
            custom = {"step": step, _HAS_MANIFEST: True, **metadata}
            response = ocp.save_async(saving, flat, custom_metadata=custom)
            self._pending = _Save(step, response, lambda: _commit(saving, path, metadata))

    def wait(self) -> None:
        """Blocks until the save in flight is on disk, then drops what is no longer kept. Raises what the save
        raised.
        """
        if self._pending is None:
            return
        save, self._pending = self._pending, None
        with self._disk_errors(save.step):
            save.result()
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
        """The nested dict of arrays under `prefix` ("params" or "ema") alone; the rest is not loaded.

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
        step = self._newest_whole_everywhere() if jax.process_count() > 1 else self._newest_whole()
        return None if step is None else (step, restore(step))

    def _newest_whole(self) -> int | None:
        self._drop_unfinished()
        return max(self.whole_steps(), default=None)

    def _newest_whole_everywhere(self) -> int | None:
        """What the first process finds, on all of them: what one sets aside the others would miss."""
        none, failed = -1, -2
        step, error = failed, None
        if jax.process_index() == 0:
            try:
                newest = self._newest_whole()
                step = none if newest is None else newest
            except JslmError as found:
                error = found
        step = int(multihost_utils.broadcast_one_to_all(np.int64(step)))
        if step == failed:
            raise error or JslmError(f"{self.folder}: every checkpoint is damaged; the first process says how")
        self._whole |= {step} - {none}
        return None if step == none else step

    def verify(self, step: int) -> None:
        """Raises JslmError naming the first file that is missing, additional, short, or has another CRC-32 than when
        written; done once for each step.

        A checkpoint of an earlier version may lack the manifest, which is said: it can't be verified.
        """
        if step in self._whole:
            return
        path = self.path(step)
        manifest = read_manifest(path)
        if manifest is not None:
            check_files(path, manifest)
        elif self._read_metadata(step).get(_HAS_MANIFEST):
            raise JslmError(f"{path}: damaged: its manifest.json is missing, so the files cannot be verified")
        else:
            _log.warning("%s: of an earlier version of jslm, without manifest.json: damage would not be noticed", path)
        self._whole.add(step)

    def _set_aside(self, step: int, error: JslmError) -> None:
        path = self.path(step)
        aside = path.with_name(path.name + ".damaged")
        where = f"set aside as {aside.name}"
        try:
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(path, aside)
        except OSError as problem:
            # A reader may lack the right to rename; what matters is that it isn't used.
            where = f"left where it is ({problem.strerror})"
        _log.warning("%s; %s, and the one before is used", error, where)

    def _saved_arrays(self, step: int) -> dict[str, Any]:
        try:
            return dict(ocp.metadata(self.path(step)).metadata)
        except Exception as error:
            raise JslmError(f"{self.path(step)}: damaged checkpoint: {_first_line(error)}") from None

    def _load(self, step: int, wanted: dict[str, Any]) -> dict[str, Any]:
        try:
            return dict(ocp.load(self.path(step), wanted))
        except Exception as error:  # as above, where there was no manifest to tell before
            if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error):
                raise
            raise JslmError(
                f"{self.path(step)}: damaged checkpoint: {_first_line(error)}; delete this folder, and the checkpoint "
                "before it is used"
            ) from None

    def _drop_old(self) -> None:
        steps = self.steps()
        best = self.best_step(steps)
        for step in steps[: -self.keep]:
            if step != best:
                # Renamed first: who reads it meanwhile finds it gone, not damaged.
                dropped = self.path(step).with_name(self.path(step).name + _DROPPED)
                with contextlib.suppress(OSError):
                    os.replace(self.path(step), dropped)
                    shutil.rmtree(dropped, ignore_errors=True)
        self._drop_unfinished()

    def _drop_unfinished(self) -> None:
        """Removes what a killed or failed save left; call it only while no save is in flight."""
        for pattern in ("*orbax-checkpoint-tmp*", f"step_*{_SAVING}", f"step_*{_DROPPED}"):
            for leftover in self.folder.glob(pattern):
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


class _Save:
    """A save in flight: a thread waits for Orbax and finishes the checkpoint, while training goes on."""

    def __init__(self, step: int, response: ocp.AsyncResponse, commit: Callable[[], None]) -> None:
        self.step = step
        self._response, self._commit = response, commit
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"jslm checkpoint {step}")
        self._thread.start()

    def _run(self) -> None:
        try:
            self._response.result()
            if jax.process_index() == 0:
                self._commit()
        except BaseException as error:
            self._error = error

    def result(self) -> None:
        """Blocks until it is done; raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error


def _commit(saving: Path, path: Path, metadata: Mapping[str, Any]) -> None:
    """Gives what was saved its manifest and then its name: from here on it counts."""
    loss = metadata.get("val_loss")
    # By which the best is known without the arrays (`best_of`).
    write_manifest(saving, {"val_loss": loss if loss is not None and math.isfinite(loss) else None})
    if path.exists():
        # An earlier run's, in whose place this one comes.
        dropped = path.with_name(path.name + _DROPPED)
        shutil.rmtree(dropped, ignore_errors=True)
        os.replace(path, dropped)
        os.replace(saving, path)
        shutil.rmtree(dropped, ignore_errors=True)
    else:
        os.replace(saving, path)


def _name(part: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    raise TypeError(part)


def _shape(leaf: Any) -> str:
    return "absent" if leaf is None else "x".join(map(str, leaf.shape)) or "a scalar"


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).split("\n")[0][:200]
