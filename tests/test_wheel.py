"""jslm as people install it: the wheel, away from the repository, with its presets, recipes and advice."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from jslm.installation import extra_requirements, install_command, shipped_folder

ROOT = Path(__file__).resolve().parents[1]
BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, sys.argv[1])(sys.argv[2]))
"""


def build(hook: str, source: Path, target: Path) -> Path:
    """What a build hook (PEP 517) of `source` leaves in `target`."""
    command = [sys.executable, "-W", "ignore", "-c", BUILD, hook, str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the source distribution, so that both are whole; a corpus lies beside a recipe."""
    folder = tmp_path_factory.mktemp("wheel")
    tree = folder / "tree"
    ignore = shutil.ignore_patterns("__pycache__", "*.bin", "*.jsonl", "*.parquet")
    for name in ("jslm", "configs"):
        shutil.copytree(ROOT / name, tree / name, ignore=ignore)
    for path in (ROOT / "data").glob("*/*"):
        if path.is_file() and path.stat().st_size < 50_000:
            (tree / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tree / "data" / path.parent.name)
    (tree / "data" / "books" / "mine.csv").write_text("a corpus\n", "utf-8")
    for name in ("pyproject.toml", "setup.py", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    archive = build("build_sdist", tree, folder)
    with tarfile.open(archive) as file:
        file.extractall(folder / "sdist", filter="data")
    (unpacked,) = (folder / "sdist").iterdir()
    return build("build_wheel", unpacked, folder)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, and these tests' other packages."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    subprocess.run([*pip(folder), "install", "-q", "--no-deps", "--no-index", str(wheel)], check=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "outer.pth").write_text(sysconfig.get_path("purelib") + "\n", "utf-8")
    return folder


def pip(environment: Path) -> list[str]:
    """The command that runs this Python's pip for another environment."""
    python = str(environment / "bin" / "python")
    return [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"]


def jslm(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(installed / "bin" / "jslm"), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_has_presets_and_recipes_and_no_corpus(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    shipped = {name.removeprefix("jslm/shipped/") for name in names if name.startswith("jslm/shipped/")}
    patterns = ("configs/*.toml", "data/*/recipe.toml", "data/*/README.md", "data/*/SHA256SUMS")
    there = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    assert shipped == there | {"data/books/gutenberg.csv", "data/rewrite/natural.tsv"}
    pages = ("serve/static/index.html", "formats/web/static/index.html", "formats/web/onnxruntime-license.txt")
    assert {f"jslm/{page}" for page in pages} <= names


@pytest.mark.slow
def test_presets_work_in_any_folder(installed: Path, tmp_path: Path) -> None:
    listed = jslm(installed, tmp_path, "configs")
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = listed.stdout.splitlines()
    assert len(lines) == len([*ROOT.glob("configs/*.toml"), *ROOT.glob("data/*/recipe.toml")])
    assert "quickstart                0.23M  A first model in a few minutes on a laptop CPU: `make quickstart`" in lines
    for name, key in (("quickstart", 'source = "stories:16MB"'), ("data/shakespeare", 'dir = "data/shakespeare/gpt2"')):
        shown = jslm(installed, tmp_path, "prepare", "--config", name, "--print-config")
        assert (shown.returncode, shown.stderr) == (0, "")
        assert key in shown.stdout
    trained = jslm(
        installed, tmp_path, "train", "--config", "quickstart", "data.source=stories:20kB", "tokenizer.vocab_size=300",
        "model.n_layers=1", "model.d_model=16", "model.d_ff=32", "train.steps=2", "train.batch_size=2",
        "train.report=false", "train.tensorboard=false", "sample.max_new_tokens=4",
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs" / "quickstart" / "run.json").exists()


def test_advice_fits_how_it_was_installed(installed: Path, wheel: Path, tmp_path: Path) -> None:
    program = "from jslm.installation import install_command; print(install_command('convert'))"

    def advice() -> str:
        command = [str(installed / "bin" / "python"), "-c", program]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True, env={}).stdout.strip()

    assert advice() == f"pip install 'jslm[convert] @ {wheel.as_uri()}'"
    (record,) = installed.rglob("direct_url.json")
    commit = {"vcs": "git", "commit_id": "abc123"}
    record.write_text(json.dumps({"url": "https://host/jslm.git", "vcs_info": commit}), "utf-8")
    assert advice() == "pip install 'jslm[convert] @ git+https://host/jslm.git@abc123'"
    # What it was installed from has gone, or was an index: the packages themselves.
    record.write_text(json.dumps({"url": "file:///nowhere/jslm.whl", "archive_info": {}}), "utf-8")
    assert advice() == "pip install 'gguf>=0.19' 'huggingface-hub>=2.4'"
    record.unlink()
    assert advice() == "pip install 'gguf>=0.19' 'huggingface-hub>=2.4'"


def test_in_the_repository_it_is_the_repository() -> None:
    assert shipped_folder() == ROOT
    assert install_command("data") == f"pip install -e '{ROOT}[data]'"


def test_the_advice_of_a_wheel_is_what_pip_takes(installed: Path, wheel: Path) -> None:
    """The command is followed, short of the packages themselves."""
    asked = f"jslm[convert] @ {wheel.as_uri()}"
    command = [*pip(installed), "install", "-q", "--no-deps", "--no-index", "--dry-run", asked]
    subprocess.run(command, check=True)


def test_nobody_is_sent_to_an_index_for_jslm() -> None:
    found = []
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("data/*/*.md"), *(ROOT / "jslm").rglob("*.py")]
    for path in pages:
        for line in path.read_text("utf-8").splitlines():
            found += [line for _ in re.finditer(r"pip install (-\S+ )*['\"]?jslm\b(?!\[[\w,]+\] @ )", line)]
    assert found == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('gguf>=0.19; extra == "convert"', ["gguf>=0.19"]),
        ("gguf>=0.19; extra == 'convert'", ["gguf>=0.19"]),
        ('uvloop>=0.23; sys_platform != "win32" and extra == "convert"', ['uvloop>=0.23; sys_platform != "win32"']),
        ('jax[tpu]; extra == "convert"', ["jax[tpu]"]),
        ('gguf>=0.19; extra == "converter"', []),
        ("numpy>=2.4", []),
    ],
)
def test_requirements_of_an_extra(line: str, expected: list[str]) -> None:
    assert extra_requirements([line], "convert") == expected
