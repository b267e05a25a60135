"""An object store on loopback, in this process, whose requests can be watched, delayed, refused or used to kill.

    with Bucket() as bucket:                                         # Amazon's: moto
        subprocess.run([...], env=os.environ | bucket.environment)   # s3://bucket/...
    with GoogleBucket() as bucket:                                   # Google's: gcp-storage-emulator
        subprocess.run([...], env=os.environ | bucket.environment)   # gs://bucket/...

For tests and `scripts/kill_drill.py`; nothing is kept after it.
"""

from __future__ import annotations

import http.server
import json
import logging
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

NAME = "bucket"


class _Served:
    """A server of one bucket, empty, on a port of its own that it keeps.

    `before(method, path)` and `after(method, path)` are called around each request, in the server's threads. While
    `down` is set every request is answered with 503, as by a store that is not there; between `stop` and `start`
    nothing answers at all, and what was stored stays.
    """

    scheme = ""

    def __init__(self) -> None:
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.down = False
        self.refused = 0
        self._port = 0
        self._under_way = 0
        self._changed = threading.Condition()
        self._server: Any = None
        self.start()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Answers from now on."""
        self._server = self._listen(self._port)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Lets go of the port: connections are refused."""
        self._server.shutdown()
        self._server.server_close()

    def settle(self) -> None:
        """Waits until what has been asked for is done, also for clients that are gone."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    def _count(self, more: int) -> None:
        with self._changed:
            self._under_way += more
            self._changed.notify_all()

    def _listen(self, port: int) -> Any:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Bucket(_Served):
    """`s3://bucket`."""

    scheme = "s3"

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._app = DomainDispatcherApplication(create_backend_app)
        super().__init__()
        self.environment = {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        self._client = boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=NAME)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        super().__exit__(kind, error, trace)

    def names(self, prefix: str = "") -> list[str]:
        """All objects under a prefix, sorted."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=NAME, Prefix=prefix)
        return sorted(entry["Key"] for page in pages for entry in page.get("Contents", []))

    def read(self, name: str) -> bytes:
        """One object."""
        return bytes(self._client.get_object(Bucket=NAME, Key=name)["Body"].read())

    def write(self, name: str, data: bytes) -> None:
        """Puts one object there."""
        self._client.put_object(Bucket=NAME, Key=name, Body=data)

    def delete(self, name: str) -> None:
        """Removes one object."""
        self._client.delete_object(Bucket=NAME, Key=name)

    def _listen(self, port: int) -> Any:
        return make_server("127.0.0.1", port, self._answer, threaded=True)

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        if self.down:
            self.refused += 1
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        self._count(1)
        try:
            self.before(method, path)
            answer = list(self._app(environment, start))
            self.after(method, path)
        finally:
            self._count(-1)
        return answer


class GoogleBucket(_Served):
    """`gs://bucket`."""

    scheme = "gs"

    def __init__(self) -> None:
        # Needed here alone: the other server has libraries enough.
        from gcp_storage_emulator.handlers import buckets
        from gcp_storage_emulator.storage import Storage

        logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
        self._storage = Storage(use_memory_fs=True)
        buckets.create_bucket(NAME, self._storage)
        super().__init__()
        # No login is looked for on the network.
        self.environment = {"STORAGE_EMULATOR_HOST": self.address, "NO_GCE_CHECK": "true"}

    def names(self, prefix: str = "") -> list[str]:
        """All objects under a prefix, sorted."""
        found = json.loads(self._ask("GET", f"/storage/v1/b/{NAME}/o?prefix={quote(prefix, safe='')}"))
        return sorted(item["name"] for item in found.get("items", []))

    def read(self, name: str) -> bytes:
        """One object."""
        return self._ask("GET", f"/download/storage/v1/b/{NAME}/o/{quote(name, safe='')}?alt=media")

    def write(self, name: str, data: bytes) -> None:
        """Puts one object there."""
        self._ask("POST", f"/upload/storage/v1/b/{NAME}/o?uploadType=media&name={quote(name, safe='')}", data)

    def delete(self, name: str) -> None:
        """Removes one object."""
        self._ask("DELETE", f"/storage/v1/b/{NAME}/o/{quote(name, safe='')}")

    def _ask(self, method: str, path: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.address + path, data, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def _listen(self, port: int) -> Any:
        from gcp_storage_emulator.server import RequestHandler

        bucket = self

        class Handler(RequestHandler):
            is_counted = False

            def __init__(self, *arguments: Any) -> None:
                super().__init__(bucket._storage, *arguments)

            def parse_request(self) -> bool:
                if not super().parse_request():
                    return False
                if bucket.down:
                    bucket.refused += 1
                    self.rfile.read(int(self.headers.get("Content-Length") or 0))
                    self.send_response(503)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    self.close_connection = True
                    return False
                self.is_counted = True
                bucket._count(1)
                bucket.before(self.command, self.path)
                return True

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                    if self.is_counted:
                        bucket.after(self.command, self.path)
                finally:
                    if self.is_counted:
                        self.is_counted = False
                        bucket._count(-1)

        return _QuietServer(("127.0.0.1", port), Handler)


class _QuietServer(http.server.ThreadingHTTPServer):
    """Clients that go while they are answered, or are killed, are no news."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


STORES = {store.scheme: store for store in (Bucket, GoogleBucket)}
