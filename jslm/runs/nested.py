"""Runs at addresses that lie inside one another: their folders on this machine would be parts of one another, too.

The mirror of the outer one would upload the inner one's files, behind the back of its writer, and put them aside with
its own.
"""

from __future__ import annotations

from pathlib import Path

from jslm.errors import JslmError
from jslm.runs.folder import RUN_LOCK
from jslm.storage import local_copy


def check_apart(folder: Path, address: str) -> None:
    """Raises JslmError where a run at another address has been trained around or inside `folder`, that of `address`."""
    outer = address
    for _ in range(address.partition("://")[2].count("/")):
        outer = outer.rpartition("/")[0]
        around = local_copy(outer, "runs")
        if (around / RUN_LOCK).exists():
            raise _inside(address, outer, address, around)
    for lock in sorted(folder.rglob(RUN_LOCK)):
        if lock.parent != folder:
            inner = f"{address}/{lock.parent.relative_to(folder).as_posix()}"
            raise _inside(inner, address, address, lock.parent)


def _inside(inner: str, outer: str, asked: str, other: Path) -> JslmError:
    return JslmError(
        f"run_dir = {asked}: the run {inner} would lie inside the run {outer}, whose folder is mirrored whole; choose "
        f"another run_dir, or delete {other} if the run there is not wanted on this machine any more"
    )
