"""uvicorn around the application: the socket, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from jslm.errors import JslmError
from jslm.serve.service import Service
from jslm.serve.starting import Starting

_BACKLOG = 1024
_UNREAD_MILLISECONDS = 60_000
# After the engine was told to stop, for its last words to reach the clients.
_LAST_WORDS_SECONDS = 10
_LOOK_SECONDS = 0.05
_log = logging.getLogger("jslm")


class Server(uvicorn.Server):
    """uvicorn's server. The first SIGTERM or SIGINT drains: new work is refused with 503, and what runs has
    `drain_seconds` to end. The second ends the process at once. SIGHUP calls `on_hangup`.
    """

    def __init__(
        self,
        app: Starlette | Starting,
        drain_seconds: float,
        *,
        tls: ssl.SSLContext | None = None,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                # Its lines go where all others go. Its own configuration closes absl's handler, stream and all.
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
                backlog=_BACKLOG,
                ssl_context_factory=None if tls is None else lambda config, default: tls,
            )
        )
        self._app = app
        self._drain_seconds = drain_seconds
        self._on_hangup = on_hangup
        self._signalled = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task[None] | None = None

    @property
    def service(self) -> Service | None:
        """None while models are being read."""
        app = self._app.app if isinstance(self._app, Starting) else self._app
        return None if app is None else app.state.service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's."""
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins the end, or makes it."""
        if self._signalled or self._loop is None:
            # As if nobody had caught it, which is what the status says too.
            signal.signal(sig, signal.SIG_DFL)
            os.kill(os.getpid(), sig)
            return
        self._signalled = True
        self._loop.call_soon_threadsafe(self._begin_drain)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """Lets `on_hangup` run in the loop."""
        if self._loop is not None and self._on_hangup is not None:
            self._loop.call_soon_threadsafe(self._on_hangup)

    def _begin_drain(self) -> None:
        self._draining = asyncio.get_running_loop().create_task(self._drain())

    async def _drain(self) -> None:
        """Until all answers are sent or the time is up; then uvicorn closes what is left."""
        service = self.service
        if service is not None:
            service.engine.drain()
            deadline = asyncio.get_running_loop().time() + self._drain_seconds
            while service.open_requests and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(_LOOK_SECONDS)
            if service.open_requests:
                _log.warning("%d requests were not done in %g s and are ended", service.open_requests,
                             self._drain_seconds)  # fmt: skip
            await asyncio.to_thread(service.engine.stop)
        self.should_exit = True


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


def serve(
    app: Starting,
    listener: socket.socket,
    *,
    drain_seconds: float,
    tls: ssl.SSLContext | None = None,
    on_hangup: Callable[[], None] | None = None,
) -> int:
    """Serves until a signal, then drains; returns the exit status. Prints the address on stderr once models are read;
    what reading them raises is raised here."""
    server = Server(app, drain_seconds, tls=tls, on_hangup=on_hangup)
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    address = f"{'http' if tls is None else 'https'}://{shown}:{port}"

    def ready() -> None:
        print(f"jslm serve: {address} (ready when /readyz says so)", file=sys.stderr, flush=True)

    def failed() -> None:
        server.should_exit = True

    app.on_ready, app.on_failure = ready, failed
    before = signal.getsignal(signal.SIGHUP)
    if on_hangup is not None:
        signal.signal(signal.SIGHUP, server.handle_hangup)
    try:
        server.run(sockets=[listener])
    finally:
        signal.signal(signal.SIGHUP, before)
    if app.failure is not None:
        raise app.failure
    return 0 if server.started else os.EX_SOFTWARE
