"""The pictures of the docs: the law beside the runs, and what is missing in a line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import pictures

ROOT = Path(__file__).resolve().parents[2]


def test_the_study_is_near_the_law() -> None:
    rows = [json.loads(line) for line in (ROOT / "docs" / "dial-study.jsonl").read_text("utf-8").splitlines()]
    points = pictures.points(rows)
    assert len(points) == len(rows) > 10
    # All of the corpus that the law was fitted to; docs/dial.md calls it coarse.
    assert max(abs(law - found) for corpus, law, found in points if corpus == "books") < 0.16


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
