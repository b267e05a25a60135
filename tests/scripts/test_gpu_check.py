"""scripts/gpu_check.py where there is no GPU: its rows at small shapes, its table, its document."""

from __future__ import annotations

import importlib.metadata
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
    lines = figures.read_text("utf-8")
    machine, row = map(json.loads, lines.splitlines())
    assert machine["row"] == "machine"
    assert row["jslm"] == pytest.approx(2 * 64 / (row["ms"] / 1e3), rel=0.01)
    text = document.read_text("utf-8")
    assert text.startswith(f"before\n{gpu_check.START}\n")
    assert text.endswith(f"{gpu_check.END}\nafter\n")
    assert "older" not in text
    assert "| lilLM 39M, documents packed |" in text
    assert f"{machine['date'][:10]}, CPU" in text
    shown = text.split(gpu_check.START)[1].split(gpu_check.END)[0].strip()
    assert shown in capsys.readouterr().out
    # Brought home, and measured once more in vain: the table is that of the first lines.
    with figures.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"row": row["row"], "error": "jslm: lost"}) + "\n")
    assert gpu_check.main(["--from", str(figures), str(figures)]) == 0
    assert capsys.readouterr().out.strip() == shown
    figures.write_text("a log\n", "utf-8")
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--from", str(figures)])
    assert f'{figures}: line 1: expected a line of JSON with "row"' in capsys.readouterr().err


@pytest.mark.slow
def test_decoding_and_the_first_text(tmp_path: Path) -> None:
    """Whether or not PyTorch is here; the second process finds the first one's programs."""
    figures = tmp_path / "figures.jsonl"
    gpu_check.main([*SMALL, "--rows", "decoding", "--json", str(figures)])
    _, *rows, text = map(json.loads, figures.read_text("utf-8").splitlines())
    assert [row["row"] for row in rows] == ["decoding 124M, rows: 1", "decoding 124M, rows: 4"]
    assert all(row["jslm"] > 0 for row in rows)
    assert 0 < text["first_text_s"] <= text["all_sizes_s"]
    assert text["second_text_s"] > 0
    assert "error" not in text


def test_gpu_tests_are_a_line() -> None:
    """Where there is no GPU they skip, which only a try may call well."""
    tried = gpu_check.run_tests(True, 300.0)
    assert tried["row"] == "tests"
    if tried["skipped"] != tried["tests"]:
        pytest.skip("a GPU is here")
    assert tried["tests"] >= 10
    assert "error" not in tried
    assert gpu_check.run_tests(False, 0.01)["error"] == "stopped after 0 s"


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.lacking(True) == []
    found = {"grain": "0.1", "pytest": "8.4"}
    version = importlib.metadata.version

    def old(name: str) -> str:
        if name == "optax":
            raise importlib.metadata.PackageNotFoundError(name)
        return found.get(name) or version(name)

    monkeypatch.setattr(importlib.metadata, "version", old)
    said = gpu_check.lacking(True)
    assert [text.split(">")[0] for text in said] == ["grain", "optax", "pytest"]
    assert said[0].endswith("(found 0.1)")
    assert said[2] == "pytest>=9.2 (found 8.4)"
    assert not any("pytest" in text for text in gpu_check.lacking(False))
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main([*SMALL])
    assert "this Python lacks grain>=" in capsys.readouterr().err


def test_what_fails_is_said_and_nothing_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No time for anything: each row says so, and the status is 1."""
    assert gpu_check.main([*SMALL, "--minutes", "0", "--rows", "124M"]) == 1
    out = capsys.readouterr().out
    assert out.count("no time was left (--minutes)") >= 6
    assert "| first text of 124M" not in out
    document = tmp_path / "nothing.md"
    document.write_text("no marks\n", "utf-8")
    with pytest.raises(SystemExit):
        gpu_check.main([*SMALL, "--write", str(document)])
    assert document.read_text("utf-8") == "no marks\n"
    assert "expected a file with the lines <!-- gpu-check -->" in capsys.readouterr().err


def test_what_no_time_is_left_for_is_said(tmp_path: Path) -> None:
    figures = tmp_path / "figures.jsonl"
    gpu_check.main(["--tiny", "--part", "table", "--minutes", "0", "--json", str(figures)])
    _, *rows = map(json.loads, figures.read_text("utf-8").splitlines())
    assert [row["row"] for row in rows if row["row"] == "decoding"] == ["decoding"]
    assert len(rows) == len(gpu_check.ROWS) + 1
    assert all("not measured: no time was left (--minutes)" in row["error"] for row in rows)


def test_ratios_and_what_is_missing_in_the_table() -> None:
    facts = {"jslm": {"versions": {"jax": "1"}, "device": "NVIDIA H100"}, "torch": {"versions": {"torch": "2"}}}
    both = {"row": "a", "must": 1.0, "jslm": 500_000.0, "torch": 400_000.0, "ratio": 1.25, "ms": 32.77, "mfu": 0.4,
            "memory_gb": {"jslm": 9.5}, "setup_s": {"jslm": 31.0}, "facts": facts}  # fmt: skip
    machine = {"row": "machine", "date": "2026-11-27T00:00:00"}
    tests = {"row": "tests", "tests": 14, "failures": 1, "errors": 0, "skipped": 2, "seconds": 99.4, "error": "1"}
    first = {"row": "first text", "must_s": (10.0, 3.0), "first_text_s": 8.2, "second_text_s": 2.5}
    text = gpu_check.table([machine, tests, both, {"row": "b", "error": "jslm: lost"}, first])
    head = text.splitlines()[0]
    assert head == "2026-11-27, NVIDIA H100; jax 1, torch 2. GPU tests: 11 passed, 1 failed, 2 skipped, 99 s (1)."
    assert "| first text |  |  |  |  | 10 s, 3 s |  |  | 8.2 s, 2.5 s |" in text
    assert "| a | 32.77 | 500,000 | 400,000 | 1.25 | 1 | 40.0% | 9.5 GB | 31.0 s |" in text
    assert "| b |  | – (jslm: lost) |" in text
