"""What a GPU says of jslm, and of its peers in the same call: python scripts/gpu_check.py [--part tests|table|all].

Correctness first (`pytest -m gpu`), then a table of training steps and decoding beside PyTorch; a line of JSON for each
row as it comes, on stdout and in --json. --write puts the table into a document between its two marks. --tiny takes
small shapes, to try the script itself where there is no GPU. Needs nothing beyond what is installed, and no network.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Found from any folder, and under the one name that the processes started from here know the package by.
sys.path[0] = str(ROOT)

from scripts.bench.machine import describe_machine  # noqa: E402
from scripts.bench.process import LaneError, LaneProcess, Spec  # noqa: E402
from scripts.bench.rounds import Budget, Measured, ratios, take_turns  # noqa: E402
from scripts.bench.settings import one_gpu, peer_environment  # noqa: E402
from scripts.bench.sizes import SIZES  # noqa: E402

START, END = "<!-- gpu-check -->", "<!-- /gpu-check -->"
GPT2, LILLM = ({**SIZES[name].model_section(), "vocab_size": SIZES[name].vocab_size} for name in ("124m", "39m"))
LLAMA = {name: GPT2[name] for name in ("n_layers", "d_model", "n_heads", "context_length", "vocab_size")} | {
    "qk_norm": True
}
TINY = {"n_layers": 2, "d_model": 64, "n_heads": 4, "context_length": 64, "vocab_size": 512}
_LONGEST_START = 240.0


@dataclass(frozen=True)
class Row:
    """A line of the table: jslm's lane, and the peer's where there is one. `must` is the ratio to reach."""

    name: str
    model: dict[str, Any] = field(default_factory=dict)
    batch: int = 16
    optimizer: dict[str, Any] = field(default_factory=dict)
    document: int = 0
    has_peer: bool = False
    must: float | None = None


ROWS = (
    Row("124M, 16 x 1,024", GPT2, has_peer=True, must=1.0),
    Row("124M, dropout 0.1", {**GPT2, "dropout": 0.1}, has_peer=True, must=0.95),
    Row("Llama shape, QK-norm, AdamW", LLAMA),
    Row("Llama shape, QK-norm, Muon", LLAMA, optimizer={"name": "muon"}),
    Row("lilLM 39M, 64 x 512", LILLM, batch=64),
    Row("lilLM 39M, documents packed", LILLM, batch=64, document=170),
    Row("124M, 32 x 1,024", GPT2, batch=32, has_peer=True, must=1.0),
)
# Rows decoded at once -> tokens a second to reach.
DECODING = {"1": 1_800.0, "64": 93_000.0, "256": 160_000.0}


def main(argv: list[str] | None = None) -> int:
    """Runs the parts; returns 1 where a test or a lane failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["tests", "table", "all"], default="all")
    parser.add_argument("--minutes", type=float, default=6.0, metavar="M", help="start nothing later (default 6)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each lane (default 3)")
    parser.add_argument("--seconds", type=float, default=1.5, metavar="S", help="length of a turn (default 1.5)")
    parser.add_argument("--rows", metavar="TEXT", help="only rows with this in their name")
    parser.add_argument("--peer-python", default=sys.executable, metavar="PATH", help="interpreter that has PyTorch")
    parser.add_argument("--no-compile", action="store_true", help="PyTorch without torch.compile")
    parser.add_argument("--json", metavar="FILE", help="also write the lines there")
    parser.add_argument("--write", metavar="FILE", help=f"put the table there, between {START} and {END}")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on any device")
    args = parser.parse_args(argv)
    if args.write and not {START, END} <= set(_lines(Path(args.write))):
        parser.error(f"--write {args.write}: expected a file with the lines {START} and {END}")
    deadline = time.monotonic() + 60 * args.minutes
    failed = False
    if args.part != "table":
        failed |= run_tests(args.tiny) != 0
    if args.part == "tests":
        return int(failed)
    found = []
    for line in measure(args, deadline):
        found.append(line)
        text = json.dumps(line)
        print(text, flush=True)
        if args.json:
            with open(args.json, "a", encoding="utf-8") as file:
                file.write(text + "\n")
        failed |= bool(line.get("error"))
    text = table(found)
    print(text)
    if args.write:
        before, rest = Path(args.write).read_text("utf-8").split(START)
        Path(args.write).write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")
    return int(failed)


