"""Every command of docs/cloud.md, as far as it goes without a cloud."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from jslm.config import load_config

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "cloud.md").read_text("utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", DOC, re.DOTALL)
    for line in block.splitlines()
    if line.strip() and not line.startswith("#")
]
# Other programs: what of them is used.
OTHERS = {
    ("gcloud", "auth", "application-default", "login"): set(),
    ("gcloud", "storage", "buckets", "create"): {"--location"},
    ("tensorboard",): {"--logdir"},
    ("wandb", "login"): set(),
    ("export",): set(),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "key")
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = (ROOT / "Makefile").read_text("utf-8")
        extras = (ROOT / "pyproject.toml").read_text("utf-8")
        assert re.search(rf"^{words[1]}:", targets, re.MULTILINE)
        for extra in words[2].removeprefix("EXTRAS=").split(","):
            assert re.search(rf"^{extra} = ", extras, re.MULTILINE), extra
    elif words[0].startswith("scripts/"):
        end = words.index("--")
        dry = [*words[:end], "--dry-run", *words[end:]]
        done = subprocess.run(["bash", *dry], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "key" not in done.stdout
        assert re.sub(r"\W", "", words[-1]) in re.sub(r"\W", "", done.stdout)
        check_jslm(words[end + 1 :])
    elif words[:3] == ["python", "-m", "jslm.train.report"]:
        report = [sys.executable, "-m", "jslm.train.report", "--help"]
        done = subprocess.run(report, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0
    elif words[0] == "jslm":
        check_jslm(words)
    else:
        known = next(known for known in OTHERS if tuple(words[: len(known)]) == known)
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= OTHERS[known]


def check_jslm(words: list[str]) -> None:
    """The arguments as the verb reads them; presets and overrides as a whole config."""
    assert words[0] == "jslm"
    verb, arguments = words[1], words[2:]
    module = importlib.import_module(f"jslm.{verb}.__main__")
    if "--config" in arguments:
        place = arguments.index("--config")
        overrides = [word for word in arguments if "=" in word and not word.startswith("--")]
        config = load_config(arguments[place + 1], overrides)
        addresses = {name for name in (config.run_dir, config.data.dir) if "://" in name}
        assert {word.partition("=")[2] for word in overrides if re.match(r"run_dir|data\.dir", word)} == addresses
    if verb in ("train", "prepare", "plan"):
        assert module.main([*arguments, "--print-config"]) == 0
        return
    parser = module._export_parser() if verb == "convert" else module._parser()
    found = parser.parse_intermixed_args(arguments[1:] if verb == "convert" else arguments)
    assert any("://" in str(value) for value in vars(found).values())


def test_what_the_page_says_is_so() -> None:
    """Numbers that the code has too."""
    from jslm.config import CheckpointConfig
    from jslm.runs import lease, mirror
    from jslm.storage import stores

    assert f"`checkpoint.upload_seconds`, {CheckpointConfig().upload_seconds:g}" in DOC
    assert f"waits up to {lease.LEASE_SECONDS:g} seconds" in DOC
    assert f"every {mirror.GROWING_SECONDS:g} seconds" in DOC
    assert f"waited for, {mirror.END_SECONDS:g} seconds at most" in DOC
    assert sum(2.0**attempt for attempt in range(stores.TRIES - 1)) == pytest.approx(60, abs=5)
    assert f"up to {mirror._LONGEST_WAIT:g} seconds" in DOC
