"""The repository around the package: metadata, constraints, Makefile, bootstrap, the `jslm` command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import jslm
from jslm import __main__ as command

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("jax", "flax", "grain", "optax", "orbax", "tokenizers", "tiktoken", "tensorboardX", "numpy")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def run_python(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, cwd=ROOT)


# Metadata


def test_version_has_one_source(project: dict[str, Any]) -> None:
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "jslm.__version__"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", jslm.__version__)


def test_console_script_exists(project: dict[str, Any]) -> None:
    assert project["project"]["scripts"] == {"jslm": "jslm.__main__:main"}
    assert callable(command.main)


def test_constraints_pin_every_direct_dependency_on_every_python(project: dict[str, Any]) -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()]
    pins: dict[str, list[str]] = {}
    for line in filter(None, lines):
        match = re.fullmatch(r'([a-z0-9.-]+)==[\w.]+( ; python_version (<|>=) "3\.12")?', line)
        assert match, f"constraints.txt: {line!r} is not an exact version, alone or for one side of Python 3.12"
        pins.setdefault(match[1], []).append(match[3] or "all")
    for name, markers in pins.items():
        assert sorted(markers) in (["all"], ["<", ">="], ["<"], [">="]), f"{name} is pinned twice"
    extras = project["project"]["optional-dependencies"]
    # `dev` takes in other extras of this package by name.
    own = [name for text in extras["dev"] if text.startswith("jslm[") for name in text[5:-1].split(",")]
    direct = [*project["project"]["dependencies"], *(text for name in ("dev", *own) for text in extras[name])]
    for requirement in (text for text in direct if not text.startswith("jslm[")):
        name = re.split(r"[\[<>=]", requirement)[0].lower()
        assert sorted(pins.get(name, [])) in (["all"], ["<", ">="]), f"constraints.txt lacks {name} for some Python"


# Makefile and CI


def test_every_make_target_is_documented() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", makefile, re.MULTILINE))
    documented = set(re.findall(r"^([a-z][\w-]*):.*## \w", makefile, re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert targets == documented == set(phony[1].split())
    shown = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert targets <= set(shown.split())


@pytest.mark.parametrize("script", [".ci/run", "scripts/bootstrap.sh"])
def test_scripts_are_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)


def test_tracked_files_name_no_registry_and_no_machine() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: there is no list of tracked files")
    # Put together from parts, or this file would be the first to fail.
    hosts = "|".join(re.escape("".join(p)) for p in [("py", "pi.org"), ("python", "hosted.org"), ("npm", "js.org")])
    folders = "|".join(("wo" + "rk", "ro" + "ot", "ho" + "me", "Us" + "ers", "tm" + "p", "mn" + "t", "op" + "t"))
    pattern = re.compile(rf"{hosts}|(?<![\w.~/*$}}-])/(?:{folders})/[\w.]")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = []
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        if path.is_file() and b"\0" not in (data := path.read_bytes()):
            for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
                found += [f"{name}:{number}: {match[0]}" for match in pattern.finditer(line)]
    assert found == []


# The `jslm` command


def test_import_is_light() -> None:
    code = f"import sys, jslm, jslm.__main__; print([m for m in {(*HEAVY, 'pydantic')} if m in sys.modules])"
    assert run_python("-c", code).stdout == "[]\n"


def test_command_line_frame_is_light() -> None:
    # Every verb's --help goes through these.
    code = f"import sys, jslm.cli, jslm.config; print([m for m in {HEAVY} if m in sys.modules])"
    assert run_python("-c", code).stdout == "[]\n"


def test_help_lists_every_verb() -> None:
    shown = run_python("-m", "jslm", "--help")
    assert shown.returncode == 0
    assert shown.stderr == ""
    for verb in command.VERBS:
        assert re.search(rf"^  {verb} +\w", shown.stdout, re.MULTILINE)


def test_verbs_are_the_packages_with_a_command_line() -> None:
    present = {path.parent.name for path in (ROOT / "jslm").glob("*/__main__.py")}
    assert present == set(command.VERBS)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out == f"jslm {jslm.__version__}\n"


def test_no_verb_shows_usage_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 2
    assert "usage: jslm" in capsys.readouterr().out


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["trian", "--config", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "jslm: trian is not a verb; did you mean train? (jslm --help lists them)\n"


def test_arguments_and_status_pass_through(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stale = tmp_path / "config.md"
    stale.write_text("old\n", "utf-8")
    assert command.main(["config", "--check", str(stale)]) == 2
    assert str(stale) in capsys.readouterr().err


# Bootstrap


def fake(folder: Path, name: str, body: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n", "utf-8")
    path.chmod(0o755)
    return path


BROKEN = "echo 'pyenv: command not found' >&2; exit 127"
WORKING = f'exec "{sys.executable}" "$@"'
THIS_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def which(tmp_path: Path, *folders: Path, arguments: tuple[str, ...] = (), **variables: str) -> tuple[int, str, str]:
    """Runs `bootstrap.sh --which` on a machine whose only programs are in `folders`."""
    bash = shutil.which("bash")
    assert bash is not None
    environment = {
        "PATH": os.pathsep.join(map(str, folders)),
        "HOME": str(tmp_path),
        "PYENV_ROOT": str(tmp_path / "pyenv"),
        **variables,
    }
    call = [bash, str(ROOT / "scripts" / "bootstrap.sh"), "--which", "--venv", str(tmp_path / "none"), *arguments]
    done = subprocess.run(call, env=environment, capture_output=True, text=True, cwd=tmp_path)
    return done.returncode, done.stdout.strip(), done.stderr


def test_bootstrap_passes_over_broken_shims(tmp_path: Path) -> None:
    shims = tmp_path / "shims"
    for name in ("python3.13", "python3.12", "python3.11", "python3"):
        fake(shims, name, BROKEN)
    good = fake(tmp_path / "real", f"python{THIS_VERSION}", WORKING)
    assert which(tmp_path, shims, good.parent) == (0, str(good), "")


def test_bootstrap_passes_over_a_shim_that_is_too_old(tmp_path: Path) -> None:
    old = fake(tmp_path / "old", "python3.13", "exit 1")
    good = fake(tmp_path / "real", "python3", WORKING)
    assert which(tmp_path, old.parent, good.parent) == (0, str(good), "")


def test_bootstrap_finds_pyenv_versions_outside_path(tmp_path: Path) -> None:
    versions = tmp_path / "pyenv" / "versions" / f"{THIS_VERSION}.9" / "bin"
    versions.mkdir(parents=True)
    good = fake(versions, "python3", WORKING)
    assert which(tmp_path, tmp_path / "empty") == (0, str(good), "")


def test_bootstrap_prefers_the_interpreter_it_is_given(tmp_path: Path) -> None:
    fake(tmp_path / "real", f"python{THIS_VERSION}", WORKING)
    mine = fake(tmp_path / "mine", "some-python", WORKING)
    assert which(tmp_path, tmp_path / "real", JSLM_PYTHON=str(mine)) == (0, str(mine), "")
    broken = fake(tmp_path / "mine", "broken-python", BROKEN)
    status, chosen, error = which(tmp_path, tmp_path / "real", JSLM_PYTHON=str(broken))
    assert (status, chosen) == (1, "")
    assert str(broken) in error


def test_bootstrap_takes_the_version_asked_for_or_none(tmp_path: Path) -> None:
    good = fake(tmp_path / "real", "python3", WORKING)
    assert which(tmp_path, good.parent, arguments=("--python", THIS_VERSION))[:2] == (0, str(good))
    status, chosen, error = which(tmp_path, good.parent, arguments=("--python", "3.10"))
    assert (status, chosen) == (1, "")
    assert "no working Python 3.10" in error


def test_bootstrap_without_python_says_so_in_one_line(tmp_path: Path) -> None:
    shims = fake(tmp_path / "shims", "python3", BROKEN).parent
    status, chosen, error = which(tmp_path, shims)
    assert (status, chosen) == (1, "")
    assert error.count("\n") == 1
    assert "no working Python 3.11, 3.12 or 3.13" in error


@pytest.mark.parametrize("arguments", [("--python",), ("--python", "three"), ("--nonsense",)])
def test_bootstrap_refuses_bad_arguments(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, chosen, error = which(tmp_path, tmp_path, arguments=arguments)
    assert (status, chosen) == (2, "")
    assert error.startswith("bootstrap: ")


def test_bootstrap_refuses_an_unknown_extra(tmp_path: Path, project: dict[str, Any]) -> None:
    call = ["bash", str(ROOT / "scripts" / "bootstrap.sh"), "--venv", str(tmp_path / "none"), "--extras", "dev,cuda99"]
    done = subprocess.run(call, env={**os.environ, "JSLM_PYTHON": sys.executable}, capture_output=True, text=True)
    extras = " ".join(project["project"]["optional-dependencies"])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"bootstrap: there is no extra cuda99; use some of: {extras}\n"
    assert not (tmp_path / "none").exists()
