"""Each line of advice is heard once, and followed it is silent."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.prepare import prepare
from jslm.train import train
from jslm.train.advice import Amounts, advice, worth_in_tokens

MakeConfig = Callable[..., Config]
# Nothing to say of these.
AMOUNTS = Amounts(
    steps=1000,
    parameters=1_000_000,
    training_tokens=1_000_000,
    seen_tokens=4_000_000,
    validation_tokens=30_000,
    validation_windows=118,
)


def config_with(**sections: Any) -> Config:
    return config_from_dict(sections, "test")


def lines(config: Config | None = None, **amounts: Any) -> list[str]:
    return list(advice(config or Config(), dataclasses.replace(AMOUNTS, **amounts)))


def test_a_sound_run_hears_nothing() -> None:
    assert lines() == []


def test_a_long_warmup() -> None:
    [line] = lines(config_with(optimizer={"warmup_steps": 200}), steps=158)
    assert line.startswith(
        "optimizer.warmup_steps = 200: the learning rate is still rising when the run ends (200 of 158"
    )
    [line] = lines(config_with(optimizer={"warmup_steps": 200}))
    assert "for 20% of it (200 of 1,000 steps)" in line
    assert lines(config_with(optimizer={"warmup_steps": 100})) == []
    # Of a run against the clock the steps are not known.
    assert lines(config_with(optimizer={"warmup_steps": 100}), steps=0, seen_tokens=0) == []
    timed = {"train": {"minutes": 1.0}, "optimizer": {"schedule": "linear", "warmup_share": 0.05}}
    with pytest.raises(
        JslmError, match=r"warmup_share = 0\.05 is a share of train\.steps.*set optimizer\.warmup_steps"
    ):
        config_with(**timed)


def test_a_model_too_large_for_the_text() -> None:
    [line] = lines(parameters=200_000_000, training_tokens=250_000, seen_tokens=2_500_000)
    assert line.startswith("model: 200M parameters are too many for 10 passes over 250k tokens")
    assert "train.epochs" not in line, "more passes would not help"
    [line] = lines(parameters=5_000_000, seen_tokens=1_500_000)
    assert "train.epochs" in line
    suggested = re.search(r"about ([\d.]+)k parameters", line)
    assert suggested
    assert lines(parameters=round(float(suggested[1]) * 1000), seen_tokens=1_500_000) == []
    # A trained model has its size.
    assert lines(config_with(train={"init_from": "x"}), parameters=200_000_000) == []


def test_what_a_text_is_worth() -> None:
    assert worth_in_tokens(100, 0.5) == 50
    assert worth_in_tokens(100, 1) == 100
    # Four passes are nearly as good as new text, forty are not, and no number of them is worth seventeen.
    assert worth_in_tokens(100, 4) > 360
    assert 1400 < worth_in_tokens(100, 40) < worth_in_tokens(100, 1e6) == pytest.approx(1640)


def test_few_windows_of_validation() -> None:
    [line] = lines(validation_tokens=12_800, validation_windows=50)
    assert "50 windows of 256 tokens" in line
    fraction = re.search(r"prepare the data with data.validation_fraction=([\d.]+)$", line)
    assert fraction
    tokens = float(fraction[1]) * 1_012_800
    assert lines(validation_tokens=round(tokens), validation_windows=int(tokens // 256)) == []
    [line] = lines(training_tokens=20_000, validation_tokens=1_280, validation_windows=5, parameters=10_000)
    times = re.search(r"give more text \(([\d.]+) times as much makes 100\)", line)
    assert times
    assert float(times[1]) * 5 >= 100
    # Whoever holds nothing out knows it.
    assert lines(validation_tokens=0, validation_windows=0) == []


def test_a_run_says_it_once_and_the_advice_works(
    make_config: MakeConfig, caplog: pytest.LogCaptureFixture, helpers: Any
) -> None:
    """Warm-up as a share of the steps, which may come from passes."""
    caplog.set_level(logging.WARNING, "jslm")
    config = make_config()
    train(config)
    said = [record.getMessage() for record in caplog.records]
    assert [line.split(":")[0] for line in said] == ["optimizer.warmup_steps = 4", "model", "data.validation_fraction"]
    caplog.clear()
    train(make_config(train={"steps": 14}))
    assert not [record for record in caplog.records if "warmup" in record.getMessage()], "it goes on"
    caplog.clear()
    found = re.search(r"optimizer\.warmup_share=([\d.]+)", said[0])
    assert found
    share = make_config("share", optimizer={"warmup_share": float(found[1])}, train={"steps": 0, "epochs": 3.0})
    train(share)
    assert not [record for record in caplog.records if "warmup" in record.getMessage()]
    resolved = (Path(share.run_dir) / "config.toml").read_text("utf-8")
    [steps] = re.findall(r"^steps = (\d+)", resolved, re.MULTILINE)
    assert f"warmup_steps = {round(0.05 * int(steps))}\n" in resolved
    assert int(steps) > 40
    first = next(line for line in helpers.read_lines(share.run_dir) if "lr" in line)
    # After two steps of a warm-up of that many.
    assert first["lr"] == pytest.approx(0.01 * 2 / (round(0.05 * int(steps)) + 1), rel=1e-6)


BOOK = """The Project Gutenberg EBook of A Book

*** START OF THE PROJECT GUTENBERG EBOOK A BOOK ***

{}

*** END OF THE PROJECT GUTENBERG EBOOK A BOOK ***
"""


def test_a_gutenberg_header_without_its_cleaner(tmp_path: Path) -> None:
    said: list[str] = []
    source = tmp_path / "book.txt"
    source.write_text(BOOK.format("A tale of two cats and a mat. " * 200), "utf-8")
    values: dict[str, Any] = {
        "data": {"source": str(source), "dir": str(tmp_path / "data")},
        "tokenizer": {"kind": "byte"},
    }
    prepare(config_from_dict(values, "test"), log=said.append)
    [line] = [line for line in said if "Gutenberg" in line]
    assert line.startswith(f"{source}")
    found = re.search(r"set 'data\.cleaners=\[(.*)\]'$", line)
    assert found
    again: list[str] = []
    values["data"] |= {"cleaners": [found[1].strip('"')], "dir": str(tmp_path / "cleaned")}
    prepare(config_from_dict(values, "test"), log=again.append)
    assert not [line for line in again if "Gutenberg" in line]
    # A book that only speaks of it has no header.
    source.write_text("I read it at Project Gutenberg. " * 300, "utf-8")
    plain: list[str] = []
    values["data"] |= {"cleaners": [], "dir": str(tmp_path / "plain")}
    prepare(config_from_dict(values, "test"), log=plain.append)
    assert not [line for line in plain if "Gutenberg" in line]
