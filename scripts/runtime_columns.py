"""The programs of the table that scripts/runtime_table.py makes: how each gives logits of an exported model."""

from __future__ import annotations

import atexit
import base64
import functools
import gzip
import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jslm.errors import JslmError

ROOT = Path(__file__).resolve().parents[1]
CONTEXT = 48


@dataclass(frozen=True)
class Column:
    """A program: its title, jslm's format, what must be installed, and how to have its logits.

    `package`: a package of Python's, or a command as `$ node`. `logits(path, ids)` opens the exported `path` and gives
    [ids, vocabulary] in float32. `bound` is what a difference may be; `cannot(model)` names a shape that the format
    holds and this program does not. `is_plain`: it reads tokenizers of characters, and none of subwords' scores.
    """

    title: str
    format: str
    package: str
    logits: Callable[[Path, list[int]], np.ndarray]
    bound: float
    cannot: Callable[[Any], str] = lambda model: ""
    is_plain: bool = False

    @property
    def is_here(self) -> bool:
        """Whether its program is installed."""
        if self.package.startswith("$ "):
            return shutil.which(self.package[2:]) is not None
        return importlib.util.find_spec(self.package) is not None


def _transformers(path: Path, ids: list[int]) -> np.ndarray:
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype="float32").eval()
    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0], np.float32)


def _llama_cpp(path: Path, ids: list[int]) -> np.ndarray:
    import llama_cpp

    # The cache in float32, as the weights.
    options = {"n_ctx": CONTEXT, "n_batch": CONTEXT, "n_threads": 1, "logits_all": True, "type_k": 0, "type_v": 0}
    model = llama_cpp.Llama(str(path), verbose=False, **options)
    try:
        model.eval(ids)
        return np.array(model.scores[: len(ids)])
    finally:
        model.close()


def _llama2_py(path: Path, ids: list[int]) -> np.ndarray:
    import struct

    import llama2_py

    size = path.stat().st_size
    with path.open("rb") as file:
        config = llama2_py.Config(*struct.unpack("7i", file.read(28)))
        weights = llama2_py.TransformerWeights()
        tied = config.vocab_size > 0
        config.vocab_size = abs(config.vocab_size)
        llama2_py.checkpoint_init_weights(weights, config, file, tied, size)
    state = llama2_py.RunState()
    llama2_py.init_run_state(state, config)
    rows = []
    for position, token in enumerate(ids):
        llama2_py.transformer(token, position, config, state, weights)
        rows.append(list(state.logits))
    return np.array(rows, np.float32)


def _jslm(path: Path, ids: list[int]) -> np.ndarray:
    import jslm

    return np.asarray(jslm.load(path).logits(ids)[0], np.float32)


def _feeds(path: Path, ids: list[int]) -> dict[str, np.ndarray]:
    """What the graph in the folder takes for a text with nothing before it; no label of any condition."""
    from jslm.formats.onnx import read_folder

    model = read_folder(path).config.model
    feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
    if model.position != "none":
        feeds["position_ids"] = np.arange(len(ids))[None]
    if model.conditions:
        feeds["conditions"] = np.full((1, len(model.conditions)), -1)
    empty = np.zeros((1, model.kv_heads, 0, model.dim_per_head), np.float32)
    return feeds | {f"past_key_values.{n}.{part}": empty for n in range(model.n_layers) for part in ("key", "value")}


def _onnxruntime(path: Path, ids: list[int]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path / "onnx/model.onnx"), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], _feeds(path, ids))[0][0])


def _genai(path: Path, ids: list[int]) -> np.ndarray:
    import onnxruntime_genai

    model = onnxruntime_genai.Model(str(path))
    generator = onnxruntime_genai.Generator(model, onnxruntime_genai.GeneratorParams(model))
    rows = []
    # The last of them would fill the context, where it stops.
    for token in ids[:-1]:
        generator.append_tokens(np.array([token], np.int32))
        rows.append(np.array(generator.get_logits()).reshape(-1))
    return np.stack(rows)


def _tract(path: Path, ids: list[int]) -> np.ndarray:
    import tract

    runnable = tract.onnx().load(str(path / "onnx/model.onnx")).into_model().into_runnable()
    return np.asarray(runnable.run(list(_feeds(path, ids).values()))[0].to_numpy()[0])


