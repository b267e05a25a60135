"""Metrics files across kills and resumes, their TensorBoard mirror, and the progress line."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboardX.proto.event_pb2 import Event

from jslm.errors import JslmError
from jslm.serve.run_card import read_curves
from jslm.train.metrics import (
    MetricsLog,
    Progress,
    format_count,
    format_duration,
    format_rate,
    format_scientific,
    read_metrics,
)
from jslm.train.trackers.workers import Trackers


class Stream(io.StringIO):
    """Text output that may claim to be a terminal or to know few characters."""

    def __init__(self, terminal: bool, encoding: str = "utf-8") -> None:
        super().__init__()
        self._terminal, self._encoding = terminal, encoding

    def isatty(self) -> bool:
        return self._terminal

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._encoding


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def events(run_dir: Path) -> Iterator[Any]:
    """TFRecord frames: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    for path in sorted((run_dir / "tensorboard").iterdir()):
        raw = path.read_bytes()
        while raw:
            length = int.from_bytes(raw[:8], "little")
            yield Event.FromString(raw[12 : 12 + length])
            raw = raw[16 + length :]


def tensorboard(run_dir: Path, resume_step: int | None) -> Trackers:
    return Trackers(("tensorboard",), run_dir, {}, resume_step=resume_step)


def steps(run_dir: Path) -> list[int]:
    return [line["step"] for line in read_metrics(run_dir / "metrics.jsonl")]


def write_steps(run_dir: Path, first: int, last: int, resume_step: int | None) -> None:
    with MetricsLog(run_dir, resume_step=resume_step) as log:
        for step in range(first, last + 1):
            log.write(step, {"train/loss": 1 / step})


def test_values_come_back_and_each_line_is_on_disk_at_once(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume_step=None) as log:
        log.write(10, {"train/loss": np.float32(1.5), "tokens": np.int64(123), "lr": 1e-3})
        (line,) = read_metrics(tmp_path / "metrics.jsonl")
    assert line.pop("time") > 1.7e9
    assert line == {"step": 10, "train/loss": 1.5, "tokens": 123, "lr": 1e-3}
    assert isinstance(line["tokens"], int)


def test_what_is_not_finite_becomes_null(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume_step=None) as log:
        log.write(1, {"a": math.nan, "b": math.inf, "c": np.float32("-inf"), "d": None, "e": 0.0})

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert [line[key] for key in "abcde"] == [None, None, None, None, 0.0]


@pytest.mark.parametrize("torn", [b"", b'{"step": 8, "train/lo', b"{", b'{"step": 8, "x": "\xc3', b"\x00\x00\x00"])
def test_a_resumed_run_holds_each_step_once(tmp_path: Path, torn: bytes) -> None:
    write_steps(tmp_path, 1, 7, None)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7]
    write_steps(tmp_path, 5, 9, 4)
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3, None)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    write_steps(tmp_path, 4, 4, 3)
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_a_run_that_starts_anew_drops_the_old_lines(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 3, 0)
    write_steps(tmp_path, 1, 2, None)
    assert steps(tmp_path) == [1, 2]


@given(written=st.integers(1, 30), kept=st.integers(0, 30), cut=st.integers(0, 2000))
def test_a_kill_at_any_byte_leaves_a_file_to_resume_from(
    tmp_path_factory: pytest.TempPathFactory, written: int, kept: int, cut: int
) -> None:
    run_dir = tmp_path_factory.mktemp("run")
    write_steps(run_dir, 1, written, None)
    path = run_dir / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:cut])
    survivors = [step for step in steps(run_dir) if step <= kept]
    assert survivors == list(range(1, len(survivors) + 1))
    write_steps(run_dir, kept + 1, kept + 2, kept)
    assert steps(run_dir) == [*survivors, kept + 1, kept + 2]


@pytest.mark.parametrize("bad", ['{"step": 2, "x"', "[1]", '{"loss": 1.0}', '{"step": "2"}', '{"step": 2, "x": "y"}'])
def test_a_spoilt_line_in_the_middle_is_named(tmp_path: Path, bad: str, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    assert read_metrics(path) == [{"step": 1}, {"step": 3}]
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}:2: found {bad!r}, expected a JSON object with a step and numbers; this line is left out "
        "(not only at its end)"
    ]