def run_tests(tiny: bool) -> int:
    """`pytest -m gpu`; without a GPU they skip. Returns pytest's status."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/gpu"]
    started = time.monotonic()
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    print(json.dumps({"row": "tests", "status": status, "seconds": round(time.monotonic() - started, 1)}), flush=True)
    # Nothing to collect is no failure of a try without a GPU.
    return 0 if tiny and status == 5 else status


def measure(args: argparse.Namespace, deadline: float) -> Iterator[dict[str, Any]]:
    """The lines, each when it is known; what no time was left for says so."""
    yield {"row": "machine", **describe_machine(), "jax": importlib.metadata.version("jax")}
    for row in ROWS:
        if args.rows and args.rows not in row.name:
            continue
        yield measure_row(row, args, deadline)
    if not args.rows or "decod" in args.rows:
        with tempfile.TemporaryDirectory(prefix="jslm-gpu-") as folder:
            yield from measure_decoding(args, deadline, folder)


def measure_row(row: Row, args: argparse.Namespace, deadline: float) -> dict[str, Any]:
    """One row of training: jslm's lane and the peer's in turns."""
    model, batch, document = row.model, row.batch, row.document
    if args.tiny:
        model = {**row.model, **TINY, **({"n_kv_heads": 2} if "n_kv_heads" in row.model else {})}
        model.pop("d_ff", None)
        batch, document = 2, 17 if document else 0
    config = {"model": model, "optimizer": row.optimizer}
    lanes = [_ours("jslm_step", config=config, batch=batch, document=document)]
    if row.has_peer:
        lanes.append(_peer(args, "torch", "torch_step", model=model, batch=batch, compile=not args.no_compile))
    line = {"row": row.name, "must": row.must, **_line(take_turns(lanes, [""], _budget(args, deadline), _say)[""])}
    if "jslm" in line:
        line["ms"] = round(1e3 * batch * model["context_length"] / line["jslm"], 2)
        facts = line["facts"]["jslm"]
        peak = facts["peak_flops"]
        line["mfu"] = round(line["jslm"] * facts["flops_per_token"] / peak, 3) if peak else None
    return line


def measure_decoding(args: argparse.Namespace, deadline: float, folder: str) -> Iterator[dict[str, Any]]:
    """Greedy text of full length, by rows at once, beside transformers' `generate`."""
    size, cases, new_tokens = ("tiny", ["1", "4"], 16) if args.tiny else ("124m", list(DECODING), 256)
    values = {"size": size, "folder": folder, "cases": cases, "prompt_tokens": 16, "new_tokens": new_tokens}
    try:
        LaneProcess(_ours("corpus", size=size, folder=folder, tokens=10_000), timeout=_LONGEST_START).close()
    except LaneError as error:
        yield {"row": "decoding", "error": str(error)}
        return
    lanes = [
        _ours("jslm_decode", dtype="bfloat16", **values),
        _peer(args, "transformers", "torch_decode", dtype="bfloat16", static=False, **values),
    ]
    for case, measured in take_turns(lanes, cases, _budget(args, deadline), _say).items():
        yield {"row": f"decoding 124M, rows: {case}", "must_tokens_per_s": DECODING.get(case), **_line(measured)}


def _budget(args: argparse.Namespace, deadline: float) -> Budget:
    return Budget(args.rounds, args.seconds, deadline)


def _line(lanes: list[Measured]) -> dict[str, Any]:
    """The median rate of each lane (units a second), their ratio, memory, set-up, and what went wrong."""
    line: dict[str, Any] = {lane.name: statistics.median(lane.rates()) for lane in lanes if lane.turns}
    if len(lanes) == 2 and (found := ratios(*lanes)):
        line["ratio"] = round(statistics.median(found), 3)
    started = [lane for lane in lanes if lane.setup_seconds is not None]
    line["memory_gb"] = {lane.name: round(lane.peak_memory / 1e9, 2) for lane in started}
    line["setup_s"] = {lane.name: round(lane.setup_seconds or 0.0, 1) for lane in started}
    line["facts"] = {lane.name: lane.facts for lane in started}
    errors = "; ".join(f"{lane.name}: {lane.error}" for lane in lanes if lane.error)
    return line | ({"error": errors} if errors else {})


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as a Markdown table, with date, card and versions above it."""
    rows = [line for line in lines if line["row"] not in ("machine", "tests")]
    facts: dict[str, Any] = next((fact for line in rows for fact in line.get("facts", {}).values()), {})
    peers = [line["facts"]["torch"] for line in rows if "torch" in line.get("facts", {})]
    versions = dict(facts.get("versions", {}))
    versions |= {key: value for fact in peers for key, value in fact["versions"].items() if key == "torch"}
    said = ", ".join(f"{name} {version}" for name, version in versions.items())
    date = next((line["date"][:10] for line in lines if line["row"] == "machine"), "")
    head = ["work", "ms a step", "tokens/s", "peer's", "ratio", "must", "MFU", "memory", "set-up"]
    text = [
        f"{date}, {facts.get('device', 'nothing was measured')}; {said}.",
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    for line in rows:
        ours = line.get("jslm")
        peer = next((line[name] for name in ("torch", "transformers") if name in line), None)
        must = line.get("must") or line.get("must_tokens_per_s")
        text.append(
            _row(
                [
                    line["row"],
                    f"{line['ms']}" if "ms" in line else "",
                    f"{ours:,.0f}" if ours else f"– ({line.get('error', 'not measured')})",
                    f"{peer:,.0f}" if peer else "",
                    f"{line['ratio']:.2f}" if "ratio" in line else "",
                    f"{must:,g}" if must else "",
                    f"{line['mfu']:.1%}" if line.get("mfu") else "",
                    f"{line['memory_gb']['jslm']} GB" if "jslm" in line.get("memory_gb", {}) else "",
                    f"{line['setup_s']['jslm']} s" if "jslm" in line.get("setup_s", {}) else "",
                ]
            )
        )
    return "\n".join(text)


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _ours(module: str, **values: Any) -> Spec:
    # A GPU's memory is for all lanes: JAX would take most of it at once.
    environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", **one_gpu()}
    return Spec("jslm", "jslm", f"scripts.bench.lanes.{module}", sys.executable, values, environment)


def _peer(args: argparse.Namespace, name: str, module: str, **values: Any) -> Spec:
    return Spec(name, "peer", f"scripts.bench.lanes.{module}", args.peer_python, values, peer_environment())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines() if path.is_file() else []


if __name__ == "__main__":
    sys.exit(main())
