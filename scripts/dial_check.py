"""The dial against its aims, with the commands as people type them: wall time, bits per byte, nats a character.

    python scripts/dial_check.py --corpora FOLDER --out FOLDER [--only NAME ...]

`FOLDER` of corpora has `gutenberg/*.txt`, `tinyshakespeare/input.txt` and `tinystories/v2_train_head_1.4MB.txt`. Prints
a JSON line a row as it goes, and a table. Under 45 minutes in all. A book that no training text has in it is a row of
its own: its figure is that of the whole book, its licence taken off. Aims are of a machine that trains in bfloat16; a
slower one misses them by what it computes less, so `operations` says how much that was.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """`arguments` of `jslm train` (paths of texts relative to the corpora), its minutes, and the aim in `unit`.

    `held_out` is a text of the folder that is trained on: left out there, and measured instead of the run's split.
    """

    name: str
    arguments: tuple[str, ...]
    minutes: float
    aim: float
    unit: str
    held_out: str = ""


STORIES = "tinystories/v2_train_head_1.4MB.txt"
# The last row's text is a part of the book.
SMALL, BOOK = "small.txt", "gutenberg/pg11.txt"
ROWS = (
    Row("sixteen books", ("gutenberg",), 5, 1.60, "bits_per_byte"),
    Row("fifteen books, another whole", ("gutenberg",), 5, math.nan, "bits_per_byte", "pg84.txt"),
    Row("one book", ("gutenberg/pg345.txt",), 5, 1.85, "bits_per_byte"),
    Row("Shakespeare, 1 minute", ("tinyshakespeare/input.txt",), 1, 1.62, "nats_per_character"),
    Row("Shakespeare, 2 minutes", ("tinyshakespeare/input.txt",), 2, 1.53, "nats_per_character"),
    Row("TinyStories", (STORIES,), 5, math.nan, "bits_per_byte"),
    Row(
        "TinyStories, tinystories_1m",
        ("--config", "tinystories_1m", "optimizer.schedule=linear", "train.batch_size=4"),
        5,
        math.nan,
        "bits_per_byte",
    ),
    Row("100 kB of a book", (SMALL,), 2, math.nan, "bits_per_byte"),
)
NAMES = [row.name for row in ROWS]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the rows and prints what they gave."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the texts")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs; not there yet")
    parser.add_argument("--only", nargs="*", default=NAMES, choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    args = parser.parse_args(arguments)
    if args.out.exists():
        parser.error(f"--out {args.out}: is there already; name a folder that is not")
    rows = [row for row in ROWS if row.name in args.only]
    texts = {text for row in rows for text in texts_of(row)}
    for text in sorted(texts):
        if not (args.corpora / text).exists():
            parser.error(f"--corpora {args.corpora}: has no {text}")
    args.out.mkdir(parents=True)
    small = args.out / SMALL
    if BOOK in texts:
        small.write_bytes((args.corpora / BOOK).read_bytes()[:100_000])
    found = []
    for number, row in enumerate(rows):
        found.append(measure(row, args.corpora, small, args.out / f"run{number}"))
        print(json.dumps(found[-1]), flush=True)
    print(f"\n{'row':<30}{'found':>8}{'aim':>8}{'5-gram':>8}{'minutes':>9}{'of':>5}")
    for one in found:
        # The 5-gram in the row's unit too.
        ngram = one["ngram"] * one[one["unit"]] / one["bits_per_byte"]
        print(
            f"{one['name']:<30}{one[one['unit']]:>8.3f}{one['aim']:>8}{ngram:>8.3f}"
            f"{one['wall_minutes']:>9.2f}{one['minutes']:>5}"
        )
    return 0


def texts_of(row: Row) -> set[str]:
    """What must be there for a row, relative to the corpora."""
    if "--config" in row.arguments:
        return {STORIES}
    held_out = {f"{row.arguments[0]}/{row.held_out}"} if row.held_out else set()
    return {BOOK if name == SMALL else name for name in row.arguments} | held_out


def measure(row: Row, corpora: Path, small: Path, run_dir: Path) -> dict[str, Any]:
    """Trains as the row says, in a process of its own, and reads what the run has written."""
    command = [sys.executable, "-m", "jslm.train", "--minutes", str(row.minutes), f"run_dir={run_dir}"]
    if row.held_out:
        (name,) = row.arguments
        folder = run_dir.with_name(f"{run_dir.name}-texts")
        folder.mkdir()
        for text in sorted((corpora / name).glob("*.txt")):
            if text.name != row.held_out:
                (folder / text.name).symlink_to(text.absolute())
        row = row._replace(arguments=(str(folder.absolute()),))
    if "--config" in row.arguments:
        text = corpora / STORIES
        command += [*row.arguments, f"data.source={text}", f"data.dir={run_dir}/data", "data.validation_fraction=0.1"]
    else:
        command += [str(small if name == SMALL else corpora / name) for name in row.arguments]
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = (time.monotonic() - began) / 60
    info = json.loads((run_dir / "run.json").read_text("utf-8"))
    bits, sources = info["result"]["val/bits_per_byte"], info["data"]["sources"]
    tokens = info["result"]["tokens_seen"]
    ngram = (info.get("baseline") or {}).get("bits_per_byte", math.nan)
    if row.held_out:
        bits, ngram = evaluate(run_dir, corpora / "gutenberg" / row.held_out)
    return {
        "name": row.name,
        "minutes": row.minutes,
        "aim": "" if math.isnan(row.aim) else row.aim,
        "unit": row.unit,
        "wall_minutes": wall,
        "bits_per_byte": bits,
        "nats_per_character": bits * math.log(2) * bytes_per_character(sources),
        "ngram": ngram,
        "parameters": info["parameters"]["total"],
        "tokens": tokens,
        "operations": 6.0 * tokens * info["parameters"]["total"],
        "passes": info["result"]["passes"],
        "names": names(sources, run_dir),
    }


def evaluate(run_dir: Path, text: Path) -> tuple[float, float]:
    """Bits per byte of a whole text, by the run's model and by the byte 5-gram of its training text."""
    command = [sys.executable, "-m", "jslm.evaluate", "--run", str(run_dir), "--text", str(text), "--json"]
    (found,) = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)["runs"]
    return found["losses"][str(text)]["bits_per_byte"], found["baselines"][str(text)]["bits_per_byte"]


def names(sources: list[str], run_dir: Path) -> list[str]:
    """Which of the text's thirty commonest names its samples have: words that the text never writes small."""
    words = Counter(re.findall(r"(?<=[a-z,] )[A-Z][a-z]{2,}|(?<![A-Za-z])[a-z]{3,}", whole(sources)))
    named = [word for word, _ in words.most_common() if word[0].isupper() and word.lower() not in words][:30]
    samples = (run_dir / "samples.md").read_text("utf-8")
    return [word for word in named if re.search(rf"\b{word}\b", samples)]


def bytes_per_character(sources: list[str]) -> float:
    """Of the whole text."""
    text = whole(sources)
    return len(text.encode("utf-8")) / len(text)


def whole(sources: list[str]) -> str:
    """The text of a folder's files, or of the files."""
    paths = [path for source in map(Path, sources) for path in (source.glob("*.txt") if source.is_dir() else [source])]
    return b"".join(path.read_bytes() for path in paths).decode("utf-8", errors="ignore")


if __name__ == "__main__":
    sys.exit(main())
