"""What one process does for all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jslm.errors import JslmError

T = TypeVar("T")


def by_first(action: Callable[[], T], what: str) -> T | None:
    """What `action` returns, in the first process; the others wait until it is done, and get None.

    What it raises there is raised there, and a JslmError that `what` begins in the others: they would wait for a process
    that has ended.
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
