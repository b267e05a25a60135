"""The generated reference of configuration keys."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from jslm.config.__main__ import main
from jslm.config.document import COMMON, render_reference
from jslm.config.load import is_section, sections

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "config.md"


def test_committed_reference_is_current() -> None:
    assert COMMITTED.read_text("utf-8") == render_reference(), "docs/config.md is out of date: run `make docs`"


def test_every_key_and_section_is_described() -> None:
    for path, section in sections():
        assert inspect.getdoc(section), f"[{path}] has no docstring"
        for name, field in section.model_fields.items():
            if not is_section(field.annotation):
                assert field.description, f"{path}.{name} has no description"


def test_reference_has_a_line_for_every_key() -> None:
    text = render_reference()
    for path, section in sections():
        heading = f"## `[{path}]`" if path else "## Top level"
        assert text.count(f"{heading}\n") == 1
        body = text.split(f"{heading}\n")[1].split("\n## ")[0]
        keys = re.findall(r"^- `(\w+) = ", body, re.MULTILINE)
        fields = [name for name, field in section.model_fields.items() if not is_section(field.annotation)]
        assert sorted(keys) == sorted(fields)
        common = COMMON.get(path, tuple(fields))
        assert tuple(keys[: len(common)]) == common


def test_links_lead_to_headings() -> None:
    text = render_reference()
    # As GitHub makes anchors of headings.
    anchors = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in re.findall(r"^## (.+)$", text, re.M)
    }
    links = re.findall(r"\]\(#([\w-]+)\)", text)
    assert len(links) == len(list(sections()))
    assert set(links) == anchors


def test_types_bounds_and_defaults() -> None:
    text = render_reference()
    assert "- `seed = 0` Seed of initialisation, data order and dropout. *(integer, at least 0)*" in text
    assert re.search(r'- `source = ""` .* \*\(string or list of strings\)\*', text)
    assert re.search(r"- `top_p = 1.0` .* \*\(number, above 0 and at most 1\)\*", text)
    assert re.search(r'- `norm = "rmsnorm"` .* \*\(`"rmsnorm"`, `"layernorm"`\)\*', text)
    assert "## `[model.rope_scaling]`" in text


def test_command_prints_writes_and_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "config.md"
    assert main(["--write", str(path)]) == 0
    assert main(["--check", str(path)]) == 0
    assert capsys.readouterr() == ("", "")
    assert main([]) == 0
    assert capsys.readouterr().out == path.read_text("utf-8") == render_reference()
    path.write_text(path.read_text("utf-8") + "x", "utf-8")
    assert main(["--check", str(path)]) == 2
    assert f"{path}: not what the schema says" in capsys.readouterr().err
    assert main(["--check", str(tmp_path / "absent.md")]) == 2
    assert "absent.md: No such file" in capsys.readouterr().err
