"""docs/evaluation.md and docs/trackers.md: each command as its verb reads it, and the tables as the code has them."""

from __future__ import annotations

import importlib
import re
import shlex
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from jslm.config import TrainConfig, config_from_dict, load_config
from jslm.evaluate.__main__ import _parser as evaluate_parser
from jslm.evaluate.plan import TASKS
from jslm.evaluate.suite_data import SOURCES, SUITE
from jslm.judge.__main__ import _parser as judge_parser
from jslm.judge.prompts import parse_side
from jslm.sweep.__main__ import _parser as sweep_parser
from jslm.train import ValidationRecord

ROOT = Path(__file__).resolve().parents[1]
EVALUATION, TRACKERS = ((ROOT / "docs" / name).read_text("utf-8") for name in ("evaluation.md", "trackers.md"))


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


# Those of the text too.
COMMANDS = [line for page in (EVALUATION, TRACKERS) for block in blocks(page, "sh") for line in block.splitlines()]
COMMANDS += [
    " ".join(said.split()) for page in (EVALUATION, TRACKERS) for said in re.findall(r"`(jslm [a-z][^`]+)`", page)
]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)
    # What the page names is there.
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b", "runs/mine"):
        (tmp_path / name).mkdir(parents=True)
    if words[0] == "hf":
        whole = {source.how(Path("data/suite")).partition(" (or ")[0] for source in SOURCES.values()}
        assert shlex.join(words) in whole
    elif words[:3] == ["python", "-m", "jslm.evaluate.harness"]:
        source = (ROOT / "jslm" / "evaluate" / "harness.py").read_text("utf-8")
        assert shlex.join(words) in source
    elif words[1] == "evaluate":
        args = evaluate_parser().parse_intermixed_args(words[2:])
        assert {name for said in args.tasks for name in said.split(",")} <= TASKS.keys()
        assert {name for said in args.suite for name in said.split(",")} <= SUITE.keys()
    elif words[1] == "judge":
        if "RUN_A" in words:
            words = [word.replace("RUN_A", "runs/a").replace("RUN_B", "runs/b") for word in words]
        args = judge_parser().parse_intermixed_args(words[2:])
        sides = [parse_side(side) for side in (args.run_a, args.run_b)]
        assert sides[0] != sides[1]
        assert args.prompts
    elif words[1] == "sweep":
        sweep_parser().parse_intermixed_args(words[2:])
    elif words[1] == "train":
        overrides = [word for word in words if "=" in word]
        assert words[2:4] == ["--config", "FILE"]
        assert load_config("quickstart", overrides).checkpoint.every
    else:
        assert importlib.import_module(f"jslm.{words[1]}")
        assert len(words) == 2, f"{command}: nothing here checks it"


def test_every_benchmark_is_in_the_table() -> None:
    table = EVALUATION[EVALUATION.index("| name | documents |") :]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", table[: table.index("\n\n")], re.MULTILINE))
    assert rows.keys() == SUITE.keys()
    for name, source in SOURCES.items():
        official = source.places[0].official * (67 if name == "blimp" else 1)
        assert rows[name].startswith(f"{official:,}"), name
    assert len([command for command in COMMANDS if command.startswith("hf ")]) == len(SOURCES)
    assert {task for task in TASKS if f"`{task}`" not in EVALUATION} == set()


def test_trackers_are_those_of_the_code() -> None:
    (block,) = blocks(TRACKERS, "toml")
    values = tomllib.loads(block)
    assert config_from_dict(values, "docs/trackers.md").train.trackers == ("tensorboard", "wandb")
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*) \|", TRACKERS, re.MULTILINE)
    annotation = TrainConfig.model_fields["trackers"].annotation
    known = {name for part in get_args(annotation) for name in get_args(part)}
    assert {name for name, _ in rows} == known
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for name, install in rows:
        assert (ROOT / "jslm" / "train" / "trackers" / f"{name}.py").is_file()
        if found := re.search(r"EXTRAS=(\w+)", install):
            assert found[1] in extras


def test_the_callbacks_example_is_python() -> None:
    """Its rule, as the page has it; that `jslm.train` calls it so is tests/train/test_callbacks.py's."""
    (block,) = blocks(TRACKERS, "python")
    rule, _, rest = block.partition("losses = []")
    scope: dict[str, object] = {}
    exec(compile(rule, "docs/trackers.md", "exec"), scope)
    compile(rest, "docs/trackers.md", "exec")
    said = [
        scope["rule"](ValidationRecord(8, 0.7, {"bits_per_byte": bits}, True, 8, 0.7))  # type: ignore[operator]
        for bits in (1.3, 1.1)
    ]
    assert said == [None, "stop"]
