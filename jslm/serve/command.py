"""What `jslm serve` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
import logging

from jslm.parallel import start_jax
from jslm.serve.app import create_app
from jslm.serve.limits import KEY_VARIABLE, Limits
from jslm.serve.models import open_models
from jslm.serve.server import local_names, open_socket, serve

_log = logging.getLogger("jslm")


def run(args: argparse.Namespace, limits: Limits, token: str | None) -> int:
    """Serves until it is told to stop; returns the exit status."""
    # Before the models are read, which takes longer.
    with open_socket(args.host, args.port) as listener:
        start_jax()
        models = open_models(args.run, limits, checkpoint=args.checkpoint, overrides=args.overrides)
        hosts = local_names(listener, args.host)
        if not hosts and token is None:
            _log.warning(
                "--host %s without an API key: whoever reaches this machine may use the server; give --api-key-file "
                "FILE or set $%s, or leave --host out",
                args.host,
                KEY_VARIABLE,
            )
        app = create_app(models, limits, token=token, cors_origins=args.cors_origin, hosts=hosts)
        return serve(app, listener, drain_seconds=args.drain_seconds)
