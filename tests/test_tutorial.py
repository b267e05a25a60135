"""docs/tutorial.md: its commands as they stand, one after the other, in an empty folder, at a small size."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
# What makes a command short; all else of it is as people read it.
SMALLER = {"--megabytes 4": "--megabytes 0.2", "--minutes 10": "--minutes 0.4", "--count 2000": "--count 60"}


def blocks(language: str) -> list[str]:
    """Of its code, in order."""
    return re.findall(rf"```{language}\n(.*?)```", TUTORIAL, re.DOTALL)


def test_every_command_works(tmp_path: Path) -> None:
    """One test: each command needs what the one before it left."""
    (config,) = blocks("toml")
    (tmp_path / "chat.toml").write_text(config, "utf-8")
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    assert len(commands) == 11
    for command in commands:
        for long, short in SMALLER.items():
            command = command.replace(long, short)
        if " serve " in command:
            assert "<html" in served(command, tmp_path)
            continue
        written, _ = run(command, tmp_path)
        if "--plan" in command:
            assert not (tmp_path / "runs" / "book" / "checkpoints").exists()
            assert len(written.splitlines()) >= 8
        elif " sample " in command:
            assert written.strip(), command
    for path in ("runs/book/report.html", "runs/book/dial.toml", "runs/chat/report.html", "page/index.html"):
        assert (tmp_path / path).is_file(), path
    assert (tmp_path / "chat.gguf").read_bytes()[:4] == b"GGUF"


def run(command: str, folder: Path) -> tuple[str, str]:
    """What it writes and what it says."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", words(command)],
        cwd=folder, env=environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr, command
    return done.stdout, done.stderr


def served(command: str, folder: Path) -> str:
    """What its page answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ["bash", "-c", f"exec {words(command)} --port {port}"], cwd=folder, env=environment(), stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline, "the server does not answer"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                    page: str = answer.read().decode()
                break
            except OSError:
                time.sleep(0.2)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    return page


def words(command: str) -> str:
    """jslm of this checkout, by this interpreter."""
    return re.sub(r"\bjslm (?=[a-z])", f"{sys.executable} -m jslm ", command)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}
