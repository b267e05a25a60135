"""scripts/soak_serve.py: a short soak of a real server, and what makes it fail."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from jslm.config import config_from_dict
from jslm.runs.bundle import Bundle
from jslm.runs.model import write_run
from jslm.tokenizer import ByteTokenizer

pytest.importorskip("openai", reason="openai is in the extra dev")
from scripts import soak_serve

ROOT = Path(__file__).resolve().parents[2]


def _run(folder: Path) -> Path:
    """A model of random weights that writes to the end of its context."""
    import jax
    import numpy as np

    from jslm.model import param_shapes

    shape = {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_ff": 16, "context_length": 128}
    config = config_from_dict({"model": {**shape, "vocab_size": 257, "dtype": "float32"}}, "test")
    noise = np.random.default_rng(3)

    def fill(path: Any, leaf: Any) -> Any:
        start = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return start + 0.3 * noise.standard_normal(leaf.shape, np.float32)

    params: Any = jax.tree_util.tree_map_with_path(fill, param_shapes(config.model))
    write_run(Bundle(config, params, ByteTokenizer(), source="test"), folder / "random")
    return folder / "random"


@pytest.mark.slow
def test_a_short_soak(tmp_path: Path) -> None:
    figures = tmp_path / "soak.json"
    command = [sys.executable, "scripts/soak_serve.py", "--run", str(_run(tmp_path)), "--minutes", "0.6"]
    command += ["--streams", "16", "--kills", "2", "--max-tokens", "60", "--stuck-seconds", "300"]
    command += ["--json", str(figures), "--", "--max-slots", "16", "--drain-seconds", "200"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(figures.read_text("utf-8"))
    # How long a start takes is the machine's affair, and with it how many kills and samples of memory there are.
    excused = ("kills were made", "no server lived long enough")
    assert [reason for reason in found["reasons"] if not any(word in reason for word in excused)] == [], done.stderr
    assert done.returncode == int(found["verdict"] == "fail")
    assert found["kills"][0]["signal"] == "SIGTERM"
    assert found["kills"][0]["status"] == 0
    assert all(kill["status"] == -9 for kill in found["kills"][1:])
    assert found["streams"] > 16
    assert found["tokens"] > 16 * 20
    assert (found["stuck"], found["differing"], found["unexpected_errors"]) == (0, 0, {})
    assert len(found["lives"]) == len(found["kills"]) + 1


def _tally(**changes: Any) -> soak_serve.Tally:
    """What a soak without a fault has seen, with `changes`."""
    flat = soak_serve.Life([(float(at), 500.0) for at in range(60)], "SIGTERM, status 0")
    kills = [{"signal": "SIGTERM", "status": 0}, {"signal": "SIGKILL", "status": -9}]
    values = {"streams": 9, "tokens": 99, "kills": kills, "lives": [flat], "expected": Counter({"cut off": 3})}
    return soak_serve.Tally(**{**values, **changes})


GROWING = soak_serve.Life([(float(at), 500.0 + at) for at in range(300)])
YOUNG = soak_serve.Life([(0.0, 500.0)])


@pytest.mark.parametrize(
    ("changes", "last", "reason"),
    [
        ({}, 0, None),
        ({"stuck": 1}, 0, "1 streams were stuck"),
        ({"differing": 2}, 0, "2 texts differ"),
        ({"unexpected": Counter({"APIError": 1})}, 0, "errors that no kill explains: {'APIError': 1}"),
        ({"lives": [GROWING]}, 0, "memory grew by 140.0 MB"),
        ({"lives": [YOUNG]}, 0, "no server lived long enough"),
        ({"kills": []}, 0, "0 of 2 kills were made"),
        ({"kills": [{"signal": "SIGTERM", "status": -9}] * 2}, 0, "statuses after SIGTERM: [-9, -9, 0]"),
        ({}, 1, "statuses after SIGTERM: [0, 1]"),
        ({"streams": 0}, 0, "no stream came to its end"),
    ],
)
def test_what_fails_a_soak(changes: dict[str, Any], last: int, reason: str | None) -> None:
    args = soak_serve._parser().parse_args(["--run", "m", "--kills", "2"])
    found = soak_serve._figures(args, _tally(**changes), last)
    assert found["verdict"] == ("pass" if reason is None else "fail")
    assert len(found["reasons"]) == (reason is not None)
    assert reason is None or reason in found["reasons"][0]
    assert found["verdict"] in soak_serve._summary({**found, "kills": []})


@pytest.mark.parametrize("option", ["--minutes=0", "--minutes=nan", "--streams=0", "--kills=-1", "--minutes=2000"])
def test_a_bad_option_is_one_line(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["soak_serve.py", "--run", "m", option])
    assert soak_serve.main() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "expected" in error
