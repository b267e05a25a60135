"""A small server on loopback that speaks what `HfApi.create_repo` and `upload_folder` need, and keeps what it is sent.

The requests are those that `huggingface_hub` documents in its own code: `/api/repos/create`, `/api/validate-yaml`,
`/preupload`, git-lfs' batch with basic transfers, and the commit in lines of JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.quiet_server import QuietServer

TOKEN = "hf_good"


class Hub:
    """Repositories by name: `private`, and `files` as they would be cloned. `answers` forces a status on a path."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.commits: list[str] = []
        self.stored: dict[str, bytes] = {}
        self.answers: dict[str, int] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub._answer(self, b"")

            def do_POST(self) -> None:
                hub._answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def do_PUT(self) -> None:
                hub._answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))

            def log_message(self, *arguments: object) -> None:
                del arguments

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        path = handler.path.partition("?")[0]
        self.requests.append((handler.command, path))
        forced = next((status for part, status in self.answers.items() if part in path), 0)
        if forced:
            status, answer = forced, {"error": f"forced {forced}"}
        elif handler.command == "PUT":
            self.stored[path.rpartition("/")[2]] = body
            status, answer = 200, {}
        elif handler.headers.get("Authorization") != f"Bearer {TOKEN}":
            status, answer = 401, {"error": "Invalid credentials"}
        else:
            status, answer = self._api(handler.command, path, body)
        data = json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def _api(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/api/repos/create":
            fields = json.loads(body)
            if fields["organization"] != "ada":
                return 404, {"error": "no such user"}
            name = f"{fields['organization']}/{fields['name']}"
            if name in self.repositories:
                return 409, {"error": "You already created this model repo"}
            self.repositories[name] = {"private": fields.get("visibility") == "private", "files": {}}
            return 200, {"url": f"{self.endpoint}/{name}"}
        if path == "/api/validate-yaml":
            content = json.loads(body)["content"]
            return (200, {"warnings": [], "errors": []}) if content.startswith("---\n") else (400, {"errors": []})
        if path.endswith("/objects/batch"):
            objects = [
                {**entry, "actions": {"upload": {"href": f"{self.endpoint}/lfs/{entry['oid']}"}}}
                for entry in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        name = "/".join(path.split("/")[3:5])
        repository = self.repositories.get(name)
        if repository is None:
            return 404, {"error": "Repository not found"}
        if method == "GET":
            sha = hashlib.sha1(str(self.commits).encode(), usedforsecurity=False).hexdigest()
            return 200, {"id": name, "private": repository["private"], "sha": sha, "siblings": [], "tags": []}
        if "/preupload/" in path:
            kinds = {True: "lfs", False: "regular"}
            files = json.loads(body)["files"]
            large = (".safetensors", ".gguf", ".bin")
            return 200, {
                "files": [
                    {"path": file["path"], "uploadMode": kinds[file["path"].endswith(large)], "shouldIgnore": False}
                    for file in files
                ]
            }
        if "/commit/" in path:
            return self._commit(name, repository, [json.loads(line) for line in body.splitlines()])
        return 404, {"error": f"no such address {path}"}

    def _commit(self, name: str, repository: Any, lines: list[dict[str, Any]]) -> tuple[int, dict[str, Any]]:
        for line in lines:
            value = line["value"]
            match line["key"]:
                case "header":
                    self.commits.append(value["summary"])
                case "file":
                    repository["files"][value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    data = self.stored[value["oid"]]
                    if hashlib.sha256(data).hexdigest() != value["oid"] or len(data) != value["size"]:
                        return 400, {"error": "not what was announced"}
                    repository["files"][value["path"]] = data
        oid = hashlib.sha1(name.encode(), usedforsecurity=False).hexdigest()
        return 200, {"commitUrl": f"{self.endpoint}/{name}/commit/{oid}", "commitOid": oid}
