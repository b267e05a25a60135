"""Tasks on the workers of a Dask scheduler."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jslm
from jslm.errors import JslmError
from jslm.extras import load_extra

CONNECT_SECONDS = 20


@contextmanager
def open_cluster(
    address: str, function: Callable[[Any, Any], Any], shared: Any
) -> Iterator[tuple[Callable[[Any], Any], int]]:
    """How to submit the work of a task, and on how many threads they are done.

    `shared` is sent to each worker once. Tasks of a worker that is lost are done again by another. Raises JslmError:
    Dask is not installed, nobody answers, no workers, workers with another version of jslm, a cluster that is lost.
    """
    distributed = load_extra("distributed", "dask", f"prepare.executor = {address!r}")
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise JslmError(
            f"prepare.executor = {address!r}: no Dask scheduler answers there "
            f"({type(error).__name__}: {' '.join(str(error).split())[:150]}); start one with `dask scheduler`"
        ) from None
    with client:
        threads = sum(client.nthreads().values())
        if not threads:
            raise JslmError(f"prepare.executor = {address!r}: the scheduler has no workers; start some: dask worker")
        _check_versions(client, address)
        # Broadcast, since every worker needs it.
        handle = client.scatter(shared, broadcast=True, hash=False)

        def submit(work: Any) -> Any:
            # pure: the key would be a hash of all the text.
            return client.submit(_call, function, handle, work, pure=False)

        try:
            yield submit, threads
        except (distributed.KilledWorker, distributed.client.FutureCancelledError, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                # A disk of this machine, say.
                raise
            raise JslmError(
                f"prepare.executor = {address!r}: the cluster was lost ({type(error).__name__}: "
                f"{' '.join(str(error).split())[:150]}); run the same command again to go on"
            ) from None


def _check_versions(client: Any, address: str) -> None:
    try:
        versions = client.run(_version)
    except Exception as error:
        raise JslmError(
            f"prepare.executor = {address!r}: a worker can't run jslm ({type(error).__name__}: {error}); "
            "install it there, in the same version"
        ) from None
    for worker, version in versions.items():
        if version != jslm.__version__:
            raise JslmError(
                f"prepare.executor = {address!r}: worker {worker} has jslm {version}, this process {jslm.__version__}; "
                "install the same version"
            )


def _version() -> str:
    return jslm.__version__


def _call(function: Callable[[Any, Any], Any], shared: Any, work: Any) -> Any:
    # Each thread of a worker is a task already.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    return function(shared, work)
