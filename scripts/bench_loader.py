"""Tokens a second of the loader alone, and its memory over five epochs, for each kind of batch.

    python scripts/bench_loader.py --json bench_loader.json

The corpora are made up: documents of 20 to 400 tokens (pairs: of 10 to 80), 16 bits a token. Each kind runs in a
process of its own. A token is a place in `targets`, whether it counts or is padding, as in the trainer's figure. "a CPU
s": tokens for each second of processor time, all threads together, which other work on the machine changes least.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from jslm.tokens.loader import TrainLoader
from jslm.tokens.token_file import TokenWriter, open_tokens

KINDS: dict[str, dict[str, Any]] = {
    "windows": {},
    "windows, stride 1/2": {"stride": 2},
    "documents": {"packing": "documents"},
    "pairs, prompts masked": {"packing": "documents", "pairs": True},
    "mixture of 3, documents": {"packing": "documents", "weights": [5.0, 3.0, 2.0]},
    "mixture of 3, documents, curriculum": {"packing": "documents", "weights": [5.0, 3.0, 2.0], "stages": True},
}
VOCAB_SIZE = 1024


def main() -> None:
    """Measures every kind and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--million-tokens", type=float, default=4.0, help="size of each corpus (default 4)")
    parser.add_argument("--context", type=int, default=192, help="context length (default 192, the quickstart's)")
    parser.add_argument("--batch", type=int, default=16, help="sequences a batch (default 16, the quickstart's)")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(3):
            write_corpus(Path(folder, f"text{index}"), int(args.million_tokens * 1e6), index, pairs=False)
        write_corpus(Path(folder, "pairs0"), int(args.million_tokens * 1e6), 9, pairs=True)
        print(f"{'batches':38}{'Mtokens/s':>10}{'a CPU s':>9}{'start s':>9}  memory of its own after each epoch, MB")
        for name in KINDS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                row = pool.apply(measure, (name, folder, args.context, args.batch, args.epochs))
            rows.append(row)
            memory = " ".join(f"{megabytes:7.1f}" for megabytes in row["anonymous_mb"])
            rates = f"{row['tokens_per_s'] / 1e6:>10.2f}{row['tokens_per_cpu_s'] / 1e6:>9.2f}"
            print(f"{name:38}{rates}{row['start_s']:>9.2f}  {memory}")
    if args.json:
        versions = {name: importlib.metadata.version(name) for name in ("grain", "numpy")}
        about: dict[str, Any] = {
            "date": datetime.date.today().isoformat(),
            "cores": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "versions": versions,
            "context": args.context,
            "batch": args.batch,
            "million_tokens": args.million_tokens,
        }
        args.json.write_text(json.dumps({**about, "rows": rows}, indent=2) + "\n", "utf-8")


def write_corpus(folder: Path, tokens: int, seed: int, *, pairs: bool) -> None:
    """A prepared folder of random documents, each closed by token 0."""
    rng = np.random.default_rng(seed)
    with TokenWriter(folder, VOCAB_SIZE, has_prompts=pairs) as writer:
        while writer.tokens("train") < tokens:
            size = int(rng.integers(10, 80) if pairs else rng.integers(20, 400))
            ids = np.append(rng.integers(1, VOCAB_SIZE, size), 0)
            writer.append("train", ids, utf8_bytes=4 * size, prompt_tokens=size // 2 if pairs else 0)
        writer.commit({"tokenizer": {"fingerprint": "none"}, "end_of_text": True, "sources": []})


def measure(name: str, folder: str, context: int, batch: int, epochs: int) -> dict[str, Any]:
    """Runs one kind for some epochs through the background thread, as training does."""
    options = dict(KINDS[name])
    stem, count = ("pairs", 1) if options.pop("pairs", False) else ("text", len(options.get("weights", [1.0])))
    files = [open_tokens(Path(folder, f"{stem}{index}"), "train") for index in range(count)]
    if "stride" in options:
        options["stride"] = context // options["stride"]
    started = time.perf_counter()
    if options.pop("stages", False):
        steps = epochs * sum(len(file.tokens) for file in files) // (context * batch)
        options["stages"] = [(context // 4, steps // 4), (context // 2, steps // 2)]
    loader = TrainLoader(files, context_length=context, batch_size=batch, seed=0, **options)
    next(loader)
    start_s = time.perf_counter() - started
    steps_done, seconds, cpu_seconds, memory = 0, 0.0, 0.0, []
    for _ in range(epochs):
        started, cpu_started = time.perf_counter(), time.process_time()
        for _ in range(int(loader.steps_per_epoch)):
            next(loader)
            steps_done += 1
        seconds += time.perf_counter() - started
        cpu_seconds += time.process_time() - cpu_started
        memory.append(anonymous_megabytes())
    loader.close()
    # Those that count: neither padding nor prompts.
    tokens = steps_done * batch * loader.tokens.targets
    rates = {"tokens_per_s": tokens / seconds, "tokens_per_cpu_s": tokens / cpu_seconds}
    return {"name": name, **rates, "start_s": start_s, "anonymous_mb": memory}


def anonymous_megabytes() -> float:
    """Memory that is this process' own, without the mapped files, which the system may drop at any time (Linux)."""
    for line in Path("/proc/self/status").read_text("ascii").splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("/proc/self/status has no RssAnon; this benchmark needs Linux")


if __name__ == "__main__":
    main()
