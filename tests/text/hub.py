"""A Hugging Face Hub on loopback with one data set, for what reads one."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from tests.quiet_server import QuietServer


@dataclasses.dataclass
class Served:
    """`environment` names it to huggingface_hub; who asks for a file in `closed` is refused; `fetched` grows."""

    files: Mapping[str, bytes]
    environment: dict[str, str]
    closed: set[str] = dataclasses.field(default_factory=set)
    fetched: list[str] = dataclasses.field(default_factory=list)


@contextlib.contextmanager
def hub(files: Mapping[str, bytes]) -> Iterator[Served]:
    """The data set `owner/name`, whose branch of Parquet files has `files`."""
    served = Served(files, {})
    handler = type("Handler", (Hub,), {"served": served})
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        served.environment |= {"HF_ENDPOINT": address, "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        yield served
        server.shutdown()


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's API as huggingface_hub asks for to read one data set."""

    served: Served

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api, resolve = "/api/datasets/owner/name/", "/datasets/owner/name/resolve/refs%2Fconvert%2Fparquet/"
        if path.startswith(f"{api}revision/refs%2Fconvert%2Fparquet"):
            self.reply(json.dumps({"id": "owner/name", "sha": "0" * 40, "private": False, "siblings": []}).encode())
        elif path.startswith(f"{api}tree/"):
            folder = unquote(path.removeprefix(f"{api}tree/").partition("/")[2])
            recursive = "recursive=true" in self.path.lower()
            self.reply(json.dumps(self.tree(folder, recursive)).encode())
        elif path.startswith(resolve):
            self.file(unquote(path.removeprefix(resolve)))
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound" if "nobody" in path else "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET

    def file(self, name: str) -> None:
        if name in self.served.closed:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.command == "GET":
            self.served.fetched.append(name)
        self.reply(self.served.files[name])

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for name, data in self.served.files.items():
            rest = name.removeprefix(prefix)
            if name.startswith(prefix):
                parts = rest.split("/")
                for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                    path = prefix + "/".join(parts[:depth])
                    entries[path] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": path}
                if recursive or len(parts) == 1:
                    entries[name] = {"type": "file", "oid": "0" * 40, "size": len(data), "path": name}
        return list(entries.values())

    def reply(self, data: bytes) -> None:
        wanted = self.headers.get("Range")
        part = data
        if wanted:
            start, stop = wanted.removeprefix("bytes=").split("-")
            part = data[int(start) : int(stop) + 1 if stop else None]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"0"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(part)

    def log_message(self, *arguments: Any) -> None:
        pass
