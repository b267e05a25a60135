"""uvicorn around the application: the socket, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from jslm.errors import JslmError

_BACKLOG = 1024
_UNREAD_MILLISECONDS = 60_000
# After the engine was told to stop, for its last words to reach the clients.
_LAST_WORDS_SECONDS = 10


class Server(uvicorn.Server):
    """uvicorn's server; the first SIGTERM or SIGINT drains the engine, and after `drain_seconds` stops it."""

    def __init__(self, app: Starlette, drain_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=int(drain_seconds) + _LAST_WORDS_SECONDS,
                backlog=_BACKLOG,
            )
        )
        self._engine = app.state.service.engine
        self._drain_seconds = drain_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the end."""
        if not self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._drain)
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        self._engine.drain()
        loop = asyncio.get_running_loop()
        loop.call_later(self._drain_seconds, lambda: loop.run_in_executor(None, self._engine.stop))


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket. Raises JslmError where the address is not this machine's, or is in use."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                # Also ends connections whose client has stopped reading; accepted ones inherit it.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MILLISECONDS)
            listener.bind(address)
            listener.listen(_BACKLOG)
            stack.pop_all()
    except OSError as error:
        reason = error.strerror or str(error)
        raise JslmError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from None
    return listener


def local_names(listener: socket.socket, host: str) -> frozenset[str]:
    """What requests may call a server by that listens on this machine alone; empty where it listens to others too.

    `host`: what the caller asked for, which may be a name.
    """
    address = ipaddress.ip_address(listener.getsockname()[0])
    return frozenset({"localhost", "127.0.0.1", "::1", host.lower()}) if address.is_loopback else frozenset()


def serve(app: Starlette, listener: socket.socket, *, drain_seconds: float) -> int:
    """Serves until a signal, then drains; returns the exit status. Prints the address on stderr."""
    server = Server(app, drain_seconds)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"jslm serve: http://{shown}:{port} (ready when /ready says so)", file=sys.stderr, flush=True)
    # uvicorn raises the signal again once all is done; here an orderly end is a success.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    server.run(sockets=[listener])
    return 0 if server.started else os.EX_SOFTWARE
