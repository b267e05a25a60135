"""A server for tests, whose clients may leave while they are answered."""

from __future__ import annotations

import http.server
import sys
from typing import Any


class QuietServer(http.server.ThreadingHTTPServer):
    """A client that leaves in the middle (its library's right) is no news; what else goes wrong fails the test."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)
