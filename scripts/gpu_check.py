"""What a GPU says of jslm, and of its peers in the same call: python scripts/gpu_check.py [--part tests|table|all].

Correctness first (`pytest -m gpu`), then a table of training steps and decoding beside PyTorch; a line of JSON for each
row as it comes, on stdout and in --json. --write puts the table into a document between its two marks; --from makes it
of lines that were brought back, of several calls too, and measures nothing. --tiny takes small shapes, to try the
script itself where there is no GPU. Needs no network, and says first which libraries are missing: docs/accelerators.md
tells how to carry them along.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

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
# Tests that hang must not take the table's time: on an H200 they took 99 s.
_LONGEST_TESTS = 240.0
_TEST_LIBRARIES = ("pytest", "hypothesis", "beartype")


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


# By weight, as time may run out.
ROWS = (
    Row("124M, 16 x 1,024", GPT2, has_peer=True, must=1.0),
    Row("124M, dropout 0.1", {**GPT2, "dropout": 0.1}, has_peer=True, must=0.95),
    Row("124M, 32 x 1,024", GPT2, batch=32, has_peer=True, must=1.0),
    Row("Llama shape, QK-norm, AdamW", LLAMA),
    Row("Llama shape, QK-norm, Muon", LLAMA, optimizer={"name": "muon"}),
    Row("lilLM 39M, 64 x 512", LILLM, batch=64),
    Row("lilLM 39M, documents packed", LILLM, batch=64, document=170),
)
# Rows decoded at once -> tokens a second to reach.
DECODING = {"1": 1_800.0, "64": 93_000.0, "256": 160_000.0}
# Seconds from a model that is there to its first text; to that of the next process.
FIRST_TEXT = (10.0, 3.0)


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
    parser.add_argument("--from", dest="lines", nargs="+", metavar="FILE", help="lines of --json: only make the table")
    args = parser.parse_args(argv)
    if args.write and not {START, END} <= set(_lines(Path(args.write))):
        parser.error(f"--write {args.write}: expected a file with the lines {START} and {END}")
    if args.lines:
        show(read_lines(args.lines, parser), args)
        return 0
    if missing := lacking(args.part != "table"):
        parser.error(
            f"this Python lacks {', '.join(missing)}; install them, from wheels where there is no network "
            "(docs/accelerators.md, A GPU for minutes)"
        )
    deadline = time.monotonic() + 60 * args.minutes
    found: list[dict[str, Any]] = []
    for line in measure(args, deadline):
        found.append(line)
        text = json.dumps(line)
        print(text, flush=True)
        if args.json:
            with open(args.json, "a", encoding="utf-8") as file:
                file.write(text + "\n")
    if args.part != "tests":
        show(found, args)
    return int(any(line.get("error") for line in found))


def show(found: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Prints the table, and writes it where --write says."""
    text = table(found)
    print(text)
    if args.write:
        before, rest = Path(args.write).read_text("utf-8").split(START)
        Path(args.write).write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


