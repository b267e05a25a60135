"""The bar, the lines of a log, and messages above either; what is warned of twice is said once."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator

import pytest

from jslm import console
from jslm.console import Bar, ConsoleHandler, Line, format_clock, format_seconds, say, unbroken


class Stream(io.StringIO):
    """A terminal of utf-8, or a file."""

    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    yield
    assert console._bars == [], "a bar was left on the screen"


def screen(written: str) -> list[str]:
    """The lines that a terminal shows after `written`: carriage returns write over what is there."""
    lines = []
    for line in written.split("\n"):
        shown = ""
        for piece in line.split("\r"):
            shown = piece + shown[len(piece) :]
        lines.append(shown.rstrip())
    return lines


def test_a_bar_shows_rate_and_time_left_and_goes_away() -> None:
    stream, clock = Stream(terminal=True), Clock()
    with Bar("reading", 20e6, "MB", scale=1e6, stream=stream, clock=clock) as bar:
        clock.now += 2
        bar.add(5_000_000)
        (shown,) = screen(stream.getvalue())
        assert re.fullmatch(r"reading: 5\.0 of 20\.0 MB [█▏▎▍▌▋▊▉ ]{16}, 2\.5 MB/s, 00:06 left", shown)
        assert shown.count("█") == 4
        clock.now += 6
        bar.add(15_000_000)
        # Nothing left is not said.
        assert screen(stream.getvalue()) == [f"reading: 20.0 of 20.0 MB {'█' * 16}, 2.5 MB/s"]
    assert screen(stream.getvalue()) == [""]


def test_a_log_has_plain_lines_now_and_then() -> None:
    stream, clock = Stream(terminal=False), Clock()
    with Bar("scoring", 100, "tokens", before=10, stream=stream, clock=clock) as bar:
        for _ in range(45):
            clock.now += 0.5
            bar.add()
    assert stream.getvalue().splitlines() == [
        "scoring: 30 of 100 tokens, 2.0 tokens/s, 00:35 left",
        "scoring: 50 of 100 tokens, 2.0 tokens/s, 00:25 left",
    ]


def test_plain_lines_go_where_they_are_asked_for() -> None:
    stream, clock = Stream(terminal=False), Clock()
    lines: list[str] = []
    with Bar("tokenising", 100e6, "MB", scale=1e6, log=lines.append, stream=stream, clock=clock) as bar:
        for seconds in (4, 6, 1):
            clock.now += seconds
            bar.add(10e6)
    assert lines == ["tokenising: 20.0 of 100.0 MB, 2.0 MB/s, 00:40 left"]
    assert stream.getvalue() == ""


def test_more_than_the_total_has_no_bar() -> None:
    stream, clock = Stream(terminal=True), Clock()
    with Bar("reading", 10, "MB", stream=stream, clock=clock) as bar:
        clock.now += 1
        bar.add(20)
        assert screen(stream.getvalue()) == ["reading: 20 MB, 20.0 MB/s"]


@pytest.mark.parametrize("terminal", [True, False])
def test_messages_and_warnings_stand_above_the_bar(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, clock = Stream(terminal), Clock()
    monkeypatch.setattr("sys.stderr", stream)
    log = logging.Logger("jslm")
    log.addHandler(ConsoleHandler())
    with Bar("scoring", 10, "tokens", clock=clock) as bar:
        clock.now += 20
        bar.add(5)
        log.warning("the text is short")
        say("saved")
        shown = screen(stream.getvalue())
        above = ["jslm: WARNING: the text is short", "saved"]
        if terminal:
            assert shown[:2] == above
            assert shown[2].startswith("scoring: 5 of 10 tokens")
        else:
            assert shown == ["scoring: 5 of 10 tokens, 0.2 tokens/s, 00:20 left", *above, ""]
    assert "\r" in stream.getvalue() or not terminal


def test_what_is_said_while_a_text_is_written_comes_after_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("test")
    log.propagate = False
    log.addHandler(handler := ConsoleHandler())

    def write() -> None:
        with unbroken():
            print("once ", end="")
            log.warning("the context is full")
            assert capsys.readouterr() == ("once ", "")
            raise KeyboardInterrupt

    try:
        with pytest.raises(KeyboardInterrupt):
            write()
        assert capsys.readouterr().err == "test: WARNING: the context is full\n"
        log.warning("later")
        assert capsys.readouterr().err == "test: WARNING: later\n"
    finally:
        log.removeHandler(handler)
        log.propagate = True


def test_a_warning_is_given_once_an_error_each_time(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.Logger("jslm")
    log.addHandler(ConsoleHandler())
    for _ in range(3):
        log.warning("%d tokens", 5)
        log.error("down")
    log.warning("%d tokens", 6)
    down = "jslm: ERROR: down"
    assert capsys.readouterr().err.splitlines() == [
        "jslm: WARNING: 5 tokens", down, down, down, "jslm: WARNING: 6 tokens"
    ]  # fmt: skip


def test_the_memory_of_warnings_has_an_end(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_REMEMBERED", 2)
    log = logging.Logger("jslm")
    log.addHandler(ConsoleHandler())
    for text in ("a", "b", "c", "c", "a"):
        log.warning(text)
    assert [line[-1] for line in capsys.readouterr().err.splitlines()] == ["a", "b", "c", "a"]


def test_what_libraries_warn_of_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        console.set_up_logging()
        warnings.warn("old\nways", DeprecationWarning, stacklevel=1)
    assert caplog.messages == ["DeprecationWarning: old ways"]


@pytest.mark.parametrize("width", [1, 12, 30, 50, 80])
def test_a_line_keeps_what_matters(width: int) -> None:
    stream = Stream(terminal=True)
    line = Line(10, stream, width)
    line.show(5, [(0, "step {5}"), (2, "x" * 20), (1, "left")])
    (shown,) = screen(stream.getvalue())
    assert len(shown) < width
    assert shown.startswith("step {5}"[: width - 1])
    assert ("x" in shown) <= ("left" in shown)
    assert ("█" in shown) == (width in (50, 80))
    line.clear()
    line.clear()


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0 ms"),
        (0.000312, "0.31 ms"),
        (0.0042, "4.2 ms"),
        (0.0421, "42 ms"),
        (0.9946, "995 ms"),
        (1.254, "1.25 s"),
    ],
)
def test_no_time_is_nothing(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.42, "00:00"), (9.97, "00:10"), (59.6, "01:00"), (151, "02:31"), (3751, "1:02:31"), (97_209, "1d 03:00:09")],
)
def test_clocks(seconds: float, shown: str) -> None:
    assert format_clock(seconds) == shown
