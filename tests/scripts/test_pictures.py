"""The pictures of the docs: the law beside the runs, and what is missing in a line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from jslm.dial.rules import rate_for
from scripts import pictures

ROOT = Path(__file__).resolve().parents[2]


def test_the_law_names_the_best_shape_of_each_text_and_time() -> None:
    rows = pictures.read(ROOT / "docs" / "dial-sizes.jsonl")
    points = pictures.points(rows)
    assert max(abs(law - found) for corpus, law, found in points if corpus == "books") < 0.03
    expected = {
        (row["parameters"]["total"], row["bits_per_byte"]): law for row, (_, law, _) in zip(rows, points, strict=True)
    }
    groups = pictures.by_size(rows)
    assert {corpus for corpus, _ in groups} == {"books", "shakespeare", "alice"}
    for tried in groups.values():
        assert len(tried) > 1
        assert min(tried, key=lambda one: expected[one]) == min(tried, key=lambda one: one[1])


def test_the_rate_of_each_width_is_near_the_best() -> None:
    widths = pictures.by_width(pictures.read(ROOT / "docs" / "dial-widths.jsonl"))
    assert list(widths) == [64, 128, 256, 384]
    for width, tried in widths.items():
        losses = dict(tried)
        assert losses[float(f"{rate_for(width):.2g}")] < min(losses.values()) + 0.01


def test_a_report_that_is_not_there_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures.shutil, "which", lambda name: f"/bin/{name}")
    with pytest.raises(SystemExit, match=r"report\.html is not there; make quickstart writes it"):
        pictures.screenshot(tmp_path / "report.html", tmp_path / "picture.png")


def test_an_unknown_picture_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "pictures.py"), "portrait"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "portrait" in done.stderr
    assert "report" in done.stderr
