"""scripts/ablate.py: its table, its refusals, and that a second call goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import ablate

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "tinystories_5m.toml"


def run(variant: str, seed: int, loss: float) -> dict[str, Any]:
    return {"variant": variant, "seed": seed, "loss": loss, "steps": 100, "step_s": 0.25, "seconds": 26.0}


def test_the_table_is_sorted_and_compares_with_the_base() -> None:
    runs = [
        run("base", 0, 2.0),
        run("base", 1, 2.2),
        run("better", 0, 1.9),
        run("better", 1, 2.0),
        run("worse", 0, 3.0),
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in ablate.table(runs).splitlines()[2:]]
    assert [row[0] for row in rows] == ["better", "base", "worse"]
    assert rows[0][1:] == ["100", "250", "1.950", "1.900 to 2.000 (2)", "-0.150"]
    assert rows[2][-1] == "+0.900"


def test_it_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"config": str(CONFIG), "seconds_asked": 1.0, "overrides": []}
    out = tmp_path / "runs.jsonl"
    out.write_text("".join(json.dumps({**run("base", seed, 2.0), **asked}) + "\n" for seed in range(2)), "utf-8")
    trained = []

    def train(config: str, overrides: list[str], steps: int) -> dict[str, Any]:
        trained.append((overrides[-1], steps))
        return {"loss": 1.0, "steps": steps, "step_s": 0.25, "seconds": 1.0}

    monkeypatch.setattr(ablate, "train", train)
    arguments = ["ablate", "--config", str(CONFIG), "--seconds", "1", "--out", str(out), "--variants"]
    monkeypatch.setattr("sys.argv", [*arguments, "base;wsd"])
    assert ablate.main() == 0
    # Base lacks its third seed, at the steps of its first; the other variant is timed, and has all three.
    assert trained == [("seed=0", ablate.TIMED_STEPS), ("seed=0", 4), ("seed=1", 4), ("seed=2", 4), ("seed=2", 4)]
    assert len(out.read_text("utf-8").splitlines()) == 6
    assert "| wsd |" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", [*arguments, "base", "train.batch_size=8"])
    with pytest.raises(SystemExit):
        ablate.main()
    assert "another --config, --seconds or overrides" in capsys.readouterr().err


@pytest.mark.parametrize("name", ablate.VARIANTS)
def test_variants_are_settings_that_exist(name: str) -> None:
    from jslm.config import load_config

    load_config(CONFIG, ablate.VARIANTS[name])
