"""An S3 server on loopback, in this process (moto's), whose requests can be watched, delayed, refused or used to kill.

    with Bucket() as bucket:
        subprocess.run([...], env=os.environ | bucket.environment)   # s3://bucket/...

For tests and `scripts/kill_drill.py`; nothing is kept after it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

NAME = "bucket"


class Bucket:
    """One bucket, `s3://bucket`, empty.

    `before(method, path)` and `after(method, path)` are called around each request, in the server's threads. While
    `down` is set every request is answered with 503, as by a store that is not there.
    """

    def __init__(self) -> None:
        self.before: Callable[[str, str], None] = lambda method, path: None
        self.after: Callable[[str, str], None] = lambda method, path: None
        self.down = False
        self.refused = 0
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True)
        self._app = DomainDispatcherApplication(create_backend_app)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._client = boto3.client(
            "s3",
            endpoint_url=self.address,
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        self._client.create_bucket(Bucket=NAME)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()
        self._server.shutdown()
        self._server.server_close()

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

    def _answer(self, environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environment["REQUEST_METHOD"], environment["PATH_INFO"]
        if self.down:
            self.refused += 1
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        self.before(method, path)
        answer = list(self._app(environment, start))
        self.after(method, path)
        return answer
