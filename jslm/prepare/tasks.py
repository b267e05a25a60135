"""One function over many tasks, the results in their order: here, in processes of this machine, or on a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any, Generic, Protocol, TypeVar

from jslm.errors import JslmError
from jslm.prepare.cluster import open_cluster

# Text under way: tasks of whole books would fill the memory long before there are two of them a process.
MAX_CHARACTERS_UNDER_WAY = 32 << 20
Kept = TypeVar("Kept")
Work = TypeVar("Work")
Shared = TypeVar("Shared")
Result = TypeVar("Result")
ResultOut = TypeVar("ResultOut", covariant=True)


@dataclass(frozen=True, slots=True)
class Task(Generic[Kept, Work]):
    """`work` is sent to where the task is done; `kept` waits here for its result. `characters` of text are in it."""

    kept: Kept
    work: Work
    characters: int


@dataclass(frozen=True, slots=True)
class Workers:
    """Where tasks are done: `count` processes (1: this one), or the cluster at `address`."""

    count: int = 1
    address: str = ""


def run_tasks(
    function: Callable[[Shared, Work], Result], shared: Shared, tasks: Iterable[Task[Kept, Work]], workers: Workers
) -> Iterator[tuple[Kept, Result]]:
    """What `function(shared, task.work)` gives for each task, beside `task.kept`, in the order of the tasks.

    `function` is one of a module. A few tasks a worker are under way at a time. Raises what `function` and `tasks`
    raise, and JslmError where a process dies or the cluster is lost.
    """
    if workers.address:
        with open_cluster(workers.address, function, shared) as (submit, threads):
            yield from _in_order(tasks, submit, 2 * threads)
    elif workers.count > 1:
        yield from _in_processes(function, shared, tasks, workers.count)
    else:
        for task in tasks:
            yield task.kept, function(shared, task.work)


def _in_processes(
    function: Callable[[Shared, Work], Result], shared: Shared, tasks: Iterable[Task[Kept, Work]], count: int
) -> Iterator[tuple[Kept, Result]]:
    # Not fork: JAX's threads may hold locks at this moment. Windows and macOS have spawn alone.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(count, context, _start_worker, (function, shared))
    try:
        yield from _in_order(tasks, lambda work: pool.submit(_call, work), 2 * count)
    except BrokenProcessPool:
        raise JslmError(
            "a worker process died (out of memory, or prepare was called from a script without "
            "if __name__ == '__main__'); try prepare.workers=1"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


class Pending(Protocol[ResultOut]):
    """A result to come."""

    def result(self) -> ResultOut:
        """Waits for it."""


def _in_order(
    tasks: Iterable[Task[Kept, Work]], submit: Callable[[Work], Pending[Result]], ahead: int
) -> Iterator[tuple[Kept, Result]]:
    waiting: deque[tuple[Kept, Pending[Result], int]] = deque()
    characters = 0
    for task in tasks:
        waiting.append((task.kept, submit(task.work), task.characters))
        characters += task.characters
        while len(waiting) > ahead or (characters > MAX_CHARACTERS_UNDER_WAY and len(waiting) > 1):
            kept, pending, size = waiting.popleft()
            characters -= size
            yield kept, pending.result()
    while waiting:
        kept, pending, _ = waiting.popleft()
        yield kept, pending.result()


_bound: Callable[[Any], Any]


def _start_worker(function: Callable[[Any, Any], Any], shared: Any) -> None:
    global _bound
    # Ctrl-C reaches the whole process group: only the parent answers it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One process a core already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # A parent that is killed closes no pipe that its workers don't hold open themselves.
    threading.Thread(target=_die_with_parent, daemon=True).start()

    def bound(work: Any) -> Any:
        return function(shared, work)

    _bound = bound


def _call(work: Any) -> Any:
    return _bound(work)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
