"""The launchers' loops against `gcloud` and `sbatch` that fail as the real ones do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
Fake = Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]
STOCKOUT = (
    'ERROR: (gcloud.compute.tpus.tpu-vm.create) { "code": 8, "message": "There is no more capacity in the zone '
    '\\"us-west4-a\\"; you can try in another zone where Cloud TPU Nodes are offered" }'
)
QUOTA = (
    "ERROR: (gcloud.compute.tpus.tpu-vm.create) RESOURCE_EXHAUSTED: Quota limit "
    "'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0 in zone us-west4-a."
)
EXISTS = "ERROR: (gcloud.compute.tpus.tpu-vm.create) ALREADY_EXISTS: Resource already exists"
# Each call takes a line of the file of its verb: exit status, the slice's state from then on, what goes to stderr.
GCLOUD = r"""#!/usr/bin/env bash
verb=$4
[[ $verb == ssh && "$*" == *bootstrap.sh* ]] && verb=install
[[ $verb == describe ]] || echo "$verb" >>"$FAKE/calls"
echo "$*" >>"$FAKE/words"
[[ $verb == scp && $5 == *.env ]] && cp -p "$5" "$FAKE/home/jslm.env"
if [[ $verb == describe ]]; then cat "$FAKE/state"; exit; fi
IFS='|' read -r status state said <"$FAKE/$verb" || { status=0; state=; said=; }
[[ -f $FAKE/$verb ]] && sed -i 1d "$FAKE/$verb"
[[ $verb == create && $status == 0 && -z $state ]] && state=READY
[[ -z $state ]] || echo "$state" >"$FAKE/state"
[[ -z $said ]] || echo "$said" >&2
exit "$status"
"""
# Runs the job at once, and again while it is put in the queue again, as the controller does.
SBATCH = r"""#!/usr/bin/env bash
echo sbatch >>"$FAKE/calls"
if read -r said <"$FAKE/sbatch.errors" 2>/dev/null; then sed -i 1d "$FAKE/sbatch.errors"; echo "$said" >&2; exit 1; fi
for word in "$@"; do [[ $word == --wrap=* ]] && wrap=${word#--wrap=}; done
export SLURM_JOB_ID=7 SLURM_RESTART_COUNT=0
while :; do
    rm -f "$FAKE/requeued"
    bash -c "$wrap"
    [[ -f $FAKE/requeued ]] || break
    SLURM_RESTART_COUNT=$((SLURM_RESTART_COUNT + 1))
done
echo "Submitted batch job 7"
"""
SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >>"$FAKE/calls"
touch "$FAKE/requeued"
"""
PYTHON = r"""#!/usr/bin/env bash
echo "python $*" >>"$FAKE/calls"
read -r status <"$FAKE/python" || status=0
sed -i 1d "$FAKE/python"
exit "$status"
"""


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """`fake(script, arguments, create=[lines], ...)`: the finished script, and what it called."""
    programs = {"gcloud": GCLOUD, "sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}
    for name, text in {**programs, "git": "#!/bin/sh\n", "venv/bin/python": PYTHON}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        path.chmod(0o755)

    def run(name: str, arguments: list[str], **lines: list[str]) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        for verb, entries in {"state": [""], "python": [], **lines}.items():
            (tmp_path / verb.replace("_", ".")).write_text("".join(f"{entry}\n" for entry in entries), "utf-8")
        environment = os.environ | {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE": str(tmp_path), "JSLM_RETRY_SECONDS": "0",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(ROOT / "scripts" / name), *arguments],
            capture_output=True,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        return done, (tmp_path / "calls").read_text("utf-8").splitlines()

    return run


SLICE = ["loop", "--name", "mine", "--zone", "us-west4-a", "--type", "v5litepod-8", "--spot"]
RUN = ["--", "jslm", "train", "--config", "mine.toml", "run_dir=gs://bucket/mine"]
WHOLE = ["create", "scp", "install", "ssh"]


def test_slice_is_asked_for_again_when_it_is_taken_away(fake: Fake) -> None:
    done, calls = fake(
        "tpu_vm.sh",
        [*SLICE, *RUN],
        create=[f"1||{STOCKOUT}", f"1||{STOCKOUT}", "0|READY|"],
        ssh=["255|PREEMPTED|kex_exchange_identification: Connection closed by remote host", "143|READY|", "0||"],
    )
    assert done.returncode == 0, done.stderr
    assert calls == ["create", "create", *WHOLE, "delete", *WHOLE, *WHOLE, "delete"]
    assert done.stderr.count("us-west4-a has no v5litepod-8 left; asking again in 0 s") == 2
    assert done.stderr.count("the slice was taken away; asking for another") == 1
    assert "stopped with status 143; going on in 0 s" in done.stderr


def test_slice_that_is_lost_while_it_is_set_up_is_asked_for_again(fake: Fake) -> None:
    done, calls = fake(
        "tpu_vm.sh", [*SLICE, *RUN], install=["255|PREEMPTED|"], create=["0|READY|", f"1|FAILED|{EXISTS}", "0|READY|"]
    )
    assert done.returncode == 0, done.stderr
    assert calls == ["create", "scp", "install", "delete", "create", "delete", *WHOLE, "delete"]


@pytest.mark.parametrize(
    ("lines", "said", "calls"),
    [
        ({"create": [f"1||{QUOTA}"]}, "no quota for v5litepod-8 in us-west4-a, so waiting won't help", ["create"]),
        ({"create": [f"1||{STOCKOUT}"] * 20}, "us-west4-a had no v5litepod-8 left 16 times", ["create"] * 16),
        ({"create": ["1||ERROR: PERMISSION_DENIED: no"]}, "tpu_vm: ERROR: PERMISSION_DENIED: no", ["create"]),
        (
            {"ssh": ["2|READY|jslm train: error: x"]},
            "the command failed with status 2; the slice is still there",
            WHOLE,
        ),
        ({"ssh": ["255|READY|"] * 20}, "10 times the connection was lost", WHOLE * 10),
    ],
)
def test_what_waiting_does_not_mend_ends_the_loop(
    lines: dict[str, list[str]], said: str, calls: list[str], fake: Fake
) -> None:
    done, made = fake("tpu_vm.sh", [*SLICE, *RUN], **lines)
    assert done.returncode == 2
    assert said in done.stderr.splitlines()[-1]
    # What is there already is what `create` says of it.
    assert [call for call in made if call != "create"] == [call for call in calls if call != "create"]


JOB = ["--venv", "VENV", "--requeues", "3", "--", "jslm", "train", "--config", "mine.toml", "run_dir=s3://bucket/mine"]
TRAIN = "python -m jslm train --config mine.toml run_dir=s3://bucket/mine"


@pytest.mark.parametrize(
    ("statuses", "calls"),
    [
        (["143", "143", "0"], [TRAIN, "requeue 7", TRAIN, "requeue 7", TRAIN]),
        (["2"], [TRAIN]),
        (["143"] * 9, [TRAIN, "requeue 7"] * 3 + [TRAIN]),
    ],
)
def test_job_whose_time_is_up_is_queued_again(
    statuses: list[str], calls: list[str], fake: Fake, tmp_path: Path
) -> None:
    job = [str(tmp_path / "venv") if word == "VENV" else word for word in JOB]
    done, made = fake("slurm.sh", job, python=statuses)
    assert (done.returncode, made) == (0, ["sbatch", *calls]), done.stderr
    assert "Submitted batch job 7" in done.stdout


@pytest.mark.parametrize(
    ("errors", "status", "said", "tries"),
    [
        (["sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"] * 2, 0,
         "the controller does not answer; trying again in 0 s", 3),
        (["sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"] * 9, 2,
         "sbatch refused the job: sbatch: error: Batch job submission failed: Socket timed out", 6),
        (["sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified"], 2,
         "sbatch refused the job: sbatch: error: Batch job submission failed: Invalid account", 1),
        (["sbatch: error: QOSMaxSubmitJobPerUserLimit"], 2, "QOSMaxSubmitJobPerUserLimit", 1),
    ],
)  # fmt: skip
def test_sbatch_is_asked_again_only_where_that_helps(
    errors: list[str], status: int, said: str, tries: int, fake: Fake, tmp_path: Path
) -> None:
    job = [str(tmp_path / "venv") if word == "VENV" else word for word in JOB]
    done, made = fake("slurm.sh", job, python=["0"], sbatch_errors=errors)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert made.count("sbatch") == tries


def test_variables_travel_in_a_file_and_extras_are_installed(
    fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home" / "jslm" / ".venv" / "bin").mkdir(parents=True)
    monkeypatch.setenv("WANDB_API_KEY", "it's a $ecret")
    done, calls = fake("tpu_vm.sh", [*SLICE, "--extras", "wandb", "--env", "WANDB_API_KEY", *RUN])
    assert done.returncode == 0, done.stderr
    assert calls == ["create", "scp", "scp", "install", "ssh", "delete"]
    copied = tmp_path / "home" / "jslm.env"
    assert copied.stat().st_mode & 0o077 == 0
    words = (tmp_path / "words").read_text("utf-8")
    assert "ecret" not in words + done.stdout + done.stderr
    assert "--extras tpu,data,cloud,wandb" in words
    # What the worker's shell makes of it, with an interpreter that tells its environment.
    python = tmp_path / "home" / "jslm" / ".venv" / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$WANDB_API_KEY"\n', "utf-8")
    python.chmod(0o755)
    (remote,) = (line.partition("--command=")[2] for line in words.splitlines() if "JSLM_DISTRIBUTED" in line)
    command = remote.partition(" --zone=")[0]
    told = subprocess.run(["bash", "-c", command], cwd=tmp_path / "home", capture_output=True, text=True)
    assert told.stdout == "it's a $ecret\n", told.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "JSLM_NO_SUCH"], "--env JSLM_NO_SUCH: no such variable here, or it is empty"),
        (["--env", "KEY=value"], "--env KEY=value: expected the name of a variable, without its value"),
        (["--extras", "wandb; rm"], "--extras wandb; rm: expected names with commas between"),
    ],
)
def test_variables_and_extras_are_checked(fake: Fake, arguments: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "calls").touch()
    done, calls = fake("tpu_vm.sh", [*SLICE, *arguments, *RUN])
    assert done.returncode == 2
    assert done.stderr.startswith(f"tpu_vm: {message}")
    assert calls == []
