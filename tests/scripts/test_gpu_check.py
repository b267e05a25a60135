"""scripts/gpu_check.py where there is no GPU: its rows at small shapes, its table, its document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jslm.config import config_from_dict
from scripts import gpu_check

SMALL = ["--tiny", "--part", "table", "--rounds", "1", "--seconds", "0.01"]


def test_the_rows_are_shapes_that_jslm_takes() -> None:
    for row in gpu_check.ROWS:
        config = config_from_dict({"model": row.model, "optimizer": row.optimizer}, row.name)
        assert config.model.context_length * row.batch in (16_384, 32_768)
        # The peer is a GPT-2.
        assert not row.has_peer or row.model.items() >= gpu_check.GPT2.items()


def test_a_row_is_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document, figures = tmp_path / "benchmarks.md", tmp_path / "figures.jsonl"
    document.write_text(f"before\n{gpu_check.START}\nan older table\n{gpu_check.END}\nafter\n", "utf-8")
    name = "documents packed"
    assert gpu_check.main([*SMALL, "--rows", name, "--json", str(figures), "--write", str(document)]) == 0
    machine, row = map(json.loads, figures.read_text("utf-8").splitlines())
    assert machine["row"] == "machine"
    assert row["jslm"] == pytest.approx(2 * 64 / (row["ms"] / 1e3), rel=0.01)
    text = document.read_text("utf-8")
    assert text.startswith(f"before\n{gpu_check.START}\n")
    assert text.endswith(f"{gpu_check.END}\nafter\n")
    assert "older" not in text
    assert "| lilLM 39M, documents packed |" in text
    assert f"{machine['date'][:10]}, CPU" in text
    assert text.split(gpu_check.START)[1].split(gpu_check.END)[0].strip() in capsys.readouterr().out


def test_what_fails_is_said_and_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No time for anything: each row says so, and the status is 1."""
    assert gpu_check.main([*SMALL, "--minutes", "0", "--rows", "124M"]) == 1
    out = capsys.readouterr().out
    assert out.count("no time was left (--minutes)") >= 6
    document = tmp_path / "nothing.md"
    document.write_text("no marks\n", "utf-8")
    with pytest.raises(SystemExit):
        gpu_check.main([*SMALL, "--write", str(document)])
    assert document.read_text("utf-8") == "no marks\n"
    assert "expected a file with the lines <!-- gpu-check -->" in capsys.readouterr().err


def test_ratios_and_what_is_missing_in_the_table() -> None:
    facts = {"jslm": {"versions": {"jax": "1"}, "device": "NVIDIA H100"}, "torch": {"versions": {"torch": "2"}}}
    both = {"row": "a", "must": 1.0, "jslm": 500_000.0, "torch": 400_000.0, "ratio": 1.25, "ms": 32.77, "mfu": 0.4,
            "memory_gb": {"jslm": 9.5}, "setup_s": {"jslm": 31.0}, "facts": facts}  # fmt: skip
    text = gpu_check.table(
        [{"row": "machine", "date": "2026-11-27T00:00:00"}, both, {"row": "b", "error": "jslm: lost"}]
    )
    assert text.splitlines()[0] == "2026-11-27, NVIDIA H100; jax 1, torch 2."
    assert "| a | 32.77 | 500,000 | 400,000 | 1.25 | 1 | 40.0% | 9.5 GB | 31.0 s |" in text
    assert "| b |  | – (jslm: lost) |" in text
