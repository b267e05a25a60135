"""How fast onnxruntime writes text by exported models, beside jslm: python scripts/bench_onnx.py [--json].

`float32` and `int8` are as jslm opens a folder, `graph` is the exported graph itself, as other programs run it.

Random weights, greedy, one sequence. Lanes take turns, each in a process of its own; ratios are of the same round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Found from any folder, and under the one name that the processes started from here know the package by.
sys.path[0] = str(Path(__file__).resolve().parents[1])

from scripts.bench.machine import describe_machine  # noqa: E402
from scripts.bench.parts import make_corpus  # noqa: E402
from scripts.bench.rounds import Measured, ratios, take_turns  # noqa: E402
from scripts.bench.settings import Settings  # noqa: E402
from scripts.bench.sizes import SIZES  # noqa: E402

_OPENED = ("float32", "int8")
_GRAPHS = (("int8", 20), ("int8", 23))


def main() -> int:
    """Prints a Markdown table, or with --json one object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="15m", help="shape (default 15m)")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="turns of each lane (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, metavar="S", help="length of a turn (default 3)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of onnxruntime (default: the cores)")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="new tokens a sample (default 200)")
    parser.add_argument(
        "--llama2c", type=Path, metavar="RUN", help="llama2.c's program, as `gcc -Ofast -fopenmp` builds it"
    )
    parser.add_argument("--old-options", action="store_true", help="it takes temperature and steps without -t and -n")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="jslm-bench-") as folder:
        deadline = time.monotonic() + 1800
        own = Path(folder)
        settings = Settings((args.size,), False, sys.executable, args.rounds, args.seconds, deadline, own, _say)
        lanes = measure(settings, args)
    figures = [figures_of(lane, lanes[0]) for lane in lanes]
    if args.json:
        print(
            json.dumps(
                {"machine": describe_machine(), "arguments": vars(args), "lanes": figures}, indent=1, default=str
            )
        )
    else:
        print(table(figures))
    return 1 if any(lane.error for lane in lanes) else 0


def measure(settings: Settings, args: argparse.Namespace) -> list[Measured]:
    """jslm in float32 first, then the graphs."""
    size = SIZES[args.size]
    folder, _ = make_corpus(settings, size, tokens=10_000)
    values: dict[str, Any] = {
        "size": size.name, "folder": str(folder), "cases": ["1"], "prompt_tokens": 16,
        "new_tokens": min(args.tokens, size.context - 16),
    }  # fmt: skip
    specs = [settings.ours("float32", "jslm_decode", dtype="float32", **values)]
    values["threads"] = args.threads
    for name, kind, opset, own in (
        *((f"ONNX {kind}", kind, 20, True) for kind in _OPENED),
        *((f"ONNX {kind}, graph, opset {opset}", kind, opset, False) for kind, opset in _GRAPHS),
    ):
        specs.append(settings.ours(name, "onnx_decode", kind=kind, opset=opset, own=own, **values))
    if args.llama2c:
        program = {"program": str(args.llama2c.resolve()), "old_options": args.old_options}
        specs.append(settings.ours("llama2.c", "llama2c_decode", **program, **values))
    return take_turns(specs, ["1"], settings.budget(), settings.say)["1"]


def figures_of(lane: Measured, first: Measured) -> dict[str, Any]:
    """Medians over the rounds: tokens a second, and the rate beside that of `first` in the same round."""
    if not lane.turns:
        return {"lane": lane.name, "error": lane.error}
    return {
        "lane": lane.name,
        "tokens_per_second": round(statistics.median(lane.rates()), 1),
        "beside_jslm": round(statistics.median(ratios(lane, first)), 2),
        "megabytes": lane.facts.get("megabytes"),
        "peak_memory_megabytes": round(lane.peak_memory / 1e6),
    }


def table(figures: list[dict[str, Any]]) -> str:
    """A Markdown table, a row a lane."""
    lines = ["| | tokens/s | beside jslm float32 | file, MB | memory, MB |", "| --- | --- | --- | --- | --- |"]
    for row in figures:
        if "error" in row:
            lines.append(f"| {row['lane']} | {row['error']} | | | |")
            continue
        cells = [row["lane"], row["tokens_per_second"], row["beside_jslm"], row["megabytes"] or ""]
        lines.append("| " + " | ".join(map(str, [*cells, row["peak_memory_megabytes"]])) + " |")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
