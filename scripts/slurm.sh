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
  --requeues N      how often a job whose time was up, or that was told to stop, is put in the queue again (default 100)
  --dry-run         print the command instead
Two minutes before its time is up the job is told to save; it is then queued again, and goes on where it was, from
run_dir, which may be in a bucket (s3://..., gs://...). Where the controller does not answer, the submission is tried
again after $JSLM_RETRY_SECONDS (10), and twice as long, 5 times.
TEXT
}

fail() {
    echo "slurm: $1" >&2
    exit 2
}

nodes=1 gpus=1 cpus=8 requeues=100 venv=.venv name=jslm dry_run=false
options=()
while (($#)); do
    case $1 in
        --nodes | --gpus | --cpus | --requeues)
            (($# >= 2)) || fail "$1 needs a number"
            [[ $2 =~ ^[1-9][0-9]*$ || $1$2 == --requeues0 ]] || fail "$1 $2: expected a number of 1 or more"
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
# 143 is jslm's word for "told to stop, and saved". SLURM puts a job in the queue again by itself where a node fails or a
# job of higher rank comes, not where its time is up.
again="[ \$status = 143 ] && [ \"\${SLURM_RESTART_COUNT:-0}\" -lt $requeues ] && scontrol requeue \"\$SLURM_JOB_ID\""
script="${program% }; status=\$?; $again; exit \$status"
submit=(
    sbatch "--job-name=$name" "--nodes=$nodes" "--ntasks-per-node=$gpus" "--gpus-per-node=$gpus" "--cpus-per-task=$cpus"
    --signal=TERM@120 --requeue --open-mode=append "--output=$name-%j.log"
    ${options[@]+"${options[@]}"} "--wrap=$script"
)
if $dry_run; then
    printf '%q ' "${submit[@]}"
    printf '\n'
else
    wait=${JSLM_RETRY_SECONDS:-10}
    for try in 1 2 3 4 5 6; do
        status=0
        errors=$("${submit[@]}" 2>&1 >&3) || status=$?
        ((status == 0)) && break
        if ((try < 6)) && grep -qiE 'unable to contact|temporarily unable|timed out|connection refused' <<<"$errors"; then
            echo "slurm: the controller does not answer; trying again in $wait s" >&2
            sleep "$wait"
            wait=$((wait * 2))
            continue
        fi
        fail "sbatch refused the job: $(tail -n 1 <<<"$errors")"
    done 3>&1
    [[ -z $errors ]] || echo "$errors" >&2
fi
