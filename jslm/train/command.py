"""What `jslm train` does once its arguments are known to be good."""

from __future__ import annotations

import time

from jslm.cli import describe_error
from jslm.config import Config
from jslm.parallel import leave_at_exit
from jslm.train.budget import process_seconds
from jslm.train.loop import train


def run(config: Config) -> int:
    """Trains; returns the exit status. `train.minutes` began with the process."""
    try:
        return train(config, started=time.monotonic() - process_seconds()).exit_status
    except Exception as error:
        leave_at_exit(describe_error(error)[0])
        raise
