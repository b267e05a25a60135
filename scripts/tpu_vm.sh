#!/usr/bin/env bash
# One Cloud TPU VM or a pod slice, from a checkout of jslm: create, setup, run, delete. `--help` lists the options.
# docs/accelerators.md says which type and mesh to take.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/tpu_vm.sh COMMAND --name NAME --zone ZONE [options] [-- ARGUMENTS]
  create   ask for the slice and wait until it is there (--type; --spot is cheaper and may be taken away)
  setup    copy this checkout's last commit to every worker and install it there (again after a change)
  run      run ARGUMENTS, such as jslm train --config FILE, on every worker, and wait
  delete   give the slice back; what is on its disks is lost
options
  --name NAME      what the slice is called
  --zone ZONE      such as us-west4-a
  --type TYPE      v5litepod-8, v5p-8, v6e-8 and larger; the number is chips (v5p: cores, two a chip)
  --version NAME   the VM's software (default: what Google names for the type)
  --project NAME   the Google Cloud project (default: gcloud's)
  --spot           for create: a spot slice
  --detach         for run: leave it running, with its output in ~/jslm/run.log on each worker
  --dry-run        print the commands instead
Needs the Google Cloud CLI (gcloud), logged in. The same run command goes on with a run after an interruption.
TEXT
}

fail() {
    echo "tpu_vm: $1" >&2
    exit 2
}

do_it() {
    if $dry_run; then
        printf '%q ' "$@"
        printf '\n'
    else
        "$@"
    fi
}

tpu() {
    local verb=$1
    shift
    do_it gcloud compute tpus tpu-vm "$verb" "$@" "--zone=$zone" ${project:+"--project=$project"}
}

on_all() {
    tpu ssh "$name" --worker=all "--command=$1"
}

(($#)) || { usage && exit 2; }
command=$1 && shift
case $command in
    create | setup | run | delete) ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown command $command; expected create, setup, run or delete" ;;
esac
name="" zone="" type="" version="" project="" spot=false detach=false dry_run=false
while (($#)); do
    case $1 in
        --name | --zone | --type | --version | --project)
            (($# >= 2)) && [[ $2 != -* ]] || fail "$1 needs a value"
            case $1 in
                --name) name=$2 ;;
                --zone) zone=$2 ;;
                --type) type=$2 ;;
                --version) version=$2 ;;
                --project) project=$2 ;;
            esac
            shift 2
            ;;
        --spot) spot=true && shift ;;
        --detach) detach=true && shift ;;
        --dry-run) dry_run=true && shift ;;
        -h | --help) usage && exit 0 ;;
        --) shift && break ;;
        *) fail "unknown argument $1 (--help lists what there is; what goes to jslm comes after --)" ;;
    esac
done
[[ -n $name ]] || fail "--name is missing: what the slice is called"
[[ -n $zone ]] || fail "--zone is missing: where the slice is, such as us-west4-a (gcloud compute tpus locations list)"
if [[ $command != run && $# -gt 0 ]]; then fail "arguments after -- are for run, not for $command"; fi
if [[ $command == create ]]; then
    case $type in
        "") fail "--type is missing: v5litepod-8, v5p-8, v6e-8 or larger" ;;
        v5litepod-*) version=${version:-v2-alpha-tpuv5-lite} ;;
        v5p-*) version=${version:-v2-alpha-tpuv5} ;;
        v6e-*) version=${version:-v2-alpha-tpuv6e} ;;
        *) [[ -n $version ]] || fail "--type $type: no software is known for it; give --version too" ;;
    esac
    [[ $type =~ -[0-9]+$ ]] || fail "--type $type: expected a size at the end, such as v5litepod-8"
fi
if [[ $command == run && $# -eq 0 ]]; then fail "run needs what to run after --, such as: -- jslm train --config FILE"; fi
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

case $command in
    create)
        arguments=("$name" "--accelerator-type=$type" "--version=$version")
        if $spot; then arguments+=(--spot); fi
        tpu create "${arguments[@]}"
        ;;
    setup)
        cd "$(dirname "${BASH_SOURCE[0]}")/.."
        archive=$(mktemp -d)/jslm.tar.gz
        trap 'rm -rf "${archive%/*}"' EXIT
        do_it git archive --format=tar.gz "--output=$archive" HEAD
        tpu scp "$archive" "$name:jslm.tar.gz" --worker=all
        # The VMs' own Python is 3.10. uv brings one, and bootstrap.sh makes the environment as everywhere.
        on_all 'set -e; mkdir -p jslm; tar -xzf jslm.tar.gz -C jslm; python3 -m pip install --user --quiet uv; export PATH=$HOME/.local/bin:$PATH; uv python install --quiet 3.12; JSLM_PYTHON=$(uv python find 3.12) jslm/scripts/bootstrap.sh --extras tpu,data'
        ;;
    run)
        printf -v arguments '%q ' "$@"
        # Every worker runs the same program, and JSLM_DISTRIBUTED has it find the others.
        program="cd jslm && JSLM_DISTRIBUTED=on .venv/bin/python -m ${arguments% }"
        if $detach; then
            on_all "cd jslm && JSLM_DISTRIBUTED=on nohup .venv/bin/python -m ${arguments% } >run.log 2>&1 </dev/null &"
        else
            on_all "$program"
        fi
        ;;
    delete) tpu delete "$name" --quiet ;;
esac
