"""Between Starlette and the endpoints: bodies within limits, what is ignored of them, clients that leave, server-sent
events."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from jslm.serve.call import Call, call_of
from jslm.serve.errors import ApiError
from jslm.serve.schemas import ignored_fields

IGNORED_HEADER = "X-Ignored-Fields"
# Where it waits in the scope.
IGNORED = "jslm.ignored"
# A client that sends its body slower than this holds a connection for nothing.
_BODY_SECONDS = 30.0
# What a stream has after its request's time is over: for the event that says so, and for readers that lag behind.
_GRACE_SECONDS = 2.0
_UNPRINTABLE = re.compile(r"[^A-Za-z0-9_.-]")
# A header has little room, and a log should not grow with what strangers think of.
_MOST_NAMES, _LONGEST_NAME = 20, 60
_MOST_LOGGED = 200
_log = logging.getLogger("jslm")
Body = TypeVar("Body", bound=BaseModel)
Result = TypeVar("Result")


class ClientGone(Exception):
    """The client has closed the connection: there is nobody to answer."""


async def read_body(request: Request, kind: type[Body], most: int) -> Body:
    """The request's JSON as `kind`. Raises ApiError for anything else, and ClientGone.

    Fields that `kind` does not have are named in the answer's header X-Ignored-Fields, which `Gate` writes, and the
    first time that one comes in the log.
    """
    content_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    # Also keeps web pages of other origins out: a browser asks first before it sends this type.
    if content_type != "application/json":
        raise ApiError(415, f"Content-Type {content_type!r}: expected application/json")
    try:
        raw = await asyncio.wait_for(_read_bytes(request, most), _BODY_SECONDS)
    except TimeoutError:
        raise ApiError(408, f"the body did not arrive within {_BODY_SECONDS:g} s") from None
    except ClientDisconnect:
        raise ClientGone from None
    try:
        body = kind.model_validate_json(raw)
    except ValidationError as error:
        raise _readable(error, raw) from None
    _note_ignored(request, ignored_fields(body))
    return body


async def while_connected(receive: Receive, work: Awaitable[Result]) -> Result:
    """The result of `work`; where the client leaves first, `work` is cancelled and ClientGone raised."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


class EventStream(Response):
    """Server-sent events: one `data:` line a JSON object, then `[DONE]`. An error after the start is an event too.

    Some time after `deadline` (of `loop.time()`) the connection of a client that reads too slowly is closed.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncIterator[dict[str, Any]], *, deadline: float, close: Callable[[], None]) -> None:
        """`close` is called in the end, however it comes: also where the client had left before the first event."""
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._deadline = deadline
        self._close = close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events; returns early where the client leaves."""
        call = call_of(scope)
        try:
            async with asyncio.timeout_at(self._deadline + _GRACE_SECONDS):
                await while_connected(receive, self._send(send, call))
        except (ClientGone, TimeoutError, OSError) as error:
            # The connection is of no further use; uvicorn closes it since the response is not complete.
            call.error = "slow_reader" if isinstance(error, TimeoutError) else "client_gone"
        finally:
            self._close()

    async def _send(self, send: Send, call: Call) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for event in self._events:
                await send(_chunk(json.dumps(event, ensure_ascii=False, separators=(",", ":"))))
            await send(_chunk("[DONE]"))
        except ApiError as error:
            call.error = error.code or error.kind
            await send(_chunk(json.dumps(error.body())))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _chunk(data: str) -> Message:
    return {"type": "http.response.body", "body": f"data: {data}\n\n".encode("utf-8", "replace"), "more_body": True}


async def _read_bytes(request: Request, most: int) -> bytes:
    declared = request.headers.get("content-length", "")
    too_large = ApiError(413, f"the body is larger than {most:,} bytes; send less at a time")
    if declared.isdigit() and int(declared[:20]) > most:
        raise too_large
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most:
            raise too_large
    return bytes(raw)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _note_ignored(request: Request, names: Sequence[str]) -> None:
    shown = [_UNPRINTABLE.sub("?", name)[:_LONGEST_NAME] for name in names[:_MOST_NAMES]]
    if not shown:
        return
    more = f", and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    request.scope[IGNORED] = ", ".join(shown) + more
    logged: set[str] = request.app.state.ignored_fields
    new = [name for name in shown if name not in logged][: _MOST_LOGGED - len(logged)]
    if new:
        logged.update(new)
        _log.warning(
            "%s: a request has fields that this server ignores: %s (said once; each answer's header %s has them)",
            request.url.path,
            ", ".join(new),
            IGNORED_HEADER,
        )


def _readable(error: ValidationError, raw: bytes) -> ApiError:
    """The first thing that is wrong, by its name in the body `raw`."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}")
    where, value = "", json.loads(raw)
    for part in first["loc"]:
        if isinstance(part, int):
            where += f"[{part}]"
            value = value[part] if isinstance(value, list) and part < len(value) else None
        # Where the value is no object, this is no field, but which alternative of a union was tried.
        elif isinstance(value, dict):
            where += f".{part}" if where else part
            value = value.get(part)
    return ApiError(400, f"{where or 'body'}: {first['msg']}", param=str((*first["loc"], "body")[0]))
