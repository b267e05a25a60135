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
  loop     create, setup and run; when the slice is taken away, all of it again, until ARGUMENTS end well; then delete.
           What goes on is a run in a bucket: run_dir=gs://BUCKET/RUN
  delete   give the slice back; what is on its disks is lost
options
  --name NAME      what the slice is called
  --zone ZONE      such as us-west4-a
  --type TYPE      v5litepod-8, v5p-8, v6e-8 and larger; the number is chips (v5p: cores, two a chip)
  --version NAME   the VM's software (default: what Google names for the type)
  --project NAME   the Google Cloud project (default: gcloud's)
  --spot           for create and loop: a spot slice
  --extras LIST    for setup and loop: extras of pyproject.toml besides tpu, data and cloud, such as wandb
  --env NAME       for setup and loop: a variable of this shell that ARGUMENTS shall have there, such as WANDB_API_KEY;
                   repeatable. It travels in a file that only you can read, not in a command line
  --detach         for run: leave it running, with its output in ~/jslm/run.log on each worker
  --dry-run        print the commands instead
Needs the Google Cloud CLI (gcloud), logged in. The same run command goes on with a run after an interruption. loop
waits where a zone has no slice left: $JSLM_RETRY_SECONDS (60), then twice as long, up to 16 times.
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
    create | setup | run | loop | delete) ;;
    -h | --help) usage && exit 0 ;;
    *) fail "unknown command $command; expected create, setup, run, loop or delete" ;;