def _onnxruntime_web(path: Path, ids: list[int]) -> np.ndarray:
    types = {np.dtype(np.int64): "int64", np.dtype(np.float32): "float32"}
    feeds = {
        name: [types[array.dtype], array.ravel().tolist(), array.shape] for name, array in _feeds(path, ids).items()
    }
    node = _node()
    assert node.stdin is not None
    assert node.stdout is not None
    node.stdin.write(json.dumps([str(path / "onnx/model.onnx"), feeds]) + "\n")
    node.stdin.flush()
    return np.frombuffer(base64.b64decode(node.stdout.readline()), "<f4").reshape(len(ids), -1)


@functools.cache
def _node() -> subprocess.Popen[str]:
    """onnxruntime-web, by npm's package from the user's cache or from npm; compiling it takes seconds."""
    from jslm.formats.web import runtime

    folder = Path(tempfile.mkdtemp())
    runtime.write_runtime(folder)
    packed = folder / f"{runtime.BINARY}.gz"
    packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
    command = ["node", str(ROOT / "scripts" / "onnx_web.mjs"), str(folder)]
    node = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="ascii")

    def close() -> None:
        node.communicate()
        shutil.rmtree(folder)

    atexit.register(close)
    return node


def _portable_py(path: Path, ids: list[int]) -> np.ndarray:
    spec = importlib.util.spec_from_file_location("portable", ROOT / "examples" / "portable.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return np.asarray(module.Model(path).read(ids))


def _rust(path: Path, ids: list[int]) -> np.ndarray:
    command = [str(Path(_built().name, "portable")), str(path), "logits", *map(str, ids)]
    found = subprocess.run(command, capture_output=True, check=True, encoding="ascii")
    return np.array([line.split() for line in found.stdout.splitlines()], np.float32)


@functools.cache
def _built() -> tempfile.TemporaryDirectory[str]:
    """A folder with the command of examples/rust."""
    folder, crate = tempfile.TemporaryDirectory(), ROOT / "examples" / "rust"
    library = Path(folder.name, "libjslm_portable.rlib")
    common = ["rustc", "--edition", "2021", "-C", "opt-level=2"]
    named = ["--crate-name", "jslm_portable", "--crate-type", "rlib"]
    for command in (
        [*common, *named, str(crate / "src/lib.rs"), "-o", str(library)],
        [*common, "--extern", f"jslm_portable={library}", str(crate / "src/bin/portable.rs"), "-o",
         str(Path(folder.name, "portable"))],
    ):  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise JslmError(f"rustc cannot build examples/rust: {done.stderr[:500]}")
    return folder


COLUMNS = (
    Column("transformers", "hf", "transformers", _transformers, 1e-4),
    # GELU by a table in float16.
    Column("llama.cpp", "gguf", "llama_cpp", _llama_cpp, 1e-2),
    Column(
        "llama2.c (its port llama2.py)",
        "llama2c",
        "llama2_py",
        _llama2_py,
        1e-4,
        lambda model: "" if model.kv_heads == model.n_heads else "the port has no grouped queries; llama2.c has",
    ),
    Column("onnxruntime", "onnx", "onnxruntime", _onnxruntime, 2e-5),
    Column(
        "onnxruntime-genai",
        "onnx",
        "onnxruntime_genai",
        _genai,
        2e-5,
        lambda model: "it gives no conditions: export with --condition NAME=LABEL" if model.conditions else "",
    ),
    Column("onnxruntime-web", "onnx", "$ node", _onnxruntime_web, 2e-5),
    Column("tract", "onnx", "tract", _tract, 2e-5),
    Column("portable", "safetensors", "jslm", _jslm, 0.0),
    Column("examples/portable.py", "safetensors", "jslm", _portable_py, 2e-5, is_plain=True),
    Column("examples/rust", "safetensors", "$ rustc", _rust, 2e-5, is_plain=True),
    Column("GGUF read again", "gguf", "gguf", _jslm, 0.0),
    Column("Hugging Face read again", "hf", "jslm", _jslm, 0.0),
)
