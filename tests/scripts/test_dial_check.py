"""scripts/dial_check.py: what it refuses before the first of its thirty minutes; its rows are run by people."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import dial_check

TEXTS = (
    dial_check.BOOK,
    "gutenberg/pg345.txt",
    "gutenberg/pg84.txt",
    "tinyshakespeare/input.txt",
    dial_check.STORIES,
)


@pytest.fixture
def corpora(tmp_path: Path) -> Path:
    for text in TEXTS:
        (tmp_path / text).parent.mkdir(exist_ok=True)
        (tmp_path / text).write_text("A sentence.\n", "utf-8")
    return tmp_path


def test_a_folder_of_runs_that_is_there_is_refused(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (corpora / "runs").mkdir()
    with pytest.raises(SystemExit, match="2"):
        dial_check.main(["--corpora", str(corpora), "--out", str(corpora / "runs")])
    assert "is there already" in capsys.readouterr().err


def test_a_row_that_is_none_is_refused(corpora: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        dial_check.main(["--corpora", str(corpora), "--out", str(corpora / "runs"), "--only", "two books"])
    assert "'two books'" in capsys.readouterr().err
    assert not (corpora / "runs").exists()


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_that_is_not_there_is_named(corpora: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (corpora / text).unlink()
    with pytest.raises(SystemExit, match="2"):
        dial_check.main(["--corpora", str(corpora), "--out", str(corpora / "runs")])
    assert f"has no {text}" in capsys.readouterr().err
    assert not (corpora / "runs").exists()


def test_a_row_needs_its_own_texts_alone() -> None:
    needs = {row.name: dial_check.texts_of(row) for row in dial_check.ROWS}
    assert needs["Shakespeare, 1 minute"] == {"tinyshakespeare/input.txt"}
    assert needs["fifteen books, another whole"] == {"gutenberg", "gutenberg/pg84.txt"}
    assert needs["TinyStories, tinystories_1m"] == {dial_check.STORIES}
    assert needs["100 kB of a book"] == {dial_check.BOOK}
