"""The table of docs/formats.md, measured again in the programs that are installed."""

from __future__ import annotations

import pytest

from scripts import runtime_table
from tests.scripts.test_runtime_table import documented

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.mark.parametrize("name", runtime_table.SHAPES)
def test_the_figures_hold(name: str) -> None:
    columns = runtime_table.available()
    if not any(column.title in ("transformers", "llama.cpp") for column in columns):
        pytest.skip("neither transformers nor llama-cpp-python is installed")
    row, bounds = documented()[1][name], {column.title: column.bound for column in columns}
    # A refusal is told once a format: by the first of its programs, which need not be installed here.
    formats: dict[str, str] = {}
    for column in runtime_table.COLUMNS:
        first = formats.setdefault(column.format, column.title)
        if row[column.title] == "-":
            row[column.title] = row[first]
    for title, value in runtime_table.measure(runtime_table.SHAPES[name], columns).items():
        if isinstance(value, str):
            assert value == "-" or runtime_table.shown(value) == row[title], title
            continue
        assert value <= bounds[title], title
        # Another processor adds up in another order, and not in another magnitude.
        told = 0.0 if row[title] == "exact" else float(row[title])
        assert value <= 10 * told, title
