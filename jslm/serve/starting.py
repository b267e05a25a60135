"""The application from the first moment on: answers probes while models are read, and hands on to them then."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from jslm.serve.errors import overloaded

REASON = "models are being read"


class Starting:
    """ASGI application around one that takes long to make; it is made in a thread of its own."""

    def __init__(self, make: Callable[[], Starlette]) -> None:
        """`make` reads the models."""
        self.app: Starlette | None = None
        # What `make` has raised.
        self.failure: BaseException | None = None
        self.on_ready: Callable[[], None] = lambda: None
        self.on_failure: Callable[[], None] = lambda: None
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request, or the life of the server."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        inner: ASGIApp = self.app if self.app is not None else _early(scope)
        await inner(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        loop = asyncio.get_running_loop()
        made: asyncio.Future[Starlette] = loop.create_future()

        def work() -> None:
            try:
                app = self._make()
            except BaseException as error:
                # `except` unbinds the name before the loop gets to it.
                failure = error
                _tell(loop, made, lambda: made.set_exception(failure))
            else:
                _tell(loop, made, lambda: made.set_result(app))

        # A daemon: a signal while models are read does not wait for them.
        threading.Thread(target=work, name="jslm-models", daemon=True).start()
        await send({"type": "lifespan.startup.complete"})
        end = asyncio.ensure_future(receive())
        either: set[asyncio.Future[Any]] = {made, end}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not made.done():
            made.cancel()
        elif (failure := made.exception()) is not None:
            self.failure = failure
            self.on_failure()
        else:
            app = made.result()
            async with app.router.lifespan_context(app):
                self.app = app
                self.on_ready()
                await end
        await end
        await send({"type": "lifespan.shutdown.complete"})


def _early(scope: Scope) -> Response:
    """The answer while there is no model."""
    if scope["path"] in ("/health", "/healthz"):
        return JSONResponse({"status": "ok"})
    if scope["path"] in ("/ready", "/readyz"):
        return JSONResponse({"status": "starting", "reason": REASON}, 503, {"Retry-After": "1"})
    return overloaded(f"the server is starting: {REASON}", "starting").response()


def _tell(loop: asyncio.AbstractEventLoop, made: asyncio.Future[Starlette], settle: Callable[[], None]) -> None:
    """Settles it in its own thread, unless nobody waits any more."""

    def once() -> None:
        if not made.done():
            settle()

    try:
        loop.call_soon_threadsafe(once)
    except RuntimeError:
        # The server has ended meanwhile.
        return
