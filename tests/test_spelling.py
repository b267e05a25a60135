"""Commands are spelled one way, `jslm train`, in every page and message, and are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from jslm import __main__ as command
from jslm.corpora.__main__ import _WRITERS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/README.md")]
# History is left as it was written.
PAGES.remove(ROOT / "docs" / "LOG.md")
SOURCES = [*ROOT.glob("configs/*.toml"), *ROOT.glob("data/*/recipe.toml"), *(ROOT / "jslm").rglob("*.py")]
# No verbs, but modules that other programs or few people start; and the README's one word on the other spelling.
_MODULES = re.compile(r"python -m jslm\.(evaluate\.harness|train\.report)\b")
_OTHER = "`python -m jslm.train` is the same as `jslm train`"


def other_spellings(text: str) -> list[str]:
    """The lines that spell a command as `python -m jslm.train`, or begin a message with `jslm.train:`."""
    kept = _MODULES.sub("", text.replace(_OTHER, ""))
    verbs = "|".join(command.VERBS)
    pattern = re.compile(rf"-m jslm\.|\bjslm\.({verbs}|\{{verb\}}): |-- jslm\.({verbs})\b")
    return [line for line in kept.splitlines() if pattern.search(line)]


def test_commands_are_spelled_one_way() -> None:
    found = {str(path.relative_to(ROOT)): other_spellings(path.read_text("utf-8")) for path in PAGES + SOURCES}
    # The module's own word on it.
    del found["jslm/__main__.py"]
    assert {name: lines for name, lines in found.items() if lines} == {}
    assert _OTHER in (ROOT / "README.md").read_text("utf-8")


def test_every_command_of_the_pages_is_one() -> None:
    """Each `jslm WORD` at the beginning of a line of a code block names a verb, each `jslm corpora WORD` one of its."""
    for path in PAGES:
        for block in re.findall(r"^```(?:sh)?\n(.*?)^```", path.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            for line in re.findall(r"^(?:\S*/bin/)?jslm (.+)", block, re.MULTILINE):
                verb, *rest = line.split()
                assert verb in command.VERBS or verb == "--help", f"{path.name}: {line}"
                assert verb != "corpora" or rest[0] in _WRITERS, f"{path.name}: {line}"


@pytest.mark.parametrize("text", ["python -m jslm.train --config x", "jslm.train: error: x", "run -- jslm.train x"])
def test_another_spelling_is_seen(text: str) -> None:
    assert other_spellings(text)


def test_messages_begin_with_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["train", "--config", "nowhere.toml"]) == 2
    assert capsys.readouterr().err.startswith("jslm train: error: nowhere.toml: no such config file")


def test_both_ways_do_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a shell each starts itself again with huge pages; a call from Python does not."""
    asked: list[list[str]] = []
    monkeypatch.setattr("jslm.cli._use_huge_pages", lambda: asked.append(sys.argv[1:]))
    monkeypatch.setattr(sys, "argv", ["jslm", "configs", "quickstart"])
    assert command.main() == 0
    assert asked == [["quickstart"]]
    assert command.main(["configs", "quickstart"]) == 0
    assert len(asked) == 1


@pytest.mark.parametrize("name", _WRITERS)
def test_generated_corpora_have_commands(name: str) -> None:
    program = f"from jslm.__main__ import main; main(['corpora', {name!r}, '--count', '1'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 20


@pytest.mark.parametrize(("word", "now"), [("inspect", "jslm inspect"), ("stories", "jslm corpora stories")])
def test_former_commands_say_what_they_are_called_now(word: str, now: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["data", word, "x"]) == 2
    assert capsys.readouterr().err == f"jslm: jslm data {word} is {now} now; the arguments are the same\n"


@pytest.mark.parametrize("module", ["jslm.data.rewrite", "jslm.data.stories", "jslm.data", "jslm.data.loader"])
def test_former_modules_say_where_they_are_now(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode != 0
    assert "jslm.corpora" in done.stderr.splitlines()[-1]
