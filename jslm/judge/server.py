"""The page and its four requests, by the standard library's HTTP server."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Collection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from jslm.errors import JslmError
from jslm.judge.desk import Desk, Refused

_STATIC = Path(__file__).parent / "static"
_PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/judge.css": ("judge.css", "text/css; charset=utf-8"),
    "/judge.js": ("judge.js", "text/javascript; charset=utf-8"),
}
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'"
)
_LONGEST_BODY = 10_000
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "[::1]"})


class JudgeServer(ThreadingHTTPServer):
    """Listens from the start; `serve_forever` answers."""

    daemon_threads = True

    def __init__(self, desk: Desk, host: str, port: int) -> None:
        """Raises JslmError where the address is not this machine's, or is in use."""
        self.desk = desk
        try:
            self.address_family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            super().__init__((str(address[0]), int(address[1])), _Handler)
        except OSError as error:
            reason = error.strerror or str(error)
            raise JslmError(f"--host {host} --port {port}: cannot listen there ({reason}); choose another") from None
        local = str(self.server_address[0]).startswith("127.") or self.server_address[0] == "::1"
        # A page from elsewhere whose name leads to this machine (DNS rebinding) says so in its Host header.
        self.hosts: Collection[str] = {*_LOOPBACK, host.lower()} if local else ()
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that leaves in the middle is no news; all else is told in a line."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"jslm judge: {type(error).__name__}: {error}", file=sys.stderr)


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "jslm", ""
    # Seconds that a client may keep a connection without a word.
    timeout = 60

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path in _PAGES:
            file, kind = _PAGES[url.path]
            self._send(200, (_STATIC / file).read_bytes(), kind)
        else:
            self._answer(lambda: self._read(url.path, {key: each[-1] for key, each in parse_qs(url.query).items()}))

    def do_POST(self) -> None:
        self._answer(self._take)

    def _read(self, path: str, query: dict[str, str]) -> dict[str, Any]:
        if path != "/api/item":
            raise Refused(404, f"{path}: there is no such page")
        place = query.get("place")
        if place is not None and not (place.isascii() and place.isdigit() and len(place) < 9):
            raise Refused(400, f"place {place}: expected a number")
        return self.server.desk.item(query.get("person", ""), None if place is None else int(place))

    def _take(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and int(length) <= _LONGEST_BODY):
            self.close_connection = True
            raise Refused(413, "expected an answer, found a longer body or one of unknown length")
        body = self.rfile.read(int(length))
        if self.path != "/api/answer":
            raise Refused(404, f"{self.path}: there is no such page")
        # A form on a page from elsewhere cannot send this type without asking first.
        if self.headers.get("Content-Type", "").split(";")[0].strip() != "application/json":
            raise Refused(415, "expected Content-Type: application/json")
        try:
            found = json.loads(body)
            person, place, values = found["person"], found["place"], found["answers"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(400, "expected a JSON object of person, place and answers") from None
        if not isinstance(person, str) or type(place) is not int:
            raise Refused(400, "expected a JSON object of person, place and answers")
        return self.server.desk.answer(person, place, values)

    def _answer(self, work: Any) -> None:
        status, found = 200, {}
        try:
            self._check_host()
            found = work()
        except Refused as refused:
            status, found = refused.status, {"error": str(refused)}
        self._send(status, json.dumps(found).encode(), "application/json")

    def _check_host(self) -> None:
        given = self.headers.get("Host", "").lower()
        if self.server.hosts and given.rsplit(":", 1)[0] not in self.server.hosts and given not in self.server.hosts:
            raise Refused(421, f"Host {given[:100]!r}: this server listens on this machine alone")

    def _send(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: what people answer is nobody's log."""
