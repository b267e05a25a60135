"""A run at an address: trained in a folder of this machine, and mirrored there while training goes on.

A checkpoint counts at the address once its `manifest.json` is there: that goes up last, and says of every other object
how large it is and what its CRC-32 is. What lacks it was interrupted, and is not believed. The run's other files are
objects of their own, which appear whole; they go up before a checkpoint that was made after them. Nothing goes up from
a process that has lost the run to another: who writes is asked before each object.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from jslm.console import say
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import JUDGEMENTS, RUN_LOCK, best_of, step_folder
from jslm.runs.lease import BEAT_SECONDS, Lease, Taken
from jslm.runs.manifest import MANIFEST, check_files, parse_manifest
from jslm.runs.nested import check_apart
from jslm.runs.remote import FolderAtAddress, fetch_step, is_wanted, list_run
from jslm.storage import Objects, StorageError

# Seconds between looks for a new checkpoint, and between uploads of files that grow.
POLL_SECONDS, GROWING_SECONDS = 0.5, 30.0
# The longest wait for a store that can't be reached, between two tries.
_LONGEST_WAIT = 60.0
# Ids of the writers whose work this folder continues.
_WRITERS, _PINNED = ".writers", ".uploading"
_LARGE_BYTES = 64 << 20
# At its end a run may wait so long for its uploads.
END_SECONDS = 600.0
_log = logging.getLogger("jslm")


@contextlib.contextmanager
def mirrored(folder: Path, address: str, keep: int) -> Iterator[Mirror | None]:
    """The run at `address`, fetched into `folder` and mirrored back from it until the end; nothing for no address.

    Leaving it uploads what is outstanding, for `Mirror.seconds` at most. Raises JslmError where the run can't be
    fetched, another process writes it, or, at the end, something was left behind.
    """
    if not address:
        yield None
        return
    mirror = Mirror(folder, address, keep)
    mirror.start()
    try:
        yield mirror
    except BaseException:
        # What went wrong is told; of what was saved nothing shall be missing.
        with contextlib.suppress(JslmError):
            mirror.seconds = min(mirror.seconds, 30.0)
            mirror.close()
        raise
    mirror.close()


class _GivenUp(Exception):
    """The time for uploads is over, and another process may have the run."""


class Mirror:
    """Uploads what appears in a run's folder, in a thread of its own. `seconds`: how long its end may take."""

    def __init__(self, folder: Path, address: str, keep: int) -> None:
        self.folder, self.keep, self.seconds = folder, keep, END_SECONDS
        self._objects = Objects(address)
        self._store = CheckpointStore(folder / "checkpoints")
        self._lease = Lease(self._objects)
        # Step -> (manifest, validation loss) of the checkpoints that count at the address.
        self._complete: dict[int, tuple[bytes, float | None]] = {}
        # Of these there may be objects at the address, and no manifest.
        self._partial: set[int] = set()
        # Name -> (bytes, time of change) of a file as it was uploaded.
        self._sent: dict[str, tuple[int, int]] = {}
        self._sent_at = -math.inf
        self._ending, self._stopped = threading.Event(), threading.Event()
        # Set where another process has taken the run over.
        self.lost: JslmError | None = None
        self._trouble = ""

    def start(self) -> None:
        """Takes the run over, fetches what is newer at the address, and begins to upload. Raises JslmError."""
        check_apart(self.folder, self._objects.address)
        previous = self._lease.previous()
        writers = self.folder / _WRITERS
        known = writers.read_text("utf-8").split() if writers.is_file() else []
        continues = previous is not None and previous.id in known
        if previous is not None and continues:
            # Before the address has it: a kill between the two must not make a stranger of this folder. Starts that
            # fail come here again and again, and must not push out the one that the address names.
            others = [each for each in known if each != previous.id]
            write_text(writers, "\n".join([*others[-4:], previous.id, self._lease.id]))
        self._lease.take()
        # Fetching may take longer than a writer may be silent.
        threading.Thread(target=self._live, name="jslm lease", daemon=True).start()
        try:
            self._fetch(continues)
            # Of two that began at once the later one has it.
            self._lease.check()
        except BaseException:
            self._stopped.set()
            self._objects.tries = 1
            with contextlib.suppress(JslmError):
                # Whoever comes next need not wait for one that never began, and work that is ahead stays so.
                self._lease.hand_back(previous)
            raise
        write_text(writers, "\n".join([*(known[-5:] if continues else []), self._lease.id]))
        shutil.rmtree(self.folder / _PINNED, ignore_errors=True)
        # From here on this thread waits for nothing, and the others have their own patience.
        self._objects.tries = 1
        threading.Thread(target=self._upload, name="jslm upload", daemon=True).start()

    def check(self) -> None:
        """Raises JslmError where another process has taken the run over."""
        if self.lost is not None:
            raise self.lost

    def close(self) -> None:
        """Uploads what is outstanding, for `seconds` at most, and lets go of the run; a second call does nothing.

        Raises JslmError where something is left behind.
        """
        if self._ending.is_set():
            return
        self._ending.set()
        if self._trouble:
            say(f"{self._objects.address}: not all of the run is there yet; waiting up to {self.seconds:.0f} s for it")
        finished = self._stopped.wait(self.seconds)
        self.check()
        if not finished or self._trouble:
            self._stopped.set()
            self._lease.give_up()
            reason = f": {self._trouble}" if self._trouble else ""
            raise JslmError(
                f"{self._objects.address}: not all of the run could be uploaded in {self.seconds:.0f} s{reason}; it is "
                f"whole in {self.folder}: the same command on this machine uploads it"
            )

    def _fetch(self, continues: bool) -> None:
        """Makes the folder what is at the address, unless it continues that and is ahead of it."""
        run = list_run(self._objects)
        if run.unfinished:
            say(
                f"{self._objects.address}: {len(run.unfinished)} checkpoint(s) whose upload was interrupted "
                f"({', '.join(map(step_folder, sorted(run.unfinished)))}) are not believed, and removed"
            )
            for names in run.unfinished.values():
                self._lease.check()
                self._objects.delete(names)
        here = self._whole_here(run)
        aside = None
        # Without checkpoints on either side, nothing is there but what this start has brought.
        if not continues and (here >= 0 or run.manifests):
            aside = self._clear()
        # Said at once: a kill while fetching must not leave it there without a word.
        is_told = aside is not None and self._told_ahead(here, run, aside)
        try:
            if (here if aside is None else -1) < max(run.manifests, default=-1):
                self._fetch_newest(run)
            for name in run.files:
                # People judge a run from other machines, also one that is whole here.
                if name.startswith(f"{JUDGEMENTS}/"):
                    self._objects.download(name, self.folder / name)
        except BaseException:
            if aside is not None and not is_told:
                say(f"{self.folder}: what was here is kept in {aside}")
            raise
        # What turned out to be damaged there is no longer among them.
        if aside is not None and not is_told and not self._told_ahead(here, run, aside):
            shutil.rmtree(aside)
        for step, data in run.manifests.items():
            self._complete[step] = (data, _loss(data, run.where(step)))

    def _told_ahead(self, here: int, run: FolderAtAddress, aside: Path) -> bool:
        """Whether what was here up to step `here` is ahead of the address, which is said then."""
        is_ahead = here > max(run.manifests, default=-1)
        if is_ahead:
            say(
                f"{self.folder}: what was here is ahead of {run.address}, where another process has written since, or "
                f"nothing is; kept in {aside}, and the run goes on from the address"
            )
        return is_ahead

    def _fetch_newest(self, run: FolderAtAddress) -> None:
        """The run's other files, and then the newest checkpoint that is whole: with it the folder is up to date."""
        for name in run.files:
            if is_wanted(name):
                self._objects.download(name, self.folder / name)
        damaged: dict[int, JslmError] = {}
        for step in sorted(run.manifests, reverse=True):
            try:
                fetch_step(self._objects, run, step, self._store.path(step))
                break
            except StorageError:
                raise
            except JslmError as error:
                damaged[step] = error
        else:
            if damaged:
                raise JslmError(
                    f"{damaged[max(damaged)]}; every checkpoint is damaged: put the objects back from a copy, or "
                    f"delete {run.address} to start again"
                )
        for step, reason in damaged.items():
            _log.warning("%s; not believed, and the one before is used", reason)
            del run.manifests[step]
            # Nobody shall believe it; its objects stay for whoever wants to look.
            self._objects.delete([f"checkpoints/{step_folder(step)}/{MANIFEST}"])
        if run.manifests:
            say(f"{run.address}: fetched {step_folder(max(run.manifests))}")

    def _whole_here(self, run: FolderAtAddress) -> int:
        """The newest checkpoint of the folder that is whole, -1 where there is none; damaged ones are set aside.

        Raises JslmError where none is whole, here and at the address.
        """
        try:
            return max(self._store.whole_steps(), default=-1)
        except JslmError as error:
            if not run.manifests:
                raise
            _log.warning("%s; those at the address are used", str(error).partition("; every")[0])
            for path in map(self._store.path, self._store.steps()):
                aside = path.with_name(f"{path.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                os.replace(path, aside)
            return -1

    def _clear(self) -> Path:
        """Empties the folder, whose work is not that at the address; returns the folder that has it now."""
        aside = self.folder.with_name(f"{self.folder.name}.aside-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}")
        aside.mkdir()
        # Checkpoints last: after a kill in the middle the next start still knows how far they go.
        for entry in sorted(self.folder.iterdir(), key=lambda entry: entry.name == "checkpoints"):
            if entry.name != RUN_LOCK:
                os.replace(entry, aside / entry.name)
        return aside

    def _live(self) -> None:
        """Shows that this process lives, and notices where another has taken over."""
        while not self._stopped.wait(BEAT_SECONDS):
            try:
                self._lease.beat()
            except Taken as error:
                self.lost = error
                self._stopped.set()
            except JslmError:
                # The uploads tell of it.
                pass

    def _upload(self) -> None:
        failures, failed_at = 0, 0.0
        while not self._stopped.is_set():
            ending = self._ending.is_set()
            try:
                self._send(everything=ending)
                if failures:
                    say(
                        f"{self._objects.address}: reached again after {time.monotonic() - failed_at:,.0f} s; caught up"
                    )
                failures, self._trouble = 0, ""
                if ending:
                    self._lease.end()
                    self._stopped.set()
                    return
                self._ending.wait(POLL_SECONDS)
            except _GivenUp:
                return
            except Taken as error:
                self.lost = error
                self._stopped.set()
            except (JslmError, OSError) as error:
                if not failures:
                    failed_at = time.monotonic()
                    say(f"{error}; training goes on, and uploads go on when it can be reached")
                failures, self._trouble = failures + 1, str(error)
                # An end that comes meanwhile is a reason to try again soon.
                wait = min(_LONGEST_WAIT, 2.0 ** min(failures, 10) / 2)
                (self._stopped if ending else self._ending).wait(min(wait, 5.0) if ending else wait)

    def _send(self, *, everything: bool) -> None:
        """Uploads what is new: the run's files, then checkpoints, the newest first."""
        pending = self._pending()
        if pending or everything or time.monotonic() - self._sent_at >= GROWING_SECONDS:
            self._send_files()
        while pending:
            self._send_step(pending[-1])
            if pending := self._pending():
                # One that was saved meanwhile: what was written up to it goes up before it, too.
                self._send_files()
        if self._partial:
            self._drop_old()

    def _go_on(self) -> None:
        """Raises _GivenUp where this process has let go of the run, and Taken where another has taken it over.

        What it sent now might stand among the other's, or in place of it. A machine that slept, or was cut off, comes
        here before its next beat.
        """
        if self._stopped.is_set():
            raise _GivenUp
        self._lease.check()

    def _pending(self) -> list[int]:
        """Steps whose checkpoint here is to be kept, and is not at the address, or is another there; ascending."""
        here = {step: data for step in self._store.steps() if (data := self._manifest(step)) is not None}
        new = {step for step, data in here.items() if step not in self._complete or self._complete[step][0] != data}
        losses = {step: loss for step, (_, loss) in self._complete.items()}
        losses |= {step: _loss(here[step], str(self._store.path(step))) for step in new}
        return sorted(new & self._kept(losses))

    def _kept(self, losses: Mapping[int, float | None]) -> set[int]:
        """What the run's own folder keeps of these steps: the newest and the best."""
        best = best_of(losses)
        return {*sorted(losses)[-self.keep :], *([] if best is None else [best])}

    def _manifest(self, step: int) -> bytes | None:
        try:
            return (self._store.path(step) / MANIFEST).read_bytes()
        except OSError:
            # Dropped in the meantime.
            return None

    def _send_files(self) -> None:
        """What has changed of the files that are no checkpoints."""
        for file in sorted(self.folder.rglob("*")):
            name = file.relative_to(self.folder).as_posix()
            parts = name.split("/")
            # Judgements are not this process's: whoever judges uploads them.
            if parts[0] in ("checkpoints", JUDGEMENTS) or any(part.startswith(".") for part in parts):
                continue
            try:
                status = file.stat()
                mark = (status.st_size, status.st_mtime_ns)
                if not file.is_file() or self._sent.get(name) == mark:
                    continue
                self._go_on()
                if status.st_size > _LARGE_BYTES:
                    self._objects.upload(file, name)
                else:
                    data = file.read_bytes()
                    # A line that is being written is none yet.
                    self._objects.write(name, data[: data.rfind(b"\n") + 1] if name.endswith(".jsonl") else data)
                self._sent[name] = mark
            except FileNotFoundError:
                continue
        self._sent_at = time.monotonic()

    def _send_step(self, step: int) -> None:
        """Uploads a checkpoint, its manifest last, and then drops what is no longer kept."""
        prefix = f"checkpoints/{step_folder(step)}"
        pinned = self.folder / _PINNED / step_folder(step)
        if not _pin(self._store.path(step), pinned):
            return
        data = (pinned / MANIFEST).read_bytes()
        files, about = parse_manifest(data, str(pinned / MANIFEST))
        # Their names and sizes: reading all of it twice would cost more than it tells.
        check_files(pinned, files, lambda name: False)
        if step in self._complete:
            # Another checkpoint of this step: from here on neither counts, until this one is whole.
            self._go_on()
            self._objects.delete([f"{prefix}/{MANIFEST}"])
            del self._complete[step]
        self._partial.add(step)
        for name in sorted(files):
            self._go_on()
            self._objects.upload(pinned / name, f"{prefix}/{name}")
        there = self._objects.names(prefix)
        for name, (size, _) in files.items():
            path = f"{prefix}/{name}"
            if path not in there or there[path].size != size:
                raise StorageError(f"{self._objects.address}/{path}: was uploaded, and is not there as it was")
        self._go_on()
        self._objects.write(f"{prefix}/{MANIFEST}", data)
        self._complete[step] = (data, about.get("val_loss"))
        self._partial.discard(step)
        shutil.rmtree(pinned, ignore_errors=True)
        self._drop_old()

    def _drop_old(self) -> None:
        """Removes what is no longer kept, and what was begun and will not be finished."""
        kept = self._kept({step: loss for step, (_, loss) in self._complete.items()})
        for step in sorted(self._complete.keys() - kept):
            # First what makes it count.
            self._go_on()
            self._objects.delete([f"checkpoints/{step_folder(step)}/{MANIFEST}"])
            del self._complete[step]
            self._partial.add(step)
        for step in sorted(self._partial.difference(self._pending())):
            self._go_on()
            self._objects.delete(self._objects.names(f"checkpoints/{step_folder(step)}"))
            self._partial.discard(step)


def _loss(manifest: bytes, where: str) -> float | None:
    """The validation loss that a checkpoint's manifest tells. Raises JslmError where that is damaged."""
    return parse_manifest(manifest, where)[1].get("val_loss")


def _pin(source: Path, target: Path) -> bool:
    """Links the files of a checkpoint elsewhere, so that they stay while they are uploaded; False where it is gone."""
    shutil.rmtree(target, ignore_errors=True)
    try:
        shutil.copytree(source, target, copy_function=_link)
    except (OSError, shutil.Error):
        shutil.rmtree(target, ignore_errors=True)
        if source.is_dir():
            raise
        return False
    return True


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        # A file system without links.
        shutil.copy2(source, target)
