"""scripts/machines_table.py: what it plans can be planned, and its table in docs/accelerators.md is of all of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from jslm.config import load_config
from jslm.plan.gpus import GPUS
from scripts import machines_table
from scripts.machines_table import MACHINES, Machine

ROOT = Path(__file__).resolve().parents[2]
PLAN: dict[str, Any] = {
    "chip": {"name": "T4", "memory_bytes": 16e9},
    "memory": {"total": 3.04e9, "parameters": 0.2e9, "optimizer": 0.4e9, "temporaries": 2.4e9},
    "devices": 1,
    "batch_size": 256,
    "fits": True,
    "steps": 100,
    "tokens_per_step": 1000,
    "tokens_per_second": 10_000.0,
    "expected_seconds": 0.1,
    "mfu": 0.25,
    "run_seconds": 10.0,
    "cost": 1.5,
}


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: f"{machine.preset}-{machine.topology}")
def test_what_it_plans_can_be_planned(machine: Machine) -> None:
    name, _, devices = machine.topology.partition(":")
    assert name in GPUS
    config = load_config(ROOT / "configs" / f"{machine.preset}.toml")
    assert machine.rows[0] == config.train.micro_rows, "the preset's own first"
    assert all(config.train.batch_size % rows == 0 == rows % int(devices or 1) for rows in machine.rows)
    assert bool(machine.tokens) == (not config.train.steps)


def test_the_document_has_a_row_for_each_of_them() -> None:
    inside = (ROOT / "docs" / "accelerators.md").read_text("utf-8").split(machines_table.START)[1]
    rows = inside.split(machines_table.END)[0].strip().splitlines()[2:]
    found = [tuple(cell.strip() for cell in row.split("|")[1:4:2]) for row in rows]
    wanted = [(machine.preset, str(size)) for machine in MACHINES for size in machine.rows]
    assert [(preset, size.split(" of ")[0]) for preset, size in found] == wanted, (
        "python scripts/machines_table.py --write docs/accelerators.md"
    )


def test_rows_and_what_was_compiled_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all of it in the file of results nothing is compiled; what does not fit says so."""
    monkeypatch.setattr(machines_table, "MACHINES", (Machine("movie_scripts", "t4", (8, 64)),))
    monkeypatch.setattr(machines_table, "planned", lambda *_: pytest.fail("compiles anew"))
    results, document = tmp_path / "lines.jsonl", tmp_path / "page.md"
    large = PLAN | {"fits": False, "memory": PLAN["memory"] | {"total": 20e9}}
    lines = [{"preset": "movie_scripts", "topology": "t4", "rows": n, "plan": p} for n, p in ((8, PLAN), (64, large))]
    results.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    document.write_text(f"before\n{machines_table.START}\nold\n{machines_table.END}\nafter\n", "utf-8")
    monkeypatch.setattr(sys, "argv", ["machines_table", "--results", str(results), "--write", str(document)])
    with monkeypatch.context() as patch:
        patch.setattr(machines_table.jax.config, "update", lambda *_: None)
        assert machines_table.main() == 0
    text = document.read_text("utf-8")
    fitting = "| movie_scripts | 1 x T4 | 8 of 256 | 3.0 of 16 GB | 0.20 | 0.40 | 2.40 | 100.0 ms | 10.0k | 25% |"
    assert f"{fitting} 100.0k tokens: 10.0 s | $1.50 |" in text
    assert "| 64 of 256 | **20.0 of 16 GB** | 0.20 | 0.40 | 2.40 | does not fit |" in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert fitting in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["machines_table", "--write", str(tmp_path / "no.md")])
    with pytest.raises(SystemExit, match="2"):
        machines_table.main()
    assert "expected a file with the lines <!-- machines -->" in capsys.readouterr().err
