#!/usr/bin/env python3
"""Throughput and memory of `prepare`, beside the tokenizer libraries' own batch calls on the same cores and text.

    python scripts/bench_prepare.py --text FOLDER [--megabytes 50 400] [--workers 2] [--json FILE]

The text (`.txt` files, repeated until there is enough) becomes documents of about 4 kB in a `.jsonl` file. Each figure
comes from a process of its own. Memory is the sum of the resident sets of prepare and its workers, looked at twenty
times a second (Linux). CPU seconds are those of all threads and processes: they say on a busy machine what wall time
doesn't. GPT-2's vocabulary has to be there (TIKTOKEN_CACHE_DIR).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

DOCUMENT_CHARACTERS = 4000
VOCAB_SIZE = 4096
KINDS = ("gpt2", "bpe")


def main() -> int:
    """Measures and prints; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--text", required=True, type=Path, help="folder of .txt files")
    parser.add_argument("--megabytes", type=int, nargs="+", default=[50, 400])
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--measure", choices=("library", "prepare"), help=argparse.SUPPRESS)
    parser.add_argument("--kind", default="gpt2", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure = measure_library if args.measure == "library" else measure_prepare
        print(json.dumps(measure(args.text, args.kind, args.workers, args.folder)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        figures = run(args, Path(folder))
    print_table(figures)
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def run(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures: by tokenizer for the first size, and the memory of every size."""
    rows = []
    for megabytes in args.megabytes:
        source = folder / f"{megabytes}.jsonl"
        size = write_corpus(args.text, source, megabytes)
        for kind in KINDS if megabytes == args.megabytes[0] else KINDS[:1]:
            work = folder / f"{kind}{megabytes}"
            row: dict[str, Any] = {"kind": kind, "bytes": size}
            row["prepare"] = child("prepare", source, kind, args.workers, work)
            if megabytes == args.megabytes[0]:
                row["library"] = child("library", source, kind, args.workers, work)
            rows.append(row)
        source.unlink()
    return {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "workers": args.workers,
        "load": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("tiktoken", "tokenizers", "numpy")},
        "rows": rows,
    }


def write_corpus(texts: Path, path: Path, megabytes: int) -> int:
    """Writes documents of the text over and over; returns the bytes of their text."""
    documents = []
    for file in sorted(texts.rglob("*.txt")):
        text = file.read_text("utf-8", errors="replace")
        documents += [text[i : i + DOCUMENT_CHARACTERS] for i in range(0, len(text), DOCUMENT_CHARACTERS)]
    if not documents:
        raise SystemExit(f"{texts}: no .txt files in it")
    size = number = 0
    with path.open("w", encoding="utf-8") as out:
        while size < megabytes * 1e6:
            document = documents[number % len(documents)]
            out.write(json.dumps({"text": document}, ensure_ascii=False) + "\n")
            size += len(document.encode())
            number += 1
    return size


def child(measure: str, source: Path, kind: str, workers: int, folder: Path) -> dict[str, Any]:
    """Runs one measurement in a process of its own, and watches its memory."""
    arguments = ["--text", str(source), "--measure", measure, "--kind", kind, "--folder", str(folder)]
    process = subprocess.Popen(
        [sys.executable, __file__, *arguments, "--workers", str(workers)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "RAYON_NUM_THREADS": str(workers)},
    )
    peak = 0
    while process.poll() is None:
        peak = max(peak, resident_bytes(process.pid))
        time.sleep(0.05)
    assert process.stdout is not None
    if process.returncode:
        raise SystemExit(f"{measure} of {kind} failed with status {process.returncode}")
    return {**json.loads(process.stdout.read()), "peak_rss_bytes": peak}


def resident_bytes(pid: int) -> int:
    """The resident memory of a process and all below it; 0 for one that is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, IndexError):
        return 0
    # Threads may start processes, too.
    for task in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        try:
            children += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return pages * resource.getpagesize() + sum(map(resident_bytes, set(children)))


def measure_library(source: Path, kind: str, workers: int, folder: Path) -> dict[str, Any]:
    """The library's own batch call over all documents in memory: ids as Python lists, nothing written."""
    texts = [json.loads(line)["text"] for line in source.open(encoding="utf-8")]
    encode: Callable[[], Any]
    if kind == "gpt2":
        import tiktoken

        encoding = tiktoken.get_encoding("gpt2")
        encoding.encode_ordinary("warm")
        encode = lambda: sum(map(len, encoding.encode_ordinary_batch(texts, num_threads=workers)))  # noqa: E731
    else:
        import tokenizers

        fields = json.loads((folder / "tokenizer.json").read_text("utf-8"))["tokenizers"]
        library = tokenizers.Tokenizer.from_str(json.dumps(fields))
        encode = lambda: sum(len(found.ids) for found in library.encode_batch_fast(texts, add_special_tokens=False))  # noqa: E731
    start, cpu = time.perf_counter(), time.process_time()
    tokens = encode()
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "tokens": tokens,
    }


def measure_prepare(source: Path, kind: str, workers: int, folder: Path) -> dict[str, Any]:
    """A whole prepare, and of it the tokenising: from the text on disk to the ids on disk, worker start included."""
    from jslm.config import Config, DataConfig, PrepareConfig, TokenizerConfig
    from jslm.prepare import pipeline

    spent: dict[str, float] = {}
    encode_corpus = pipeline.encode_corpus

    def timed(*arguments: Any) -> None:
        start, cpu = time.perf_counter(), cpu_seconds()
        encode_corpus(*arguments)
        spent["encode_seconds"] = time.perf_counter() - start
        spent["encode_cpu_seconds"] = cpu_seconds() - cpu

    pipeline.encode_corpus = timed  # type: ignore[assignment]
    config = Config(
        data=DataConfig(source=str(source), dir=str(folder), end_of_text="never", validation_fraction=0.01),
        tokenizer=TokenizerConfig(kind=kind, vocab_size=VOCAB_SIZE, train_megabytes=10.0),  # type: ignore[arg-type]
        prepare=PrepareConfig(workers=workers),
    )
    start = time.perf_counter()
    meta = pipeline.prepare(config).meta
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": cpu_seconds(),
        "tokens": meta["train"]["tokens"] + meta["val"]["tokens"],
        **spent,
    }


def cpu_seconds() -> float:
    """User and system time of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def print_table(figures: dict[str, Any]) -> None:
    """The figures as a Markdown table."""
    print("| tokenizer | corpus | library's batch call | tokenising | share | by CPU time | whole prepare | peak RSS |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in figures["rows"]:
        megabytes = row["bytes"] / 1e6
        prepare, library = row["prepare"], row.get("library")
        cells = [row["kind"], f"{megabytes:.0f} MB"]
        cells.append(f"{megabytes / library['seconds']:.1f} MB/s" if library else "")
        cells.append(f"{megabytes / prepare['encode_seconds']:.1f} MB/s")
        cells.append(f"{library['seconds'] / prepare['encode_seconds']:.0%}" if library else "")
        cells.append(f"{library['cpu_seconds'] / prepare['encode_cpu_seconds']:.0%}" if library else "")
        cells.append(f"{megabytes / prepare['seconds']:.1f} MB/s")
        cells.append(f"{prepare['peak_rss_bytes'] / 1e6:.0f} MB")
        print(f"| {' | '.join(cells)} |")
    print(
        f"\n{figures['date']}, {figures['cores']} cores, {figures['workers']} workers, load {figures['load']:.1f}, "
        f"Python {figures['python']}, " + ", ".join(f"{name} {found}" for name, found in figures["versions"].items())
    )


if __name__ == "__main__":
    sys.exit(main())
