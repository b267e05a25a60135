"""The portable file in a browser: examples/rust as WebAssembly in headless Chromium, from a plain static server."""

from __future__ import annotations

import functools
import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.quiet_server import QuietServer

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
ROOT = Path(__file__).resolve().parents[2]
CRATE = ROOT / "examples" / "rust"
VECTORS = ROOT / "tests" / "vectors"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]
PAGE = """<!doctype html><title>portable</title><script type="module">
import { open } from "./node.mjs";
const bytes = async (url) => new Uint8Array(await (await fetch(url)).arrayBuffer());
window.load = async (name) => open(await bytes("jslm_portable.wasm"), await bytes(name));
window.ready = true;
</script>"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder with the page, the module by the README's command, and the vectors' models."""
    folder = tmp_path_factory.mktemp("site") / "under" / "a" / "path"
    folder.mkdir(parents=True)
    readme = (CRATE / "README.md").read_text("utf-8")
    found = re.search(r"^    rustc (.*--target wasm32(?:.*\\\n)+.*-o) \S+$", readme, re.MULTILINE)
    assert found is not None
    arguments = found[1].replace("\\\n", " ").split()
    built = None
    for rustc in filter(None, ("/usr/bin/rustc", shutil.which("rustc"))):
        command = [rustc, *arguments, str(folder / "jslm_portable.wasm")]
        built = shutil.which(rustc) and subprocess.run(command, cwd=CRATE, capture_output=True).returncode == 0
        if built:
            break
    if not built:
        pytest.skip("no rustc with the target wasm32-unknown-unknown here")
    (folder / "index.html").write_text(PAGE, "utf-8")
    for path in (CRATE / "node.mjs", *VECTORS.glob("*.safetensors")):
        shutil.copy(path, folder)
    handler = functools.partial(_Quiet, directory=str(folder.parents[2]))
    with QuietServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/under/a/path/"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


def test_a_page_writes_and_rewrites_as_jslm(address: str) -> None:
    with playwright.sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(address)
        page.wait_for_function("window.ready")
        for path in sorted(VECTORS.glob("*.json")):
            vectors = json.loads(path.read_text("utf-8"))
            page.evaluate("async (name) => { window.model = await window.load(name); }", vectors["model"])
            for case in vectors["cases"]:
                options = {"tokens": vectors["max_new_tokens"], "conditions": case["conditions"]}
                write = "([prompt, options]) => [...window.model.write(prompt, options)]"
                pieces = page.evaluate(write, [case["prompt"], options])
                assert [piece["id"] for piece in pieces[:-1]] == case["greedy_ids"]
                assert "".join(piece["text"] for piece in pieces) == case["greedy_text"]
                assert pieces[-1]["finish"] == case["finish"]
            for entry in vectors.get("rewrites", []):
                rewrite = "([sentence, conditions]) => window.model.rewrite(sentence, conditions).output"
                assert page.evaluate(rewrite, [entry["source"], entry["conditions"]]) == entry["output"]
        message = page.evaluate(
            "async () => { try { await window.load('node.mjs'); } catch (e) { return e.message; } }"
        )
        assert message == "no safetensors file, or cut short"
        browser.close()
