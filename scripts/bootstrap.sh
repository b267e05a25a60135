#!/usr/bin/env bash
# Makes a virtual environment and installs jslm in it, at the versions of constraints.txt.
# Does nothing when the environment is already right. `--help` lists the options.
set -euo pipefail

# Builtins only up to --which: it must work on the barest PATH.
if [[ ${BASH_SOURCE[0]} == */* ]]; then cd "${BASH_SOURCE[0]%/*}"; fi
cd ..

usage() {
    cat <<'TEXT'
usage: scripts/bootstrap.sh [--extras LIST] [--venv DIR] [--python VERSION] [--which]
  --extras LIST     extras of pyproject.toml, comma-separated, such as dev,cuda12 (default: none)
  --venv DIR        the environment's folder (default: .venv)
  --python VERSION  3.11, 3.12 or 3.13 (default: what the environment has, else the newest that works here)
  --which           print the interpreter that would be chosen, and stop
JSLM_PYTHON=/path/to/python in the environment names an interpreter to use before all others.
TEXT
}

fail() {
    echo "bootstrap: $1" >&2
    exit "${2:-1}"
}

# Prints "3.13" for an interpreter that runs and can make environments; pyenv's shims exist for versions that don't run.
# Free-threaded builds are left out: several dependencies have no wheels for them.
usable_version() {
    "$1" -c '
import ensurepip, sys, sysconfig, venv
if sys.version_info < (3, 11) or sysconfig.get_config_var("Py_GIL_DISABLED"):
    sys.exit(1)
print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# Every interpreter that may serve, best first: a newer version earlier, PATH before pyenv's own folders.
candidates() {
    local version name path
    if [[ -n ${JSLM_PYTHON:-} ]]; then echo "$JSLM_PYTHON"; fi
    for version in 3.13 3.12 3.11; do
        type -ap "python$version" || true
        for path in "${PYENV_ROOT:-${HOME:-/nonexistent}/.pyenv}/versions/$version".*/bin/python3; do
            if [[ -x $path ]]; then echo "$path"; fi
        done
    done
    for name in python3 python; do type -ap "$name" || true; done
}

# Prints the chosen interpreter. An exact version beats a newer one that the tests don't know.
choose_python() {
    local wanted_versions=("$@") wanted candidate version i
    local -a found=() found_versions=()
    while IFS= read -r candidate; do
        # The environment being made can't be its own maker: it may be deleted first.
        [[ $candidate == "$PWD/$venv/"* || $candidate == "$venv/"* ]] && continue
        version=$(usable_version "$candidate") || continue
        if [[ $version == "${wanted_versions[0]}" ]]; then
            echo "$candidate"
            return 0
        fi
        found+=("$candidate")
        found_versions+=("$version")
    done < <(candidates)
    for wanted in "${wanted_versions[@]}"; do
        for ((i = 0; i < ${#found[@]}; i++)); do
            if [[ $wanted == any || ${found_versions[i]} == "$wanted" ]]; then
                echo "${found[i]}"
                return 0
            fi
        done
    done
    return 1
}

extras="" venv=.venv python_version="" which_only=false
while (($#)); do
    case $1 in
        --extras | --venv | --python)
            (($# >= 2)) || fail "$1 needs a value" 2
            case $1 in
                --extras) extras=$2 ;;
                --venv) venv=${2%/} ;;
                --python) python_version=$2 ;;
            esac
            shift 2
            ;;
        --which) which_only=true && shift ;;
        -h | --help) usage && exit 0 ;;
        *) fail "unknown argument $1 (--help lists what there is)" 2 ;;
    esac
done
if [[ -n $python_version && ! $python_version =~ ^3\.[0-9]+$ ]]; then
    fail "--python $python_version is not a version such as 3.12" 2
fi

interpreter=""
if [[ -n $python_version ]]; then
    interpreter=$(choose_python "$python_version") ||
        fail "no working Python $python_version with venv and ensurepip; install it, or set JSLM_PYTHON to its path"
elif [[ -n ${JSLM_PYTHON:-} ]]; then
    usable_version "$JSLM_PYTHON" >/dev/null ||
        fail "JSLM_PYTHON=$JSLM_PYTHON is not a working Python 3.11 or newer with venv and ensurepip"
    interpreter=$JSLM_PYTHON
elif $which_only || [[ ! -x $venv/bin/python ]] || ! usable_version "$venv/bin/python" >/dev/null; then
    interpreter=$(choose_python 3.13 3.12 3.11 any) ||
        fail "no working Python 3.11, 3.12 or 3.13 with venv and ensurepip; install one, or set JSLM_PYTHON to its path"
fi
if $which_only; then
    echo "$interpreter"
    exit 0
fi

# pip only warns of an extra that does not exist.
known=$(sed -n '/^\[project.optional-dependencies\]/,/^\[/s/^\([a-z0-9]*\) = .*/\1/p' pyproject.toml | paste -sd' ' -)
for extra in ${extras//,/ }; do
    [[ " $known " == *" $extra "* ]] || fail "there is no extra $extra; use some of: $known" 2
done

stamp=$venv/.jslm-bootstrap
current=$(usable_version "$venv/bin/python" || true)
if [[ -n $interpreter && $current != "$(usable_version "$interpreter")" ]]; then
    if [[ -e $venv && ! -e $venv/pyvenv.cfg ]]; then
        fail "$venv exists and is not a virtual environment; choose another folder with --venv"
    fi
    "$interpreter" -m venv --clear "$venv"
    current=$(usable_version "$venv/bin/python")
fi

# Extras add up over calls, so that `make test` after `make install EXTRAS=cuda12` keeps both.
installed=""
if [[ -f $stamp ]]; then installed=$(sed -n 2p "$stamp"); fi
extras=$(echo "$extras,$installed" | tr ', ' '\n\n' | sort -u | sed '/^$/d' | paste -sd, -)
# The folder counts: an editable install points at it, and a moved checkout needs a new one.
wanted=$(cat pyproject.toml constraints.txt jslm/__init__.py <(echo "$PWD $current") | cksum)
if [[ -f $stamp && $(cat "$stamp") == "$wanted"$'\n'"$extras" ]]; then
    exit 0
fi

target=.
if [[ -n $extras ]]; then target=".[$extras]"; fi
echo "bootstrap: Python $current in $venv: installing jslm${extras:+ with $extras} (about a minute the first time)"
rm -f "$stamp"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! PIP_DISABLE_PIP_VERSION_CHECK=1 "$venv/bin/python" -m pip install -c constraints.txt -e "$target" >"$log" 2>&1; then
    cat "$log" >&2
    fail "pip could not install jslm; its output is above"
fi
printf '%s\n%s\n' "$wanted" "$extras" >"$stamp"
