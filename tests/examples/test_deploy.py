"""The deployment examples: what systemd and a Dockerfile linter say of them, and that their commands are jslm's."""

from __future__ import annotations

import configparser
import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jslm.serve.__main__ import _parser

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "examples" / "deploy"


def instructions(path: Path) -> list[tuple[str, str]]:
    """(instruction, its arguments) of a Dockerfile, with lines joined and comments left out."""
    lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


def unit() -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read_string((DEPLOY / "jslm.service").read_text("utf-8"))
    return found


def test_the_unit_starts_the_server_that_is_here() -> None:
    service = unit()["Service"]
    program, verb, *words = shlex.split(service["ExecStart"])
    assert (Path(program).name, verb) == ("jslm", "serve")
    args = _parser().parse_intermixed_args(words)
    state, logs, cache = (f"/var/{kind}/{service[name]}" for kind, name in (
        ("lib", "StateDirectory"), ("log", "LogsDirectory"), ("cache", "CacheDirectory"),
    ))  # fmt: skip
    # With ProtectSystem=strict nothing else can be written; what is read stands where the unit's comment says.
    assert service["ProtectSystem"] == "strict"
    assert args.request_log.startswith(f"{logs}/")
    assert args.run[0].startswith(f"{state}/")
    assert f"JAX_COMPILATION_CACHE_DIR={cache}" in service["Environment"].split()
    assert args.keys == f"%d/{service['LoadCredential'].partition(':')[0]}"
    # systemd's patience is longer than the drain and the server's last words.
    assert int(service["TimeoutStopSec"]) > args.drain_seconds + 10
    assert "-HUP" in service["ExecReload"]
    assert {"DynamicUser", "NoNewPrivileges", "ProtectHome", "PrivateTmp", "SystemCallFilter"} <= set(service)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (DEPLOY / "jslm.service").read_text("utf-8")
    # The program has to be there for systemd to be content.
    path = tmp_path / "jslm.service"
    path.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE), "utf-8")
    verify = ["systemd-analyze", "verify", "--man=no", str(path)]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    # It does see what is wrong.
    path.write_text(path.read_text("utf-8").replace("PrivateTmp=yes", "PrivateTemp=yes\nTimeoutStopSec=soon"), "utf-8")
    said = subprocess.run(verify, capture_output=True, text=True).stderr
    assert "PrivateTemp" in said
    assert "Failed to parse time value, ignoring: soon" in said


def test_the_image_has_what_it_copies_and_starts_the_server() -> None:
    found = instructions(DEPLOY / "Dockerfile")
    values = dict(rest.split("=", 1) for word, rest in found if word == "ARG")
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    kept = [line[1:] for line in ignored if line.startswith("!")]
    assert next(line for line in ignored if not line.startswith("#")) == "*"
    for rest in (rest for word, rest in found if word == "COPY"):
        *sources, target = [part for part in rest.split() if not part.startswith("--")]
        assert target.startswith("/")
        for source in sources:
            source = re.sub(r"\$\{(\w+)\}", lambda match: values[match[1]], source)
            # The model is the user's own.
            assert source.startswith("runs/") or (ROOT / source).exists(), source
            # The context has it.
            assert any(fnmatch.fnmatch(each, f"{source}*") or source.startswith(f"{each}/") for each in kept), source
    words = dict(found)
    command = [*json.loads(words["ENTRYPOINT"]), *json.loads(words["CMD"])]
    assert command[:2] == ["jslm", "serve"]
    args = _parser().parse_intermixed_args(command[2:])
    assert words["USER"] not in ("0", "root")
    assert words["EXPOSE"] == str(args.port)
    assert args.host == "0.0.0.0"
    assert args.keys is not None
    copied = next(rest for word, rest in found if word == "COPY" and "${RUN}" in rest)
    assert copied.split()[-1] == args.run[0]
    check = json.loads(words["HEALTHCHECK"].partition("CMD ")[2])
    assert f"http://127.0.0.1:{args.port}/healthz" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")
    install = next(rest for word, rest in found if word == "RUN")
    assert "--constraint /src/constraints.txt" in install
    extra = re.search(r"/src\[(\w+)\]", install)
    assert extra is not None
    assert f"\n{extra[1]} = [" in (ROOT / "pyproject.toml").read_text("utf-8")


def test_what_the_wheel_takes_is_in_the_context() -> None:
    """setup.py ships these; an image without them lacks presets."""
    shipped = re.findall(r'^    "(.*)",$', (ROOT / "setup.py").read_text("utf-8").split(")\n")[0], re.MULTILINE)
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "configs/*.toml" in shipped
    for pattern in shipped:
        assert f"!{pattern}" in kept or f"!{pattern.split('/')[0]}" in kept, pattern


def test_hadolint_takes_the_image(tmp_path: Path) -> None:
    beside = Path(sys.executable).parent / "hadolint"
    program = str(beside) if beside.exists() else shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed: make dev")
    done = subprocess.run([program, str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
    worse = tmp_path / "Dockerfile"
    worse.write_text((DEPLOY / "Dockerfile").read_text("utf-8").replace("--no-cache-dir ", ""), "utf-8")
    assert "DL3042" in subprocess.run([program, str(worse)], capture_output=True, text=True).stdout
