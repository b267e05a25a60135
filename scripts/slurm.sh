#!/usr/bin/env bash
# Submits a jslm command to SLURM, with a process a GPU, on one node or several. `--help` lists the options.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/slurm.sh [options] -- ARGUMENTS
  runs ARGUMENTS with the environment's Python in a job, such as:
    scripts/slurm.sh --gpus 8 -- jslm train --config configs/gpt2_124m.toml
options
  --nodes N         nodes (default 1)
  --gpus N          GPUs of each node (default 1)
  --cpus N          CPU cores of each GPU's process (default 8)
  --time LIMIT      such as 4:00:00 (default: the partition's)
  --partition NAME  --account NAME  --qos NAME  --constraint NAME   as sbatch takes them
  --venv DIR        the environment, on a disk that all nodes see (default .venv)
  --name NAME       the job's name (default jslm)
  --dry-run         print the command instead
Two minutes before its time is up the job is told to save. The same command then goes on; so does a requeued job.
TEXT
}

fail() {
    echo "slurm: $1" >&2
    exit 2
}

nodes=1 gpus=1 cpus=8 venv=.venv name=jslm dry_run=false
options=()
while (($#)); do
    case $1 in
        --nodes | --gpus | --cpus)
            (($# >= 2)) || fail "$1 needs a number"
            [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 $2: expected a number of 1 or more"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --venv | --name | --time | --partition | --account | --qos | --constraint)
            (($# >= 2)) && [[ $2 != -* ]] || fail "$1 needs a value"
            case $1 in
                --venv) venv=${2%/} ;;
                --name) name=$2 ;;
                *) options+=("$1=$2") ;;
            esac
            shift 2
            ;;
        --dry-run) dry_run=true && shift ;;
        -h | --help) usage && exit 0 ;;
        --) shift && break ;;
        *) fail "unknown argument $1 (--help lists what there is; what goes to jslm comes after --)" ;;
    esac
done
(($#)) || fail "what to run is missing: it comes after --, such as: -- jslm train --config FILE"
if ! $dry_run; then
    command -v sbatch >/dev/null || fail "sbatch is not here; run this on a login node of the cluster"
    [[ -x $venv/bin/python ]] || fail "$venv/bin/python is not there; make it with scripts/bootstrap.sh --extras cuda13,data"
fi

# Quoted for the job's shell. Without a batch script's "B:", the signal reaches the processes themselves.
# srun has not taken over sbatch's --cpus-per-task since SLURM 22.05.
printf -v program '%q ' srun "--cpus-per-task=$cpus" --kill-on-bad-exit=1 "$venv/bin/python" -m "$@"
submit=(
    sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" "--cpus-per-task=$cpus"
    --signal=TERM@120 --requeue --open-mode=append "--output=$name-%j.log"
    ${options[@]+"${options[@]}"} "--wrap=${program% }"
)
if $dry_run; then
    printf '%q ' "${submit[@]}"
    printf '\n'
else
    "${submit[@]}"
fi
