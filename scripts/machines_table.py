"""The machines that small models were trained on, and what a plan says of them: a Markdown table, with no GPU here.

`python scripts/machines_table.py [--results FILE] [--write docs/accelerators.md]` compiles the step of each preset with
the GPU's own compiler (extra `cuda13`), as the preset says and at other sizes of its micro-batch: a minute each on two
cores. FILE keeps what was compiled, one JSON object a line: a second call goes on from there. --write puts the
table into a document between its two marks.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from jslm.config import load_config  # noqa: E402
from jslm.errors import JslmError  # noqa: E402
from jslm.plan import make_plan  # noqa: E402
from jslm.plan.show import count, duration  # noqa: E402

START, END = "<!-- machines -->", "<!-- /machines -->"
HEAD = (
    "preset", "devices", "rows at once", "memory", "weights", "optimizer", "activations", "step", "tokens/s", "MFU",
    "run", "price",
)  # fmt: skip


@dataclass(frozen=True)
class Machine:
    """A preset on the devices that people had. `rows`: micro-batches to try, the preset's own first; `tokens`: those of
    the run where the preset leaves its length to the data; `price`: of a device's hour, in dollars, 0 for one's own."""

    preset: str
    topology: str
    rows: tuple[int, ...]
    tokens: float = 0.0
    price: float = 0.0


# The price is of a rented card, as an example: a T4 of Google Cloud on demand.
MACHINES = (
    Machine("movie_scripts", "t4", (8,), price=0.35),
    Machine("tinystories_1m", "gtx1650ti", (16,), tokens=500e6),
    Machine("books_40m", "rtx3070", (32,), tokens=1e9),
    Machine("books_124m", "t4", (8, 4), tokens=1e9, price=0.35),
    Machine("lillm_39m", "a100:2", (64,), tokens=8e9),
)


def main() -> int:
    """Prints the table; returns 2 where a file or a compiler is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, metavar="FILE", help="JSON lines that are read first, and added to")
    parser.add_argument("--write", type=Path, metavar="FILE", help=f"put the table there, between {START} and {END}")
    args = parser.parse_args()
    document = args.write.read_text("utf-8") if args.write and args.write.is_file() else ""
    if args.write and not (START in document and END in document):
        parser.error(f"--write {args.write}: expected a file with the lines {START} and {END}")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    kept = args.results.read_text("utf-8").splitlines() if args.results and args.results.exists() else []
    known = {(line["preset"], line["topology"], line["rows"]): line for line in map(json.loads, kept)}
    lines = []
    for machine in MACHINES:
        for rows in machine.rows:
            line = known.get((machine.preset, machine.topology, rows))
            if line is None:
                try:
                    line = planned(machine, rows)
                except JslmError as error:
                    print(f"machines_table: error: {error}", file=sys.stderr)
                    return 2
                if args.results:
                    with args.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(row(line), flush=True)
    if args.write:
        before, rest = document.split(START)
        args.write.write_text(f"{before}{START}\n{table(lines)}\n{END}{rest.partition(END)[2]}", "utf-8")
    return 0


def planned(machine: Machine, rows: int) -> dict[str, Any]:
    """What `jslm plan` says of that preset, topology and micro-batch, with the length of the run in tokens."""
    settings = [f"train.micro_batch={rows}"]
    config = load_config(ROOT / "configs" / f"{machine.preset}.toml", settings)
    if machine.tokens:
        steps = round(machine.tokens / config.train.batch_size / config.model.context_length)
        config = load_config(ROOT / "configs" / f"{machine.preset}.toml", [*settings, f"train.steps={steps}"])
    plan = make_plan(config, machine.topology, decode_batch=0, price=machine.price)
    return {"preset": machine.preset, "topology": machine.topology, "rows": rows, "plan": plan.as_dict()}


def table(lines: list[dict[str, Any]]) -> str:
    """The lines as Markdown."""
    return "\n".join([_cells(HEAD), _cells(["---"] * len(HEAD)), *map(row, lines)])


def row(line: dict[str, Any]) -> str:
    """A line of the table: memory in GB a device, times by the shares that an H200 reached."""
    plan = line["plan"]
    memory, chip = plan["memory"], plan["chip"]
    room = f"{memory['total'] / 1e9:.1f} of {chip['memory_bytes'] / 1e9:.0f} GB"
    parts = [f"{memory[name] / 1e9:.2f}" for name in ("parameters", "optimizer", "temporaries")]
    head = [line["preset"], f"{plan['devices']} x {chip['name']}", f"{line['rows']} of {plan['batch_size']}"]
    if not plan["fits"]:
        return _cells([*head, f"**{room}**", *parts, "does not fit", "", "", "", ""])
    tokens = plan["steps"] * plan["tokens_per_step"]
    return _cells(
        [
            *head,
            room,
            *parts,
            duration(plan["expected_seconds"]),
            count(plan["tokens_per_second"]),
            f"{plan['mfu']:.0%}",
            f"{count(tokens)} tokens: {duration(plan['run_seconds'])}",
            f"${plan['cost']:,.2f}" if plan["cost"] else "",
        ]
    )


def _cells(cells: Any) -> str:
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
