"""What `jslm prepare` does once its arguments are known to be good."""

from __future__ import annotations

import argparse

from jslm.config import Config
from jslm.prepare.pipeline import check_prepared, prepare
from jslm.prepare.preview import preview
from jslm.prepare.summary import summary


def run(args: argparse.Namespace, config: Config) -> int:
    """Prepares, checks or previews; returns the exit status."""
    if args.preview is not None:
        for line in preview(config.data, args.preview):
            print(line)
    elif args.check:
        print(f"{check_prepared(config).dir}: the files and their sources are as they were when they were prepared")
    else:
        print(summary(prepare(config, force=args.force)))
    return 0
