"""The table of shapes and programs in docs/formats.md: every shape is in it, and it refuses what the formats refuse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from jslm.formats import known_formats
from scripts import runtime_table

DOCS = Path(__file__).resolve().parents[2] / "docs" / "formats.md"


def documented() -> tuple[list[str], dict[str, dict[str, str]]]:
    """Titles of the columns, and shape -> title -> cell."""
    text = DOCS.read_text("utf-8")
    inside = text.partition(runtime_table.START)[2].partition(runtime_table.END)[0]
    rows = [[cell.strip() for cell in line[1:-1].split(" | ")] for line in inside.splitlines() if line.startswith("|")]
    titles = rows[0][1:]
    return titles, {row[0]: dict(zip(titles, row[1:], strict=True)) for row in rows[2:]}


def test_all_shapes_and_programs_are_in_it() -> None:
    titles, rows = documented()
    assert list(rows) == list(runtime_table.SHAPES)
    known = known_formats()
    assert titles == [column.title for column in runtime_table.COLUMNS if column.format in known]


@pytest.mark.parametrize("name", runtime_table.SHAPES)
def test_what_is_refused_is_what_the_table_says(name: str) -> None:
    """By exporting alone, without any of the programs."""
    pytest.importorskip("gguf", reason="the package gguf (extra `convert`) is not installed")
    row = documented()[1][name]
    columns = [
        replace(column, cannot=lambda model: "x")
        for column in runtime_table.COLUMNS
        if column.format in known_formats()
    ]
    found = runtime_table.measure(runtime_table.SHAPES[name], columns, measures=False)
    for title, cell in row.items():
        refused = cell.startswith("refused") or cell == "-"
        assert (runtime_table.shown(found[title]) if refused else found[title]) == (cell if refused else "(x)"), title


def test_numbers_are_rounded_up() -> None:
    cells = {0.0: "exact", 3.2e-6: "4e-6", 4e-6: "4e-6", 9.7e-6: "1e-5", 1e-5: "1e-5", 0.0042: "5e-3"}
    assert {value: runtime_table.shown(value) for value in cells} == cells
    assert runtime_table.shown("refused: a | b") == "refused: a \\| b"


def test_a_file_without_the_marks_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_table, "SHAPES", {})
    (tmp_path / "other.md").write_text("nothing", "utf-8")
    assert runtime_table.main(["--write", str(tmp_path / "other.md")]) == 2
    assert (tmp_path / "other.md").read_text("utf-8") == "nothing"