def read_lines(files: list[str], parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """The lines of several calls, in their order; of a row that was measured again, the last that holds a figure."""
    found: dict[str, dict[str, Any]] = {}
    for file in files:
        if not Path(file).is_file():
            parser.error(f"--from {file}: no such file")
        for number, text in enumerate(_lines(Path(file)), 1):
            try:
                line = json.loads(text)
                name = line["row"]
            except (ValueError, TypeError, KeyError):
                parser.error(f'--from {file}: line {number}: expected a line of JSON with "row", as --json writes them')
            if name not in found or not line.get("error") or found[name].get("error"):
                found[name] = line
    return list(found.values())


def lacking(tests: bool) -> list[str]:
    """What jslm needs (and its GPU tests) that this Python has not, or too old, as "name>=version (found 1.2)"."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(text) for text in project["dependencies"]]
    developers = [Requirement(text) for text in project["optional-dependencies"]["dev"]]
    wanted += [each for each in developers if tests and each.name in _TEST_LIBRARIES]
    found = []
    for each in wanted:
        try:
            version = importlib.metadata.version(each.name)
        except importlib.metadata.PackageNotFoundError:
            found.append(f"{each.name}{each.specifier}")
            continue
        if not each.specifier.contains(version, prereleases=True):
            found.append(f"{each.name}{each.specifier} (found {version})")
    return found


def run_tests(tiny: bool, seconds: float) -> dict[str, Any]:
    """The line of `pytest -m gpu`, stopped after so many seconds. Without `tiny` it is an error where all skip."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="jslm-gpu-") as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        try:
            # What pytest says is no line of JSON.
            done = subprocess.run([*command, "tests/gpu"], cwd=ROOT, check=False, timeout=seconds, stdout=sys.stderr)
            status = done.returncode
        except subprocess.TimeoutExpired:
            status = -1
        counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
        if report.is_file():
            for suite in ElementTree.parse(report).getroot().iter("testsuite"):
                counts = {name: counts[name] + int(suite.get(name, 0)) for name in counts}
    line = {"row": "tests", "status": status, "seconds": round(time.monotonic() - started, 1), **counts}
    if status == -1:
        return line | {"error": f"stopped after {seconds:.0f} s"}
    if status:
        return line | {"error": f"pytest ended with {status}"}
    if counts["skipped"] == counts["tests"] and not tiny:
        return line | {"error": "all of them skipped: JAX finds no GPU here"}
    return line


def measure(args: argparse.Namespace, deadline: float) -> Iterator[dict[str, Any]]:
    """The lines, each when it is known; what no time was left for says so."""
    yield {"row": "machine", **describe_machine(), "jax": importlib.metadata.version("jax")}
    if args.part != "table":
        yield run_tests(args.tiny, max(1.0, min(_LONGEST_TESTS, deadline - time.monotonic())))
    if args.part == "tests":
        return
    rows = [row for row in ROWS if not args.rows or args.rows in row.name]
    yield from (measure_row(row, args, deadline) for row in rows[:2])
    if not args.rows or args.rows.startswith("decod"):
        with tempfile.TemporaryDirectory(prefix="jslm-gpu-") as folder:
            yield from measure_decoding(args, deadline, folder)
    yield from (measure_row(row, args, deadline) for row in rows[2:])


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
    measured = take_turns(lanes, [""], _budget(args, deadline), _say, together=not args.tiny)[""]
    line = {"row": row.name, "must": row.must, **_line(measured)}
    if "jslm" in line:
        line["ms"] = round(1e3 * batch * model["context_length"] / line["jslm"], 2)
        facts = line["facts"]["jslm"]
        peak = facts["peak_flops"]
        line["mfu"] = round(line["jslm"] * facts["flops_per_token"] / peak, 3) if peak else None
    return line


def measure_decoding(args: argparse.Namespace, deadline: float, folder: str) -> Iterator[dict[str, Any]]:
    """Greedy text of full length, by rows at once, beside transformers' `generate`."""
    size, cases, new_tokens = ("tiny", ["1", "4"], 16) if args.tiny else ("124m", list(DECODING), 256)
    values = {"size": size, "folder": folder, "prompt_tokens": 16, "new_tokens": new_tokens}
    try:
        longest = min(_LONGEST_START, deadline - time.monotonic())
        LaneProcess(_ours("corpus", size=size, folder=folder, tokens=10_000), timeout=longest).close()
    except LaneError as error:
        yield {"row": "decoding", "error": f"not measured: {error}"}
        return
    ours = _ours("jslm_decode", dtype="bfloat16", cases=cases, **values)
    # A cache of its own: what an earlier lane compiled must not make the first text come early.
    cache = {"XDG_CACHE_HOME": folder, "JAX_COMPILATION_CACHE_DIR": ""}
    ours = dataclasses.replace(ours, environment={**ours.environment, **cache})
    peer = _peer(args, "transformers", "torch_decode", dtype="bfloat16", static=False, cases=cases, **values)
    found = take_turns([ours, peer], cases, _budget(args, deadline), _say, together=not args.tiny)
    for case, measured in found.items():
        yield {"row": f"decoding 124M, rows: {case}", "must_tokens_per_s": DECODING.get(case), **_line(measured)}
    yield measure_first_text(ours, found[cases[0]][0], cases[0], deadline)


def measure_first_text(spec: Spec, first: Measured, case: str, deadline: float) -> dict[str, Any]:
    """Seconds from a model that is there to its first text: in the process that compiled, `first`, and in a second."""
    line: dict[str, Any] = {"row": "first text of 124M, then in a second process", "must_s": FIRST_TEXT}
    seconds = first.facts.get("first_text_seconds", {})
    if case not in seconds:
        return line | {"error": first.error or "not measured"}
    line |= {"first_text_s": round(seconds[case], 1), "all_sizes_s": round(sum(seconds.values()), 1)}
    alone = dataclasses.replace(spec, values={**spec.values, "cases": [case]})
    try:
        again = LaneProcess(alone, timeout=deadline - time.monotonic())
    except LaneError as error:
        return line | {"error": f"not measured again: {error}"}
    again.close()
    return line | {"second_text_s": round(again.facts["first_text_seconds"][case], 1)}


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
    tests = next((line for line in lines if line["row"] == "tests"), None)
    head = ["work", "ms a step", "tokens/s", "peer's", "ratio", "must", "MFU", "memory", "set-up"]
    text = [
        f"{date}, {facts.get('device', 'nothing was measured')}; {said}." + (_tests(tests) if tests else ""),
        "",
        _row(head),
        _row(["---"] * len(head)),
    ]
    for line in rows:
        ours = line.get("jslm")
        peer = next((line[name] for name in ("torch", "transformers") if name in line), None)
        must = line.get("must") or line.get("must_tokens_per_s")
        if "must_s" in line:
            shown = [f"{line[name]} s" for name in ("first_text_s", "second_text_s") if name in line]
            wanted = ", ".join(f"{seconds:g} s" for seconds in line["must_s"])
            missing = f"– ({line['error']})" if "error" in line else ""
            text.append(_row([line["row"], "", missing, "", "", wanted, "", "", ", ".join(shown)]))
            continue
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


def _tests(line: dict[str, Any]) -> str:
    passed = line["tests"] - line["failures"] - line["errors"] - line["skipped"]
    failed = line["failures"] + line["errors"]
    said = f" GPU tests: {passed} passed, {failed} failed, {line['skipped']} skipped, {line['seconds']:.0f} s"
    return f"{said} ({line['error']})." if "error" in line else f"{said}."


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
