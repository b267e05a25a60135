"""Opening what is at an address: a run's newest or best checkpoint, or a model file, fetched into this machine's cache.

Only what is needed is fetched, compared with its checksums, and used again as long as the address has the same.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from jslm.console import say
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.runs.folder import JUDGEMENTS, best_of, resolve_checkpoint, step_folder, step_of
from jslm.runs.lease import WRITER
from jslm.runs.manifest import MANIFEST, check_files, parse_manifest
from jslm.storage import Objects, StorageError, is_address, local_copy, tidy
from jslm.storage.folders import SAID_BYTES
from jslm.storage.objects import Stat

# Which version of each file is here.
_VERSIONS, _LOCK, _FETCHING = ".versions.json", ".fetch-lock", ".fetching"
# Held, together with others, by each process that has opened one of a run's checkpoints.
_READERS, _DROPPED = ".readers", ".dropped"
# A run's folder -> descriptor of the file that this process holds until it ends.
_reading: dict[Path, int] = {}
_log = logging.getLogger("jslm")


@dataclasses.dataclass
class FolderAtAddress:
    """A run's objects: `manifests` of the checkpoints that count by step, `unfinished` ones' objects, other `files`."""

    address: str
    manifests: dict[int, bytes]
    unfinished: dict[int, list[str]]
    files: dict[str, Stat]

    def where(self, step: int) -> str:
        """Address of a checkpoint."""
        return f"{self.address}/checkpoints/{step_folder(step)}"


def list_run(objects: Objects) -> FolderAtAddress:
    """What is at the address of a run now. Raises StorageError."""
    return _sorted_out(objects, objects.names())


def _sorted_out(objects: Objects, names: Mapping[str, Stat]) -> FolderAtAddress:
    steps: dict[int, list[str]] = {}
    files: dict[str, Stat] = {}
    for name, stat in names.items():
        top, _, rest = name.partition("/")
        step = step_of(rest.partition("/")[0]) if top == "checkpoints" else None
        if step is not None:
            steps.setdefault(step, []).append(name)
        elif top not in ("checkpoints", "data"):
            files[name] = stat
    run = FolderAtAddress(objects.address, {}, {}, files)
    for step, found in steps.items():
        marker = f"checkpoints/{step_folder(step)}/{MANIFEST}"
        data = objects.read(marker) if marker in found else None
        if data is None:
            run.unfinished[step] = found
        else:
            run.manifests[step] = data
    return run


def is_wanted(name: str) -> bool:
    """Whether who opens or goes on with a run fetches this file of it: those at the top, and what people said of it."""
    folder, _, _ = name.rpartition("/")
    return folder in ("", JUDGEMENTS) and name != WRITER


def fetch_step(objects: Objects, run: FolderAtAddress, step: int, target: Path) -> None:
    """Makes `target` the checkpoint of `step`, whole or not at all, unless it is that already.

    Raises StorageError where it can't be fetched, and another JslmError where objects are not what its manifest says.
    """
    data = run.manifests[step]
    files, _ = parse_manifest(data, f"{run.where(step)}/{MANIFEST}")
    if (target / MANIFEST).is_file() and (target / MANIFEST).read_bytes() == data:
        return
    fetching = target.parent / _FETCHING
    shutil.rmtree(fetching, ignore_errors=True)
    there = objects.names(f"checkpoints/{step_folder(step)}")
    for name, (size, _) in sorted(files.items()):
        path = f"checkpoints/{step_folder(step)}/{name}"
        found = there[path].size if path in there else None
        if found != size:
            what = "missing" if found is None else f"{found:,} bytes, expected {size:,}"
            raise JslmError(f"{run.where(step)}/{name}: damaged: {what}")
        objects.download(path, fetching / name)
    (fetching / MANIFEST).write_bytes(data)
    try:
        check_files(fetching, files)
    except JslmError as error:
        raise JslmError(str(error).replace(str(fetching), run.where(step))) from None
    shutil.rmtree(target, ignore_errors=True)
    os.replace(fetching, target)


def opened(name: str | Path, checkpoint: str = "best") -> tuple[str, str]:
    """The path on this machine that stands for a run or model, and which of its checkpoints to take.

    A path comes back as it is. Of a run at an address its files and the checkpoint that is asked for are fetched; that
    is a step then. Raises StorageError where the address can't be reached, and JslmError where there is no such thing.
    """
    return _opened(tidy(name), str(checkpoint)) if is_address(name) else (str(name), str(checkpoint))


@functools.cache
def _opened(address: str, checkpoint: str) -> tuple[str, str]:
    here = local_copy(address, "read")
    objects = Objects(address)
    names = objects.names()
    if not names:
        raise JslmError(f"{address}: nothing is there; expected a run (config.toml and checkpoints) or a model file")
    folder = here.parent if "" in names else here
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if "" in names:
            _fetch_files(objects, {"": names[""]}, folder, {"": here.name})
        elif "config.toml" in names:
            checkpoint = _fetch_run(objects, names, here, checkpoint)
            _read_until_the_end(here)
        else:
            _fetch_files(objects, names, here, {name: name for name in names})
    return str(here), checkpoint


def _fetch_run(objects: Objects, names: Mapping[str, Stat], folder: Path, asked: str) -> str:
    run = _sorted_out(objects, names)
    wanted = {name: stat for name, stat in run.files.items() if is_wanted(name)}
    _fetch_files(objects, wanted, folder, {name: name for name in wanted})
    checkpoints = folder / "checkpoints"
    _drop_old(folder, run)
    if run.unfinished:
        _log.warning(
            "%s: %d checkpoint(s) not whole there (%s): an upload under way, or interrupted; not used",
            run.address,
            len(run.unfinished),
            ", ".join(map(step_folder, sorted(run.unfinished))),
        )
    about = {step: parse_manifest(data, f"{run.where(step)}/{MANIFEST}")[1] for step, data in run.manifests.items()}
    losses = {step: known.get("val_loss") for step, known in about.items()}
    if asked == "best" and not all("val_loss" in known for known in about.values()):
        # Copied there from a folder of an earlier version: the arrays' own metadata tell.
        for step in losses:
            fetch_step(objects, run, step, checkpoints / step_folder(step))
        return asked
    for step in _choices(losses, asked, run.address):
        try:
            fetch_step(objects, run, step, checkpoints / step_folder(step))
            return str(step)
        except StorageError:
            raise
        except JslmError as error:
            if asked.isdigit():
                raise
            _log.warning("%s; not believed, and another is used", error)
    raise JslmError(f"{run.address}: every checkpoint is damaged; put the objects back from a copy")


def _drop_old(folder: Path, run: FolderAtAddress) -> None:
    """Removes the checkpoints that the address has no more, unless a process may still read one of them."""
    readers = os.open(folder / _READERS, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for entry in (folder / "checkpoints").glob("step_*"):
            step = step_of(entry.name.removesuffix(_DROPPED))
            if step is not None and (step not in run.manifests or entry.name.endswith(_DROPPED)):
                # Renamed first: a kill in the middle leaves nothing that has the name of a checkpoint.
                dropped = entry.with_name(f"{step_folder(step)}{_DROPPED}")
                os.replace(entry, dropped)
                shutil.rmtree(dropped, ignore_errors=True)
    except BlockingIOError:
        # Whoever opens the run after that process drops them.
        pass
    finally:
        os.close(readers)


def _read_until_the_end(folder: Path) -> None:
    """Says to other processes that this one reads the run's checkpoints; the system forgets it with the process."""
    if folder not in _reading:
        _reading[folder] = os.open(folder / _READERS, os.O_RDWR | os.O_CREAT, 0o666)
        fcntl.flock(_reading[folder], fcntl.LOCK_SH)


def _choices(losses: dict[int, float | None], asked: str, where: str) -> Iterator[int]:
    """The step that is asked for, then those to take where it is damaged. Raises JslmError where there is none."""
    left = dict(losses)
    while left or not losses:
        step = resolve_checkpoint(sorted(left), best_of(left), asked, where)
        yield step
        del left[step]


def _fetch_files(objects: Objects, names: Mapping[str, Stat], folder: Path, targets: Mapping[str, str]) -> None:
    """Fetches those that are others than when they were fetched last; each appears whole."""
    versions = folder / _VERSIONS
    try:
        known = json.loads(versions.read_text("utf-8"))
    except (OSError, ValueError):
        known = {}
    changed = {
        name: stat
        for name, stat in names.items()
        if known.get(targets[name]) != [stat.size, stat.version] or not (folder / targets[name]).is_file()
    }
    if (size := sum(stat.size for stat in changed.values())) > SAID_BYTES:
        say(f"{objects.address}: fetching {size / 1e6:,.1f} MB")
    for name, stat in changed.items():
        objects.download(name, folder / targets[name])
        known[targets[name]] = [stat.size, stat.version]
    if changed:
        write_text(versions, json.dumps(known))
