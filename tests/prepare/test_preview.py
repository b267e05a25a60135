from __future__ import annotations

import json
from pathlib import Path

import pytest

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.prepare.__main__ import main
from jslm.prepare.preview import preview

SHORT = "A  _word_.\n\n\n\nB \x1b[31m tail"


def lines_of(tmp_path: Path, text: str, count: int = 9, width: int = 83, **settings: object) -> list[str]:
    path = tmp_path / "a.txt"
    path.write_text(text)
    return list(preview(DataConfig(source=str(path), **settings), count, width))  # type: ignore[arg-type]


def test_both_texts_stand_side_by_side(tmp_path: Path) -> None:
    lines = lines_of(tmp_path, SHORT, cleaners=["emphasis", "normalize"])
    assert lines[1].endswith("a.txt, 26 characters before, 21 after")
    assert lines[2:4] == [
        "cleaner emphasis: marks 2 character(s)",
        "cleaner normalize: white space 2, control characters 1 character(s)",
    ]
    assert lines[5] == "A  _word_.".ljust(40) + " | A  word."
    assert lines[7] == " " * 40 + " | B [31m tail"
    # An escape code must not reach the terminal.
    assert not any("\x1b" in line for line in lines)


def test_long_documents_are_shown_at_the_same_places(tmp_path: Path) -> None:
    story = "\n".join(
        f"This is line {number} of a long story that\nis wrapped  at its width, {number}." for number in range(2000)
    )
    lines = lines_of(tmp_path, story + "\n\n\n\nThe last words.", cleaners=["unwrap", "normalize"])
    titles = [index for index, line in enumerate(lines) if line.startswith("--- before")]
    assert [lines[index].split(",")[1].split()[0] for index in titles] == ["beginning", "middle", "end"]
    assert all(len(line) <= 83 for line in lines[titles[0] :])
    left, right = lines[titles[1] + 1].split(" | ")
    assert left.split()[:4] == right.split()[:4]
    assert lines[-1].count("The last words.") == 2
    assert len(lines) < 60


def test_as_many_documents_as_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        "".join(json.dumps({"text": f"<b>{number}</b>" if number else "<b></b>"}) + "\n" for number in range(9))
    )
    lines = list(preview(DataConfig(source=str(path), cleaners=["html"]), 3, 80))
    assert [line.split(":")[0] for line in lines if line.startswith("document")] == [f"document {n}" for n in (1, 2, 3)]
    assert "nothing is left: it will be passed over" in lines[1]
    with pytest.raises(JslmError, match="--preview 0: give a number of documents"):
        next(preview(DataConfig(source=str(path)), 0))


def test_the_command_line_shows_and_makes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.txt").write_text(SHORT)
    (tmp_path / "a.toml").write_text(f'run_dir = "{tmp_path}/run"\n[data]\nsource = "{tmp_path}/a.txt"\n')
    assert main(["--config", str(tmp_path / "a.toml"), "--preview", "2"]) == 0
    assert "data.cleaners is empty" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
    assert main(["--config", str(tmp_path / "a.toml"), "--preview", "2", f"data.source={tmp_path}/none.txt"]) == 2
    assert "none.txt does not exist" in capsys.readouterr().err