def test_garbage_of_several_lines_at_the_end_is_cut_off_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a crash of the machine leaves: blocks of another file, which have newlines of their own."""
    write_steps(tmp_path, 1, 4, None)
    path = tmp_path / "metrics.jsonl"
    with path.open("ab") as file:
        file.write(b"\x00\xff\n\n[[\xfe\n" + b"[" * 100_000 + b"\n{")
    write_steps(tmp_path, 4, 6, 3)
    (record,) = caplog.records
    assert f"{path}:5: found " in record.getMessage()
    assert record.getMessage().endswith("4 such lines are left out (at its end)")
    assert steps(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_the_server_passes_over_spoilt_lines(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "val/loss": 2.5}\n[1]\n\xff\n7\n{"val/loss": 1.0}\n{"step": 3, "val/loss": 1.5}\n{"st'
    )
    assert read_curves(path)["val"] == [(1, 2.5), (3, 1.5)]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(JslmError, match="no such file"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_tensorboard_mirrors_the_file(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, resume_step=20, trackers=tensorboard(tmp_path, 20)) as log:
        log.write(30, {"train/loss": 1.5, "tokens": 99, "grad_norm": math.nan})
        log.text(30, "samples", "Once upon")
    found = list(events(tmp_path))
    values = {value.tag: (event.step, value) for event in found for value in event.summary.value}
    assert values["train/loss"][0] == 30
    assert values["train/loss"][1].simple_value == 1.5
    assert values["tokens"][1].simple_value == 99
    assert "grad_norm" not in values
    (text,) = [value for tag, (_, value) in values.items() if "samples" in tag]
    assert text.tensor.string_val[0] == b"Once upon"
    # TensorBoard drops what earlier files hold at this step and later.
    assert [event.step for event in found if event.HasField("session_log")] == [21]


def test_a_resume_within_a_second_keeps_earlier_events(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        with MetricsLog(tmp_path, resume_step=step - 1, trackers=tensorboard(tmp_path, step - 1)) as log:
            log.write(step, {"train/loss": 1.5})
    assert [event.step for event in events(tmp_path) if event.summary.value] == [1, 2, 3]


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Stream(terminal=True)
    with Progress(10, stream=stream, clock=Clock()) as progress:
        progress.update(1, {})
    assert stream.getvalue() == "step 1/10\nstep 1/10 · in 00:00\n"


def test_closing_twice_is_harmless(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, resume_step=None, trackers=tensorboard(tmp_path, None))
    log.close()
    log.close()


TRAINING = {"train/loss": 1.2344, "lr": 1e-3, "tokens_per_s": 41_234.0, "mfu": 0.21}
VALIDATION = {"val/loss": 1.301, "val/bits_per_byte": 0.724}


def test_a_terminal_line_says_it_all() -> None:
    stream, clock = Stream(terminal=True), Clock()
    with Progress(5000, stream=stream, clock=clock, width=130) as progress:
        progress.update(1000, VALIDATION)
        clock.now += 10.0
        progress.update(1200, TRAINING)
        line = stream.getvalue().split("\r")[-1].replace("\x1b[2m", "").replace("\x1b[0m", "")
        assert line.rstrip() == (
            f"step 1,200/5,000 {'███▊':16} · loss 1.234 · val 1.301 (0.72 bits/byte) · lr 1.0e-3 · 41.2k tok/s · "
            "MFU 21% · 03:10 left"
        )
        clock.now += 190.0
        progress.update(5000, TRAINING)
    # What stays on the screen has nothing left, and no bar.
    assert stream.getvalue().split("\r")[-1] == (
        "step 5,000/5,000 · loss 1.234 · val 1.301 (0.72 bits/byte) · lr 1.0e-3 · 41.2k tok/s · MFU 21% · in 03:20\n"
    )


def test_an_interrupted_run_has_no_time_left_either() -> None:
    for terminal in (True, False):
        stream, clock = Stream(terminal), Clock()
        with Progress(100, stream=stream, clock=clock, width=80) as progress:
            progress.update(10, {"train/loss": 2.0})
            clock.now += 5.0
            progress.update(20, {"train/loss": 1.0})
        assert stream.getvalue().split("\r")[-1].splitlines()[-1] == "step 20/100 · loss 1.000 · in 00:05"


def test_a_device_without_a_known_peak_has_no_mfu() -> None:
    stream, clock = Stream(terminal=True), Clock()
    with Progress(5000, stream=stream, clock=clock, width=120) as progress:
        progress.update(1200, {**TRAINING, "mfu": None})
    assert "MFU" not in stream.getvalue()
    assert "loss 1.234" in stream.getvalue()


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 80, 100, 200])
def test_a_terminal_line_fits(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream, clock = Stream(terminal=True), Clock()
    with Progress(5000, stream=stream, clock=clock, width=width) as progress:
        progress.update(1000, VALIDATION | TRAINING)
        clock.now += 1.0
        progress.update(1200, TRAINING)
        shown = stream.getvalue()
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert all(len(line) < width for line in shown.split("\r"))
    assert shown.split("\r")[-1].startswith("step 1,200/5,000"[: width - 1])
    # What matters most goes last.
    assert ("MFU" in shown) <= ("lr" in shown) <= ("val" in shown) <= ("loss" in shown)


def test_plain_lines_are_spaced_but_the_first_and_last_are_there() -> None:
    stream, clock = Stream(terminal=False), Clock()
    with Progress(100, stream=stream, clock=clock) as progress:
        for step in range(1, 101):
            progress.update(step, {"train/loss": 100 - step})
            clock.now += 0.1
    lines = stream.getvalue().splitlines()
    shown = [int(line.split("/")[0].removeprefix("step ")) for line in lines]
    assert shown[0] == 1
    assert shown[-1] == 100
    assert len(shown) == 6
    assert shown == sorted(set(shown))
    assert "loss 0.000" in lines[-1]
    assert "\x1b" not in stream.getvalue()
    assert "\r" not in stream.getvalue()


def test_messages_stand_above_the_line() -> None:
    stream = Stream(terminal=True)
    with Progress(10, stream=stream, clock=Clock(), width=80) as progress:
        progress.update(1, {"train/loss": 2.0})
        progress.message("saved step 1")
        lines = stream.getvalue().split("\n")
        assert lines[0].endswith("\rsaved step 1")
        assert lines[1].startswith("\rstep 1/10 █")
    assert stream.getvalue().endswith("\rstep 1/10 · loss 2.000 · in 00:00\n")
    plain = Stream(terminal=False)
    Progress(10, stream=plain).message("hello")
    assert plain.getvalue() == "hello\n"


def test_a_stream_without_the_dot_gets_a_bar() -> None:
    stream = Stream(terminal=False, encoding="ascii")
    with Progress(10, stream=stream, clock=Clock()) as progress:
        progress.update(1, {"train/loss": math.nan, "lr": None})
    assert stream.getvalue() == "step 1/10 | loss nan | lr nan\nstep 1/10 | loss nan | lr nan | in 00:00\n"


def test_a_run_without_updates_prints_nothing() -> None:
    stream = Stream(terminal=True)
    with Progress(10, stream=stream):
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (7, "7"),
        (0.5, "0.5"),
        (999, "999"),
        (999.7, "1k"),
        (1000, "1k"),
        (1234, "1.23k"),
        (41_234, "41.2k"),
        (650_000, "650k"),
        (999_499, "999k"),
        (999_950, "1M"),
        (1_100_000, "1.1M"),
        (39_123_456, "39.1M"),
        (124e6, "124M"),
        (1.5e9, "1.5B"),
        (2e12, "2T"),
        (3e15, "3,000T"),
        (-41_234, "-41.2k"),
        (math.nan, "nan"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert format_count(value) == text


@given(st.floats(1, 1e15))
def test_counts_are_within_half_a_percent(value: float) -> None:
    text = format_count(value).replace(",", "")
    scale = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}.get(text[-1], 1.0)
    assert float(text.rstrip("kMBT")) * scale == pytest.approx(value, rel=5.1e-3)
    assert len(text.rstrip("kMBT").replace(".", "")) <= 4


def test_rates_and_small_numbers() -> None:
    assert format_rate(41_234, "tok") == "41.2k tok/s"
    assert [format_scientific(value) for value in (1e-3, 6.04e-4, 0.0, math.nan)] == [
        "1.0e-3",
        "6.0e-4",
        "0.0e0",
        "nan",
    ]


@pytest.mark.parametrize(
    ("seconds", "duration"),
    [
        (0.42, "0.4 s"),
        (9.97, "10 s"),
        (59.6, "1 min"),
        (151, "2 min 31 s"),
        (3751, "1 h 2 min"),
        (3600, "1 h"),
        (97_209, "1 d 3 h"),
    ],
)
def test_spans_of_time(seconds: float, duration: str) -> None:
    assert format_duration(seconds) == duration
