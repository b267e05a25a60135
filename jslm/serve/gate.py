"""What every request passes: the host it asks for, its key and what that may use, its line in the log."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jslm.serve.call import Call
from jslm.serve.errors import ApiError
from jslm.serve.http import IGNORED, IGNORED_HEADER, ClientGone
from jslm.serve.keyring import Keyring
from jslm.serve.quota import Account
from jslm.serve.service import Service

REQUEST_ID_HEADER = "X-Request-ID"
# What nginx logs where the client has left before the answer.
_CLIENT_GONE = 499
_HOST = re.compile(r"(\[(?P<address>[^\]]*)\]|(?P<name>[^:\[\]]*))(:[0-9]*)?")


class Gate:
    """ASGI middleware: asks for a known host, and for a key under the protected paths, turns errors into responses,
    counts and logs.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        service: Service,
        hosts: Collection[str],
        protected: Sequence[str],
        paths: Collection[str],
    ) -> None:
        """`hosts` as for `check_host`; empty: any. `protected`: how paths begin that want a key. `paths`: those of
        routes, by which a request is counted that no route has seen; all others are "other"."""
        self._app = app
        self._service = service
        self._hosts = hosts
        self._protected = tuple(protected)
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service = self._service
        call = Call(keeps_texts=service.log is not None and service.log.texts)
        call.begins(scope)
        status = _CLIENT_GONE
        entered: Account | None = None

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_headers(call, scope, closes=service.engine.draining)]
            await send(message)

        service.open_requests += 1
        try:
            if self._hosts:
                check_host(scope, self._hosts)
            # A browser's preflight carries no key.
            if service.keys and scope["path"].startswith(self._protected) and scope["method"] != "OPTIONS":
                call.account = check_key(scope, service.keys)
                if scope["method"] == "POST":
                    call.account.enter()
                    entered = call.account
            await self._app(scope, receive, noted)
        except ApiError as error:
            call.error = error.code or error.kind
            await error.response()(scope, receive, noted)
        except ClientGone:
            call.error = "client_gone"
        except Exception:
            # Starlette answers, outside of this.
            status, call.error = 500 if status == _CLIENT_GONE else status, "crash"
            raise
        finally:
            service.open_requests -= 1
            if entered is not None:
                entered.leave()
            unseen = scope["path"] if scope["path"] in self._paths else "other"
            route = str(getattr(scope.get("route"), "path", unseen))
            service.metrics.responded(scope["method"], route, status)
            if service.log is not None:
                service.log.write(call, scope["method"], route, status)


def check_key(scope: Scope, keys: Keyring) -> Account:
    """The account of `Authorization: Bearer KEY`. Raises ApiError where there is none, and where the key is not for
    /metrics that are asked for."""
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    given = next((value for name, value in headers if name == b"authorization"), b"")
    kind, _, found = given.partition(b" ")
    account = keys.find(found.strip()) if kind.lower() == b"bearer" else None
    if account is None:
        raise ApiError(
            401,
            "wrong or missing API key; send it as Authorization: Bearer KEY",
            code="invalid_api_key",
            headers={"WWW-Authenticate": "Bearer"},
        )
    if scope["path"].startswith("/metrics") and not account.key.metrics:
        raise ApiError(403, f"key {account.key.name} may not read /metrics", code="no_metrics")
    return account


def check_host(scope: Scope, hosts: Collection[str]) -> None:
    """Raises ApiError where the request's Host header does not name one of `hosts`, with or without a port.

    A web page from elsewhere that makes its own name lead to this machine (DNS rebinding) is to the browser of the same
    origin as this server; the name stands in the header.
    """
    given = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
    parts = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    if parts is None or (parts["address"] or parts["name"]).lower() not in hosts:
        shown = ", ".join(map(repr, given)) or "none"
        raise ApiError(
            421,
            f"Host {shown:.100}: this server listens on this machine alone, as {', '.join(sorted(hosts))}; "
            "a proxy before it has to send one of these",
            code="wrong_host",
        )


def _headers(call: Call, scope: Scope, *, closes: bool) -> list[tuple[bytes, bytes]]:
    """What an answer's headers have beside the endpoint's own."""
    found = {REQUEST_ID_HEADER: call.id}
    if call.account is not None and scope["method"] == "POST":
        found |= call.account.headers()
    if ignored := scope.get(IGNORED):
        found[IGNORED_HEADER] = ignored
    if closes:
        # The next request of this client is for another server.
        found["Connection"] = "close"
    return [(name.lower().encode(), value.encode()) for name, value in found.items()]
