"""What `jslm serve` does once its arguments are known to be good."""

from __future__ import annotations

import argparse
import contextlib
import logging
import ssl

from starlette.applications import Starlette

from jslm.errors import JslmError
from jslm.parallel import start_jax
from jslm.serve.app import create_app
from jslm.serve.keyring import Keyring, open_keyring
from jslm.serve.limits import KEY_VARIABLE, Limits
from jslm.serve.models import model_name, open_models
from jslm.serve.request_log import RequestLog
from jslm.serve.server import local_names, open_socket, serve
from jslm.serve.starting import Starting
from jslm.serve.tls import load_pair, open_tls

_log = logging.getLogger("jslm")


def run(args: argparse.Namespace, limits: Limits, token: str | None) -> int:
    """Serves until it is told to stop; returns the exit status."""
    # All that is quickly seen comes before the models are read, which takes longer.
    keys = open_keyring(args.keys, token, [model_name(path) for path in args.run])
    tls = open_tls(args.tls_cert, args.tls_key)
    log = RequestLog(args.request_log, texts=args.log_texts)
    with contextlib.closing(log), open_socket(args.host, args.port) as listener:
        hosts = local_names(listener, args.host)
        if not hosts and keys is None:
            _log.warning(
                "--host %s without an API key: whoever reaches this machine may use the server; give --keys FILE or "
                "--api-key-file FILE or set $%s, or leave --host out",
                args.host,
                KEY_VARIABLE,
            )
        if args.log_texts:
            _log.warning("--log-texts: prompts and answers are written to %s", args.request_log or "stderr")
        start_jax()

        def make() -> Starlette:
            models = open_models(args.run, limits, checkpoint=args.checkpoint, overrides=args.overrides)
            return create_app(models, limits, keys=keys, log=log, cors_origins=args.cors_origin, hosts=hosts)

        hangup = _Hangup(args, keys, tls, log)
        return serve(
            Starting(make),
            listener,
            drain_seconds=args.drain_seconds,
            tls=tls,
            on_hangup=hangup if hangup.has_work else None,
        )


class _Hangup:
    """SIGHUP: keys, certificate and log file again, as they are on the disk now."""

    def __init__(
        self, args: argparse.Namespace, keys: Keyring | None, tls: ssl.SSLContext | None, log: RequestLog
    ) -> None:
        self._args, self._keys, self._tls, self._log = args, keys, tls, log
        self.has_work = any((args.keys, args.tls_cert, args.request_log))

    def __call__(self) -> None:
        if self._keys is not None:
            self._keys.refresh()
        if self._tls is not None:
            try:
                load_pair(self._tls, self._args.tls_cert, self._args.tls_key)
            except JslmError as error:
                _log.error("%s; the certificate of before stays in use", error)
            else:
                _log.info("certificate read again: %s", self._args.tls_cert)
        self._log.reopen()
