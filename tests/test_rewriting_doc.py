"""docs/rewriting.md: the way from one's own pairs to a file, its commands as they stand, with a few steps."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_tutorial import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "rewriting.md").read_text("utf-8")
SMALLER = {"train.steps=300": "train.steps=2", "train.eval_every=100": "train.eval_every=2"}


def test_own_pairs_become_a_file_that_rewrites(tmp_path: Path) -> None:
    for name in ("data", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    start(tmp_path)
    (block,) = re.findall(r"```sh\n(.*?)```", PAGE.partition("## Your own pairs")[2], re.DOTALL)
    commands = block.replace("\\\n", " ").splitlines()
    assert [re.split(r"jslm ", command)[1].split()[0] for command in commands] == [
        *("prepare", "train", "convert", "sample"),
    ]
    written = ""
    for command in commands:
        for long, short in SMALLER.items():
            command = command.replace(long, short)
        written, _ = run(command, tmp_path)
    assert len(written.splitlines()) == 1
    file = tmp_path / "runs" / "style" / "style.safetensors"
    assert file.stat().st_size < 4_000_000


def start(folder: Path) -> None:
    """What the recipe before it leaves: characters, and a model of its shape."""
    (shape,) = re.findall(r"(model\.n_layers=\d+ model\.d_model=\d+ model\.n_heads=\d+)", PAGE)
    text = folder / "text.txt"
    text.write_text("The clerk wrote a letter, and we read it. " * 200, "utf-8")
    run(
        f"jslm train --config rewriter_natural data.source={text} data.dir=runs/natural/char {shape} "
        "run_dir=runs/natural/pretrained "
        "train.batch_size=2 train.steps=2 train.eval_every=2 train.report=false train.tensorboard=false",
        folder,
    )
