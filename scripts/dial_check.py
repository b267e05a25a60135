"""The dial against its aims, with the commands as people type them: wall time, bits per byte, nats a character.

    python scripts/dial_check.py --corpora FOLDER --out FOLDER [--only NAME ...]

`FOLDER` of corpora has `gutenberg/*.txt`, `tinyshakespeare/input.txt` and `tinystories/v2_train_head_1.4MB.txt`. Prints
a JSON line a row as it goes, and a table. Under 45 minutes in all. Aims are of a machine that trains in bfloat16; a
slower one misses them by what it computes less, so `operations` says how much that was.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """`arguments` of `jslm train` (paths of texts relative to the corpora), its minutes, and the aim in `unit`."""

    name: str
    arguments: tuple[str, ...]
    minutes: float
    aim: float
    unit: str


ROWS = (
    Row("sixteen books", ("gutenberg",), 5, 1.60, "bits_per_byte"),
    Row("one book", ("gutenberg/pg345.txt",), 5, 1.85, "bits_per_byte"),
    Row("Shakespeare, 1 minute", ("tinyshakespeare/input.txt",), 1, 1.62, "nats_per_character"),
    Row("Shakespeare, 2 minutes", ("tinyshakespeare/input.txt",), 2, 1.53, "nats_per_character"),
    Row("TinyStories", ("tinystories/v2_train_head_1.4MB.txt",), 5, math.nan, "bits_per_byte"),
    Row(
        "TinyStories, tinystories_1m",
        ("--config", "tinystories_1m", "optimizer.schedule=linear", "train.batch_size=4"),
        5,
        math.nan,
        "bits_per_byte",
    ),
    Row("100 kB of a book", ("small.txt",), 2, math.nan, "bits_per_byte"),
)


def main() -> int:
    """Runs the rows and prints what they gave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the texts")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; not there yet")
    parser.add_argument("--only", nargs="*", default=[row.name for row in ROWS], help="rows to run")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    small = args.out / "small.txt"
    small.write_bytes((args.corpora / "gutenberg" / "pg11.txt").read_bytes()[:100_000])
    found = []
    for number, row in enumerate(row for row in ROWS if row.name in args.only):
        found.append(measure(row, args.corpora, small, args.out / f"run{number}"))
        print(json.dumps(found[-1]), flush=True)
    print(f"\n{'row':<30}{'found':>8}{'aim':>8}{'5-gram':>8}{'minutes':>9}{'of':>5}")
    for row in found:
        print(
            f"{row['name']:<30}{row[row['unit']]:>8.3f}{row['aim']:>8}{row['ngram']:>8.3f}"
            f"{row['wall_minutes']:>9.2f}{row['minutes']:>5}"
        )
    return 0


def measure(row: Row, corpora: Path, small: Path, run_dir: Path) -> dict[str, Any]:
    """Trains as the row says, in a process of its own, and reads what the run has written."""
    command = [sys.executable, "-m", "jslm.train", "--minutes", str(row.minutes), f"run_dir={run_dir}"]
    if "--config" in row.arguments:
        text = corpora / "tinystories" / "v2_train_head_1.4MB.txt"
        command += [*row.arguments, f"data.source={text}", f"data.dir={run_dir}/data", "data.validation_fraction=0.1"]
    else:
        command += [str(small if name == "small.txt" else corpora / name) for name in row.arguments]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = (time.monotonic() - began) / 60
    info = json.loads((run_dir / "run.json").read_text("utf-8"))
    bits, sources = info["result"]["val/bits_per_byte"], info["data"]["sources"]
    tokens = info["result"]["tokens_seen"]
    return {
        "name": row.name,
        "minutes": row.minutes,
        "aim": "" if math.isnan(row.aim) else row.aim,
        "unit": row.unit,
        "wall_minutes": wall,
        "bits_per_byte": bits,
        "nats_per_character": bits * math.log(2) * bytes_per_character(sources),
        "ngram": (info.get("baseline") or {}).get("bits_per_byte", math.nan),
        "parameters": info["parameters"]["total"],
        "tokens": tokens,
        "operations": 6.0 * tokens * info["parameters"]["total"],
        "passes": info["result"]["passes"],
    }


def bytes_per_character(sources: list[str]) -> float:
    """Of the whole text; a folder's files, or the files."""
    paths = [path for source in map(Path, sources) for path in (source.glob("*.txt") if source.is_dir() else [source])]
    raw = b"".join(path.read_bytes() for path in paths)
    return len(raw) / len(raw.decode("utf-8", errors="ignore"))


if __name__ == "__main__":
    sys.exit(main())
