"""The launchers' commands, as a dry run prints them, and what they say of missing arguments."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("tpu_vm.sh", "slurm.sh")
SLICE = ["--name", "mine", "--zone", "us-west4-a"]
TRAIN = ["--", "jslm.train", "--config", "configs/quickstart.toml", 'sample.prompts=["Once upon"]']


def script(name: str, *arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PATH": path} if path is not None else {})
    bash = shutil.which("bash")
    assert bash is not None
    return subprocess.run(
        [bash, str(ROOT / "scripts" / name), *arguments], capture_output=True, text=True, env=environment
    )


def dry(name: str, *arguments: str) -> list[list[str]]:
    """The words of each command."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    done = script(name, *arguments[:end], "--dry-run", *arguments[end:])
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_sound(name: str) -> None:
    path = str(ROOT / "scripts" / name)
    assert os.access(path, os.X_OK)
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert script(name, "--help").stdout.startswith(f"usage: scripts/{name}")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_finds_nothing(name: str) -> None:
    done = subprocess.run(["shellcheck", str(ROOT / "scripts" / name)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("kind", "version"),
    [("v5litepod-16", "v2-alpha-tpuv5-lite"), ("v5p-8", "v2-alpha-tpuv5"), ("v6e-64", "v2-alpha-tpuv6e")],
)
def test_slice_is_asked_for(kind: str, version: str) -> None:
    (command,) = dry("tpu_vm.sh", "create", *SLICE, "--type", kind, "--spot", "--project", "ours")
    assert command[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "create", "mine"]
    wanted = {f"--accelerator-type={kind}", f"--version={version}", "--spot", "--zone=us-west4-a", "--project=ours"}
    assert set(command[6:]) == wanted


def test_setup_copies_the_commit_and_installs_on_every_worker() -> None:
    archive, copy, install = dry("tpu_vm.sh", "setup", *SLICE)
    assert archive[:3] == ["git", "archive", "--format=tar.gz"]
    assert archive[-1] == "HEAD"
    assert copy[4:7] == ["scp", archive[3].removeprefix("--output="), "mine:jslm.tar.gz"]
    assert "--worker=all" in copy
    assert "--worker=all" in install
    remote = next(word for word in install if word.startswith("--command=")).removeprefix("--command=")
    assert subprocess.run(["bash", "-n", "-c", remote]).returncode == 0
    assert "jslm/scripts/bootstrap.sh --extras tpu,data" in remote


@pytest.mark.parametrize("detach", [False, True])
def test_every_worker_runs_the_same_words(detach: bool, tmp_path: Path) -> None:
    (command,) = dry("tpu_vm.sh", "run", *SLICE, *(["--detach"] if detach else []), *TRAIN)
    assert command[4:7] == ["ssh", "mine", "--worker=all"]
    remote = command[7].removeprefix("--command=")
    # What the worker's shell makes of it, with an interpreter that tells its arguments.
    python = tmp_path / "jslm" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$JSLM_DISTRIBUTED" "$@"\n', "utf-8")
    python.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", remote + (" wait" if detach else "")], cwd=tmp_path, capture_output=True, text=True
    )
    said = (tmp_path / "jslm" / "run.log").read_text("utf-8") if detach else done.stdout
    assert said.splitlines() == ["on", "-m", *TRAIN[1:]]


def test_slice_is_given_back() -> None:
    assert dry("tpu_vm.sh", "delete", *SLICE) == [
        ["gcloud", "compute", "tpus", "tpu-vm", "delete", "mine", "--quiet", "--zone=us-west4-a"]
    ]


def test_job_has_a_process_a_gpu() -> None:
    (command,) = dry("slurm.sh", "--nodes", "2", "--gpus", "8", "--time", "4:00:00", "--account", "ours", *TRAIN)
    assert command[0] == "sbatch"
    wanted = {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--time=4:00:00", "--account=ours"}
    assert wanted | {"--signal=TERM@120", "--requeue", "--cpus-per-task=8"} <= set(command)
    wrapped = command[-1].removeprefix("--wrap=")
    started = ["srun", "--cpus-per-task=8", "--kill-on-bad-exit=1", ".venv/bin/python", "-m"]
    assert shlex.split(wrapped.partition("; status=")[0]) == [*started, *TRAIN[1:]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tpu_vm.sh", "start", *SLICE], "unknown command start; expected create, setup, run, loop or delete"),
        (["tpu_vm.sh", "delete", "--name", "mine"], "--zone is missing"),
        (["tpu_vm.sh", "delete", "--zone", "z"], "--name is missing"),
        (["tpu_vm.sh", "delete", "--name"], "--name needs a value"),
        (["tpu_vm.sh", "create", *SLICE], "--type is missing: v5litepod-8"),
        (["tpu_vm.sh", "create", *SLICE, "--type", "v9-8"], "--type v9-8: no software is known for it"),
        (["tpu_vm.sh", "create", *SLICE, "--type", "v6e-x"], "expected a size at the end"),
        (["tpu_vm.sh", "run", *SLICE], "run needs what to run after --"),
        (["tpu_vm.sh", "loop", *SLICE, "--type", "v6e-8"], "loop needs what to run after --"),
        (["tpu_vm.sh", "setup", *SLICE, "--", "x"], "arguments after -- are for run"),
        (["tpu_vm.sh", "run", *SLICE, "--extras", "wandb", *TRAIN], "--extras and --env are for setup and loop"),
        (["tpu_vm.sh", "run", *SLICE, "jslm.train"], "unknown argument jslm.train"),
        (["slurm.sh", "--gpus", "2"], "what to run is missing"),
        (["slurm.sh", "--gpus", "none", *TRAIN], "--gpus none: expected a number of 1 or more"),
        (["slurm.sh", "--time", "--", "x"], "--time needs a value"),
        (["slurm.sh", "jslm.train"], "unknown argument jslm.train"),
    ],
)
def test_missing_arguments_are_one_line(arguments: list[str], said: str) -> None:
    done = script(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tpu_vm.sh", "delete", *SLICE], "gcloud is not installed: https://cloud.google.com/sdk/docs/install"),
        (["slurm.sh", *TRAIN], "sbatch is not here; run this on a login node"),
    ],
)
def test_missing_programs_are_one_line(arguments: list[str], said: str) -> None:
    done = script(*arguments, path="")
    assert done.returncode == 2
    assert said in done.stderr
