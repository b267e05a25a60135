"""What one process does for all of them."""

from __future__ import annotations

import atexit
import os
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jslm.errors import JslmError

T = TypeVar("T")
_LAST_SECONDS = 2.0


def by_first(action: Callable[[], T], what: str) -> T | None:
    """What `action` returns, in the first process; the others wait until it is done, and get None.

    What it raises there is raised there, and a JslmError that `what` begins in the others, which would wait for a
    process that has ended.
    """
    if jax.process_count() == 1:
        return action()
    result, failure = None, None
    if jax.process_index() == 0:
        try:
            result = action()
        except BaseException as error:  # told to the others before it goes on its way
            failure = error
    failed = multihost_utils.broadcast_one_to_all(np.int32(failure is not None))
    if failure is not None:
        raise failure
    if failed:
        raise JslmError(f"{what}: the first process ended, and says why")
    return result


def leave_at_exit(status: int) -> None:
    """Has this process, which failed, end with `status` without a word to the others; nothing where it is alone.

    JAX waits for all of them, for minutes, and then aborts; of those that are still there each fails by itself when it
    misses this one. A launcher that ends all when one fails is told at once.
    """
    if jax.process_count() == 1:
        return

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if jax.process_index() == 0:
            # The others are aborted when the first one goes, and may have something to say.
            time.sleep(_LAST_SECONDS)
        os._exit(status)

    atexit.register(leave)
