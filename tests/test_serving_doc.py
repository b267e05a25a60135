"""Every command of docs/serving.md, as far as it goes without a model, a certificate authority or a builder."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import ssl
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from jslm.serve.__main__ import _parser
from jslm.serve.keys import Key, read_keys
from jslm.serve.limits import Limits

ROOT = Path(__file__).resolve().parents[1]
DOC = (ROOT / "docs" / "serving.md").read_text("utf-8")


def commands(doc: str) -> list[str]:
    """One a line, those joined that a backslash continues, and those apart that && joins."""
    blocks = re.findall(r"```sh\n(.*?)```", doc, re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    return [command.strip() for line in lines for command in line.split(" && ")]


COMMANDS = commands(DOC)
# Other programs: what of them is used, and where a word is a file of the repository.
OTHERS: dict[tuple[str, ...], set[str]] = {
    ("openssl", "rand"): {"-hex"},
    ("curl",): {"-H", "-d", "--cacert"},
    ("chmod", "600"): set(),
    ("python3", "-m", "venv"): set(),
    ("install", "-d"): set(),
    ("cp",): {"-r"},
    ("systemctl", "enable"): {"--now"},
    ("systemctl", "reload"): set(),
    ("docker", "build"): {"-f", "--build-arg", "-t"},
    ("docker", "run"): {"-p", "-v"},
    ("docker", "stop"): {"--time"},
}


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command, comments=True)
    if ">>" in words or ">" in words:
        words = words[: next(at for at, word in enumerate(words) if word in (">", ">>"))]
    match words:
        case ["jslm", "serve", "--new-key", name]:
            from jslm.serve.__main__ import main

            assert main(["--new-key", name]) == 0
            (tmp_path / "keys.toml").write_text(capsys.readouterr().out, "utf-8")
            assert [key.name for key in read_keys(tmp_path / "keys.toml", [])] == [name]
        case ["jslm", "serve", *arguments]:
            args = _parser().parse_intermixed_args(arguments)
            assert args.run
        case ["make", "install", extras]:
            assert f"\n{extras.removeprefix('EXTRAS=')} = [" in (ROOT / "pyproject.toml").read_text("utf-8")
        case [pip, "install", "-c", constraints, package] if pip.endswith("/bin/pip"):
            assert (ROOT / constraints).is_file()
            assert package == ".[serve]"
        case ["python", script, *arguments] if script == "scripts/soak_serve.py":
            pytest.importorskip("openai", reason="openai is in the extra dev")
            from scripts.soak_serve import _parser as soak_parser

            assert soak_parser().parse_args(arguments).run
        case ["openssl", "req", *_]:
            if shutil.which("openssl") is None:
                pytest.skip("openssl is not installed")
            subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
            pair = tmp_path / "fullchain.pem", tmp_path / "privkey.pem"
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair)
        case _:
            known = next(known for known in OTHERS if tuple(words[: len(known)]) == known)
            options = {word for word in words[len(known) :] if word.startswith("-") and word != "-"}
            assert options <= OTHERS[known] | set(known)
            for word in words:
                if word.startswith(("examples/", "scripts/", "docs/")):
                    assert (ROOT / word).exists(), word


def test_there_are_commands_of_each_kind() -> None:
    """So that a change of the page's layout does not leave the test above without work."""
    first = {command.split()[0] for command in COMMANDS}
    assert {"jslm", "openssl", "docker", "systemctl", "curl", "make"} <= first
    assert len(COMMANDS) >= 20


def test_what_the_page_says_is_so() -> None:
    args = _parser().parse_intermixed_args(["--run", "m"])
    assert f"`--drain-seconds` ({args.drain_seconds:g})" in DOC
    limits = Limits()
    for option, default in re.findall(r"^\| `--max-([a-z-]+)` \| (\d+)", DOC, re.MULTILINE):
        value = getattr(limits, option.replace("-", "_"))
        assert value == (int(default) * 2**20 if option == "body-bytes" else int(default)), option
    # The table of a key has every field, as the reader takes it.
    (table,) = re.findall(r"```toml\n(.*?)```", DOC, re.DOTALL)
    (key,) = tomllib.loads(table)["key"]
    assert set(Key.model_validate(key).model_fields_set) == set(Key.model_fields)
    # Codes of the table are those that are raised.
    source = "".join(path.read_text("utf-8") for path in (ROOT / "jslm" / "serve").glob("*.py"))
    for code in re.findall(r"\d{3} `([a-z_]+)`", DOC):
        assert f'"{code}"' in source, code


def test_the_line_of_the_log_is_one() -> None:
    from jslm.serve.call import Call
    from jslm.serve.request_log import RequestLog

    (shown,) = re.findall(r"```json\n(.*?)```", DOC, re.DOTALL)
    assert list(json.loads(shown)) == list(RequestLog()._line(Call(), "POST", "/v1/completions", 200))


def test_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", DOC):
        assert (ROOT / "docs" / link).exists(), link


def test_the_bench_is_as_the_page_has_it() -> None:
    (command,) = re.findall(r"`(scripts/bench_serve\.py [^`]+)`", DOC)
    done = subprocess.run(
        [sys.executable, "scripts/bench_serve.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    for option in re.findall(r"--[a-z-]+", command):
        assert option in done.stdout
