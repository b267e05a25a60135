"""Tokens a second of the exported page beside plain onnxruntime-web, in one Chromium, in turns.

    .venv-peers/bin/python scripts/bench_web.py

A random character model of 3.6M parameters (8 layers of 192, and 4 of 272), 300 greedy tokens a turn. `page`: the
page's own engine, with probabilities and messages. `plain`: a loop over onnxruntime-web alone, on the graph that
`--format onnx` writes (int8, both operator sets), which passes all keys and values out and in again. One thread; rates
are of the best and of the median turn.
"""

from __future__ import annotations

import argparse
import functools
import http.server
import shutil
import statistics
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from jslm.config import config_from_dict
from jslm.formats.onnx.model import write as write_onnx
from jslm.formats.web.model import write as write_web
from jslm.model import count_parameters, init_params
from jslm.runs.bundle import Bundle
from jslm.tokenizer import CharTokenizer

TOKENS = 300
SHAPES = {"8 x 192": (8, 192), "4 x 272": (4, 272)}
PAGE = """async (tokens) => {
  const { Engine } = await import("./engine.js");
  if (!window.mine) {
    window.mine = new Engine();
    await window.mine.run("open", {}, { progress() {} });
  }
  const settings = { temperature: 0, top_k: 0, top_p: 1, min_p: 0, repetition_penalty: 1, seed: 0, max_tokens: tokens };
  const found = await window.mine.run("write", { prompt: "Hello", settings, labels: [] }, { tokens() {} });
  return 1000 * (found.count - 1) / found.writeMs;
}"""
PLAIN = """
import * as ort from "./page/onnxruntime/ort.wasm.bundle.min.mjs";
const bytes = async (name) => (await fetch(new URL(name, import.meta.url))).arrayBuffer();
const unpacked = (packed) =>
  new Response(new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
let session;
addEventListener("message", async ({ data: { graph, tokens } }) => {
  if (!session) {
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = await unpacked(await bytes("./page/onnxruntime/ort-wasm-simd-threaded.wasm.gz"));
    session = await ort.InferenceSession.create(new Uint8Array(await bytes(graph)), { executionProviders: ["wasm"] });
  }
  const int64 = (...values) => new ort.Tensor("int64", BigInt64Array.from(values), [1, values.length]);
  let past = {};
  for (const { name, shape } of session.inputMetadata.filter((entry) => entry.name.startsWith("past"))) {
    past[name] = new ort.Tensor("float32", new Float32Array(0), [1, shape[1], 0, shape[3]]);
  }
  let token = 5;
  const started = performance.now();
  for (let at = 0; at < tokens; at++) {
    const mask = int64(...Array(at + 1).fill(1n));
    const feeds = { input_ids: int64(BigInt(token)), attention_mask: mask, position_ids: int64(BigInt(at)), ...past };
    const found = await session.run(feeds);
    for (const name of Object.keys(past)) past[name] = found[name.replace("past_key_values", "present")];
    token = found.logits.data.indexOf(Math.max(...found.logits.data));
  }
  postMessage(1000 * tokens / (performance.now() - started));
});
"""
ASK = """async (asked) => {
  window.workers ??= {};
  const worker = (window.workers[asked.graph] ??= new Worker(asked.script, { type: "module" }));
  return new Promise((resolve, reject) => {
    worker.onmessage = (event) => resolve(event.data);
    worker.onerror = (event) => reject(new Error(event.message));
    worker.postMessage(asked);
  });
}"""


class Handler(http.server.SimpleHTTPRequestHandler):
    """In silence."""

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


def bundle(layers: int, width: int) -> Bundle:
    """A random model whose greedy text does not end."""
    tokenizer = CharTokenizer("".join(map(chr, range(32, 127))) + "\n")
    shape = {"n_layers": layers, "d_model": width, "n_heads": 4, "context_length": 320, "qk_norm": True}
    model = {**shape, "vocab_size": tokenizer.vocab_size, "dtype": "float32"}
    config = config_from_dict({"model": model}, "bench")
    return Bundle(config, jax.tree.map(np.asarray, init_params(config.model, jax.random.key(0))), tokenizer)


def main() -> None:
    """Measures and prints."""
    from playwright.sync_api import sync_playwright

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=12)
    turns = parser.parse_args().turns
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    for name, (layers, width) in SHAPES.items():
        with tempfile.TemporaryDirectory() as temporary, sync_playwright() as library:
            folder, made = Path(temporary), bundle(layers, width)
            write_web(made, folder / "page", "int8")
            for opset in (20, 23):
                write_onnx(made, folder / f"onnx{opset}", "int8", opset=opset)
            (folder / "plain.js").write_text(PLAIN, "utf-8")
            handler = functools.partial(Handler, directory=temporary)
            server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
            browser = library.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/page/")
            page.locator("#main").wait_for(state="visible")
            graphs = {f"plain, opset {opset}": f"./onnx{opset}/onnx/model_quantized.onnx" for opset in (20, 23)}
            rates: dict[str, list[float]] = {"page": [], **{lane: [] for lane in graphs}}
            for _ in range(turns):
                rates["page"].append(page.evaluate(PAGE, TOKENS))
                for lane, graph in graphs.items():
                    asked = {"script": "../plain.js", "graph": graph, "tokens": TOKENS}
                    rates[lane].append(page.evaluate(ASK, asked))
            browser.close()
            server.shutdown()
        print(f"{name}, {count_parameters(made.config.model)['total']:,} parameters")
        for lane, found in rates.items():
            print(f"  {lane:<18} best {max(found):5.0f}  median {statistics.median(found):5.0f} tokens/s")


if __name__ == "__main__":
    main()