esac
name="" zone="" type="" version="" project="" spot=false detach=false dry_run=false extras=tpu,data,cloud
variables=()
while (($#)); do
    case $1 in
        --name | --zone | --type | --version | --project | --extras | --env)
            (($# >= 2)) && [[ $2 != -* ]] || fail "$1 needs a value"
            case $1 in
                --name) name=$2 ;;
                --zone) zone=$2 ;;
                --type) type=$2 ;;
                --version) version=$2 ;;
                --project) project=$2 ;;
                --extras)
                    [[ $2 =~ ^[a-z0-9]+(,[a-z0-9]+)*$ ]] || fail "--extras $2: expected names with commas between, such as wandb"
                    extras+=,$2
                    ;;
                --env)
                    [[ $2 =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] || fail "--env $2: expected the name of a variable, without its value"
                    [[ -n ${!2:-} ]] || fail "--env $2: no such variable here, or it is empty: export $2=... first"
                    variables+=("$2")
                    ;;
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
if [[ $command != run && $command != loop && $# -gt 0 ]]; then fail "arguments after -- are for run, not for $command"; fi
if [[ $command != setup && $command != loop && (${#variables[@]} -gt 0 || $extras != tpu,data,cloud) ]]; then
    fail "--extras and --env are for setup and loop, not for $command"
fi
if [[ $command == create || $command == loop ]]; then
    case $type in
        "") fail "--type is missing: v5litepod-8, v5p-8, v6e-8 or larger" ;;
        v5litepod-*) version=${version:-v2-alpha-tpuv5-lite} ;;
        v5p-*) version=${version:-v2-alpha-tpuv5} ;;
        v6e-*) version=${version:-v2-alpha-tpuv6e} ;;
        *) [[ -n $version ]] || fail "--type $type: no software is known for it; give --version too" ;;
    esac
    [[ $type =~ -[0-9]+$ ]] || fail "--type $type: expected a size at the end, such as v5litepod-8"
fi
if [[ $command == run || $command == loop ]] && (($# == 0)); then fail "$command needs what to run after --, such as: -- jslm train --config FILE"; fi
$dry_run || command -v gcloud >/dev/null || fail "gcloud is not installed: https://cloud.google.com/sdk/docs/install"

create_slice() {
    local arguments=("$name" "--accelerator-type=$type" "--version=$version")
    if $spot; then arguments+=(--spot); fi
    tpu create "${arguments[@]}"
}

set_up() {
    cd "$(dirname "${BASH_SOURCE[0]}")/.."
    archive=$(mktemp -d)/jslm.tar.gz
    trap 'rm -rf "${archive%/*}"' EXIT
    do_it git archive --format=tar.gz "--output=$archive" HEAD || return
    tpu scp "$archive" "$name:jslm.tar.gz" --worker=all || return
    if ((${#variables[@]})); then
        (umask 077 && for variable in "${variables[@]}"; do printf 'export %s=%q\n' "$variable" "${!variable}"; done >"${archive%/*}/jslm.env") || return
        tpu scp "${archive%/*}/jslm.env" "$name:jslm.env" --worker=all || return
    fi
    rm -rf "${archive%/*}"
    # The VMs' own Python is 3.10. uv brings one, and bootstrap.sh makes the environment as everywhere.
    on_all 'set -e; mkdir -p jslm; tar -xzf jslm.tar.gz -C jslm; python3 -m pip install --user --quiet uv; export PATH=$HOME/.local/bin:$PATH; uv python install --quiet 3.12; JSLM_PYTHON=$(uv python find 3.12) jslm/scripts/bootstrap.sh --extras '"$extras"
}

run_program() {
    local arguments
    printf -v arguments '%q ' "$@"
    # Every worker runs the same program, and JSLM_DISTRIBUTED has it find the others.
    if $detach; then
        on_all "[ ! -f jslm.env ] || . ./jslm.env; cd jslm && JSLM_DISTRIBUTED=on nohup .venv/bin/python -m ${arguments% } >run.log 2>&1 </dev/null &"
    else
        on_all "[ ! -f jslm.env ] || . ./jslm.env; cd jslm && JSLM_DISTRIBUTED=on .venv/bin/python -m ${arguments% }"
    fi
}

delete_slice() {
    tpu delete "$name" --quiet
}

say() {
    echo "tpu_vm: $1" >&2
}

# READY, PREEMPTED, TERMINATED, ...; empty where there is no such slice.
state() {
    gcloud compute tpus tpu-vm describe "$name" "--zone=$zone" ${project:+"--project=$project"} '--format=value(state)' 2>/dev/null || true
}

# Asks until the slice is there. Waiting helps where the zone has none left, and nowhere else.
create_patiently() {
    local wait=$retry tries=1 errors
    while ! errors=$(create_slice 2>&1 >&3); do
        if grep -qiE 'already exists|ALREADY_EXISTS' <<<"$errors"; then
            [[ $(state) == READY ]] && return
            delete_slice >&3 || sleep "$wait"
            continue
        fi
        if grep -qi 'quota' <<<"$errors"; then
            fail "no quota for $type in $zone, so waiting won't help: ask for it in the console, or take another --type or --zone ($(tail -n 1 <<<"$errors"))"
        fi
        grep -qiE 'no more capacity|stockout|RESOURCE_EXHAUSTED|UNAVAILABLE|INTERNAL' <<<"$errors" || fail "$(tail -n 1 <<<"$errors")"
        if ((tries == 16)); then fail "$zone had no $type left 16 times; try another --zone, or come back later"; fi
        say "$zone has no $type left; asking again in $wait s"
        sleep "$wait"
        wait=$((wait * 2 > 600 ? 600 : wait * 2)) tries=$((tries + 1))
    done 3>&1
}

# The whole loop: what ends a run is told by what has become of the slice, since a lost connection hides its status.
keep_running() {
    local status lost=0
    while :; do
        create_patiently
        status=0
        set_up && run_program "$@" || status=$?
        ((status == 0)) && break
        case $(state) in
            READY)
                # 143: stopped by SIGTERM, as before maintenance; 255: ssh lost the connection.
                if ((status != 143 && status != 255)); then
                    say "the command failed with status $status; the slice is still there: look, mend, and start the loop again, or: $0 delete --name $name --zone $zone"
                    exit "$status"
                fi
                lost=$((lost + 1))
                if ((lost == 10)); then fail "10 times the connection was lost or the command stopped, with the slice still there; look at it: gcloud compute tpus tpu-vm ssh $name --zone=$zone"; fi
                say "stopped with status $status; going on in $retry s"
                sleep "$retry"
                ;;
            *)
                say "the slice was taken away; asking for another"
                delete_slice || true
                ;;
        esac
    done
    delete_slice
}

retry=${JSLM_RETRY_SECONDS:-60}
case $command in
    create) create_slice ;;
    setup) set_up ;;
    run) run_program "$@" ;;
    loop)
        $detach && fail "--detach is for run; loop waits, to start again what is taken away"
        if $dry_run; then
            create_slice && set_up && run_program "$@" && delete_slice
        else
            keep_running "$@"
        fi
        ;;
    delete) delete_slice ;;
esac
