"""A line of JSON for each request: who, what, how long, how it ended. Texts only where asked for; never a key."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from datetime import UTC, datetime
from typing import Any

from jslm.serve.call import Call

# Asked for every few seconds by whatever watches the server.
QUIET = frozenset({"/health", "/healthz", "/ready", "/readyz", "/metrics", "/static"})
_MODE = 0o600
_log = logging.getLogger("jslm")


class RequestLog:
    """Writes to a file or, without one, to stderr."""

    def __init__(self, file: str | None = None, *, texts: bool = False) -> None:
        """`file` is appended to, and made for its owner alone. `texts`: prompts and answers too. Raises OSError."""
        self.texts = texts
        self._file = file
        self._descriptor = None if file is None else _open(file)
        self._lost = 0

    def write(self, call: Call, method: str, route: str, status: int) -> None:
        """The line of a request that is over. A disk that is full stops no request: the log says what was lost."""
        if route in QUIET and status not in (401, 403):
            return
        raw = (json.dumps(self._line(call, method, route, status), ensure_ascii=False) + "\n").encode(
            "utf-8", "replace"
        )
        try:
            if self._descriptor is None:
                sys.stderr.write(raw.decode())
                sys.stderr.flush()
            else:
                os.write(self._descriptor, raw)
        except OSError as error:
            self._lost += 1
            if self._lost == 1:
                _log.error("--request-log %s: %s; lines are lost", self._file or "(stderr)", error.strerror)
            return
        if self._lost:
            _log.error("--request-log %s: %d lines were lost", self._file or "(stderr)", self._lost)
            self._lost = 0

    def reopen(self) -> None:
        """Opens the file by its name again, after logrotate has moved it away."""
        if self._file is None or self._descriptor is None:
            return
        try:
            descriptor = _open(self._file)
        except OSError as error:
            _log.error("--request-log %s: cannot be opened again (%s); goes on in the file of before",
                       self._file, error.strerror)  # fmt: skip
            return
        os.close(self._descriptor)
        self._descriptor = descriptor

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _line(self, call: Call, method: str, route: str, status: int) -> dict[str, Any]:
        first = call.first_token_seconds
        line: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "id": call.id,
            "key": None if call.account is None else call.account.key.name,
            "method": method if method in ("GET", "HEAD", "POST", "OPTIONS") else "other",
            "route": route,
            "model": call.model,
            "prompt_tokens": call.prompt_tokens,
            "completion_tokens": call.completion_tokens,
            "status": status,
            "error": call.error,
            "first_token_ms": None if first is None else round(1000 * first, 1),
            "total_ms": round(1000 * (time.monotonic() - call.started), 1),
        }
        return {**line, "prompts": call.prompts, "texts": call.texts} if self.texts else line


def _open(file: str) -> int:
    return os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
