"""scripts/bench.py: each part runs at the smallest size and writes what it promises. No figure is judged here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.parts import Case, Peaks
from scripts.bench.process import LaneError, LaneProcess, Spec
from scripts.bench.report import case_to_json, summary, table
from scripts.bench.rounds import Budget, Measured, fastest, quartiles, ratios, take_turns

ROOT = Path(__file__).resolve().parents[1]
# A lane that needs no library: what it is told to do decides what it reports.
LANE = """
import pathlib
import time
class Lane:
    def __init__(self, spec):
        time.sleep(spec.get("sleeps", 0))
        pathlib.Path(spec["log"] + spec["name"]).touch()
        while "waits_for" in spec and not pathlib.Path(spec["log"] + spec["waits_for"]).exists():
            time.sleep(0.01)
        if spec.get("broken"):
            raise ValueError("no such device")
        self.spec, self.facts = spec, {"dtype": "float32"}
        print("what a library says while it starts")
    def turn(self, case, seconds):
        with open(self.spec["log"], "a") as log:
            log.write(self.spec["name"] + case + " ")
        if self.spec.get("dies"):
            raise RuntimeError("lost")
        return self.spec.get(case, self.spec["rate"]), 1.0
open_lane = Lane
"""
LANE_KEYS = {
    "name", "side", "rate", "seconds", "flops_per_second", "mfu", "bandwidth_share", "peak_memory_bytes",
    "setup_seconds", "ratio", "error", "facts",
}  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "scripts/bench.py", *arguments], capture_output=True, text=True, cwd=ROOT, env=os.environ
    )


def measure(part: str, tmp_path: Path, *arguments: str) -> list[dict[str, Any]]:
    """The cases that a part wrote."""
    target = tmp_path / "figures.json"
    quick = ("--sizes", "tiny", "--rounds", "1", "--seconds", "0.02", "--json", str(target))
    ended = run(part, *quick, *arguments)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads(target.read_text("utf-8"))
    assert set(figures) == {"machine", "arguments", "parts"}
    assert {"date", "jslm", "python", "processor", "cores", "memory_bytes"} <= set(figures["machine"])
    # Peaks are the yardstick of two parts.
    peaks = [case["case"] for case in figures["parts"].get("peaks", [])]
    assert peaks == (["float32", "bfloat16", "memory"] if part in ("train", "decode") else [])
    for case in figures["parts"][part]:
        assert case["case"] in ended.stdout
        assert {"unit", "jslm", "best_jslm", "best_peer", "ratio", "best_ratio"} <= set(case)
        for lane in case["lanes"]:
            assert set(lane) == LANE_KEYS
    cases: list[dict[str, Any]] = figures["parts"][part]
    return cases


@pytest.mark.slow
def test_train(tmp_path: Path) -> None:
    [case] = measure("train", tmp_path)
    assert (case["case"], case["unit"], case["batch"], case["context"]) == ("tiny", "tokens", 12, 64)
    # nanoGPT's figure, with positions and biases.
    assert case["parameters"] == pytest.approx(0.81e6, rel=0.01)
    assert sorted(lane["facts"]["dtype"] for lane in case["lanes"]) == ["bfloat16", "float32"]
    for lane in case["lanes"]:
        assert lane["rate"]["median"] > 0
        assert lane["flops_per_second"] / lane["rate"]["median"] == pytest.approx(6 * 0.8e6, rel=0.1)
        assert lane["mfu"] > 0
        assert lane["peak_memory_bytes"] > 2**26
    assert case["ratio"] is None


@pytest.mark.slow
def test_decode(tmp_path: Path) -> None:
    cases = measure("decode", tmp_path)
    assert [case["case"] for case in cases] == ["tiny, batch 1", "tiny, batch 32"]
    for case in cases:
        assert case["prompt_tokens"] + case["new_tokens"] <= 64
        for lane in case["lanes"]:
            assert lane["rate"]["median"] > 0
            assert lane["bandwidth_share"] > 0


@pytest.mark.slow
def test_loader_and_libraries(tmp_path: Path) -> None:
    [case] = measure("loader", tmp_path)
    assert case["lanes"][0]["rate"]["median"] > 0
    documents, whole, *_ = measure("tokenize", tmp_path, "--peer", "torch")
    assert (documents["case"], whole["case"]) == ("bpe, documents", "bpe, one text")
    assert (documents["jslm"], documents["best_peer"]) == ("jslm bpe", "tokenizers")
    assert documents["ratio"]["median"] > 0


@pytest.mark.slow
def test_startup(tmp_path: Path) -> None:
    cases = {case["case"]: case for case in measure("startup", tmp_path)}
    assert {"--help", "first step of tiny, cold", "first token of tiny, cached"} <= set(cases)
    assert {"jslm train", "jslm sample", "jslm prepare"} <= {lane["name"] for lane in cases["--help"]["lanes"]}
    for case in cases.values():
        assert case["lanes"][0]["seconds"][0] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sizes", "tiny,huge"), "--sizes tiny,huge: there is no size 'huge'; use tiny, small, 15m, 39m, 124m"),
        (("--peer-python", "no/python"), "--peer-python no/python: no such file"),
        (("--rounds", "-1"), "--rounds -1: expected 0 or more"),
        (("--json", "no/folder/x.json"), "there is no folder"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    ended = run("train", *arguments)
    assert ended.returncode == 2
    assert message in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def lane(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Spec]:
    """`lane(name, side, rate, **values)`: a Spec of a stand-in whose turns go to the file `log`."""
    (tmp_path / "stand_in.py").write_text(LANE, "utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def make(name: str, side: str, rate: float, **values: Any) -> Spec:
        values = {"log": str(tmp_path / "log"), "name": name, "rate": rate, **values}
        return Spec(name, side, "stand_in", sys.executable, values)

    return make


def budget(rounds: int, seconds: float = 60.0) -> Budget:
    return Budget(rounds, 0.01, time.monotonic() + seconds)


def test_lanes_take_turns_and_the_fastest_peer_stays(lane: Callable[..., Spec], tmp_path: Path) -> None:
    specs = [lane("a", "jslm", 6.0), lane("p", "peer", 2.0), lane("q", "peer", 3.0), lane("r", "peer", 1.0)]
    found = take_turns(specs, [""], budget(2), lambda _: None)[""]
    # A round for each peer as it comes, then two of those that stayed; every other round backwards.
    assert (tmp_path / "log").read_text() == "a p q a a r q a a q "
    assert [len(entry.turns) for entry in found] == [5, 1, 3, 1]
    best = fastest(found, "peer")
    assert best is found[2]
    assert ratios(found[0], best) == [2.0, 2.0, 2.0]
    assert all(entry.peak_memory > 2**20 and entry.setup_seconds is not None for entry in found)


def test_lanes_that_start_together_wait_for_each_other_to_take_turns(lane: Callable[..., Spec], tmp_path: Path) -> None:
    specs = [lane("a", "jslm", 6.0, waits_for="p"), lane("p", "peer", 2.0, waits_for="a"), lane("q", "peer", 1.0)]
    found = take_turns(specs, [""], budget(1), lambda _: None, together=True)[""]
    assert [entry.error for entry in found] == ["", "", ""]
    assert (tmp_path / "log").read_text().startswith("a p q a ")
    assert [len(entry.turns) for entry in found] == [3, 2, 1]


def test_the_best_peer_of_each_case_stays(lane: Callable[..., Spec]) -> None:
    specs = [lane("p", "peer", 2.0, one=9.0), lane("q", "peer", 3.0)]
    found = take_turns(specs, ["one", "two"], budget(1), lambda _: None)
    assert [len(entry.turns) for case in found.values() for entry in case] == [2, 2, 2, 2]
    assert [best.name for case in found.values() if (best := fastest(case, "peer"))] == ["p", "q"]


def test_a_lane_that_fails_says_why_and_the_others_go_on(lane: Callable[..., Spec]) -> None:
    specs = [
        lane("a", "jslm", 1.0),
        lane("broken", "peer", 1.0, broken=True),
        lane("dies", "peer", 1.0, dies=True),
        Spec("absent", "peer", "stand_in", "no/python"),
    ]
    found = {entry.name: entry for entry in take_turns(specs, [""], budget(1), lambda _: None)[""]}
    assert found["a"].rates() == [1.0, 1.0]
    assert found["broken"].error == "not measured: ValueError: no such device"
    assert found["dies"].error == "broke off: RuntimeError: lost"
    assert found["absent"].error == "not measured: no/python: No such file or directory"


def test_without_time_nothing_starts(lane: Callable[..., Spec], tmp_path: Path) -> None:
    [entry] = take_turns([lane("a", "jslm", 1.0)], [""], budget(1, seconds=-1.0), lambda _: None)[""]
    assert "no time was left" in entry.error
    assert not (tmp_path / "log").exists()


def test_a_lane_that_hangs_is_given_up(lane: Callable[..., Spec]) -> None:
    with pytest.raises(LaneError, match="no answer within 1 s"):
        LaneProcess(lane("a", "jslm", 1.0, sleeps=60), timeout=1.0)


def test_quartiles_are_interpolated() -> None:
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)
    assert quartiles([4.0, 1.0, 3.0, 2.0, 5.0]) == (2.0, 3.0, 4.0)


def test_tables_and_json() -> None:
    ours, peer = (Measured(name, side, {"dtype": "float32"}) for name, side in (("jslm", "jslm"), ("p", "peer")))
    ours.turns, peer.turns = {1: (3000.0, 1.0), 2: (4000.0, 2.0)}, {1: (1000.0, 1.0), 3: (5.0, 1.0)}
    lost = Measured("lost", "peer", error="not measured: no compiler")
    case = Case("tiny", [ours, peer, lost], flops={"jslm": 1e6, "p": 1e6}, bytes={"jslm": 2e3})
    figures = case_to_json(case, Peaks({"float32": 1e10}, 1e7, []))
    first = figures["lanes"][0]
    assert first["rate"] == {
        "median": 2500.0,
        "first_quartile": 2250.0,
        "third_quartile": 2750.0,
        "turns": [3000, 2000],
    }
    assert (first["flops_per_second"], first["mfu"], first["bandwidth_share"]) == (2.5e9, 0.25, 0.5)
    # Only rounds that both took part in count.
    assert (figures["best_peer"], figures["ratio"]["median"]) == ("p", 3.0)
    text = table("train", [json.loads(json.dumps(figures))])
    row = next(line for line in text.splitlines() if line.startswith("| jslm"))
    assert [cell.strip() for cell in row.split("|")[1:-1]] == [
        "jslm", "2.5k tokens/s", "2.25k to 2.75k", "2.5G", "25%", "50%", "3.00",
    ]  # fmt: skip
    assert "lost: not measured: no compiler" in text
    assert summary({"train": [figures]}).endswith("- train tiny: 3.00 times p")
