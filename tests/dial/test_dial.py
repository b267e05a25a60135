"""What the dial chooses, says and writes, and that a run keeps it."""

from __future__ import annotations

import json
import random
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from jslm.config import ModelConfig, config_from_dict, load_config
from jslm.dial.device import Device, measure
from jslm.dial.rules import MOST_OPERATIONS, SHAPES, choose, operations, parameters_of, predict
from jslm.dial.text import TextFacts
from jslm.model import count_parameters, flops_per_token
from jslm.train import budget as budget_module
from jslm.train import command
from jslm.train.__main__ import main

BOOK = TextFacts(1, 1_000_000, 1, "book", "Latin", "English", 90, 1.0, {"cleaners": ["normalize"]}, ())
LAPTOP = Device("CPU, 2 cores", "cpu", 2, "float32", 100e9)
WORDS = "the cat sat on a mat and saw one big red dog near my old tree while rain fell down"
GPUS = Device("8 GPUs", "gpu", 8, "bfloat16", 8 * 300e12)


def parameters(facts: TextFacts, device: Device, minutes: float) -> int:
    config = config_from_dict(choose(facts, device, minutes).values, "dial")
    model = config.model.model_copy(update={"vocab_size": config.tokenizer.vocab_size})
    return count_parameters(model)["total"]


def test_more_time_and_faster_devices_train_larger_models() -> None:
    long = replace(BOOK, size=100_000_000)
    assert parameters(long, LAPTOP, 2) < parameters(long, LAPTOP, 60) < parameters(long, GPUS, 60)
    assert choose(long, LAPTOP, 60).bits_per_byte < choose(long, LAPTOP, 2).bits_per_byte


@pytest.mark.parametrize("size", [10_000, 1_000_000, 10_000_000_000])
@pytest.mark.parametrize("device", [LAPTOP, GPUS], ids=["laptop", "gpus"])
@pytest.mark.parametrize("minutes", [0.5, 10, 600])
def test_every_choice_is_a_config_that_holds(size: int, device: Device, minutes: float) -> None:
    facts = replace(BOOK, size=size, documents=max(1, size // 50_000))
    choice = choose(facts, device, minutes)
    config = config_from_dict(choice.values, "dial")
    assert config.train.minutes == minutes
    assert config.train.batch_size % device.count == 0 or device.platform == "cpu"
    assert 0 < config.data.validation_fraction <= 0.1
    assert (config.model.n_layers, config.model.d_model) in SHAPES
    assert config.optimizer.warmup_steps <= choice.steps / 10 + 5
    assert len(choice.reasons) == 6


def test_little_text_gets_a_small_vocabulary_and_dropout() -> None:
    little = choose(replace(BOOK, size=100_000), LAPTOP, 5).values
    much = choose(replace(BOOK, size=1_000_000_000), LAPTOP, 5).values
    assert little["tokenizer"].get("vocab_size", 256) < much["tokenizer"]["vocab_size"]
    assert little["model"]["dropout"] > much["model"]["dropout"] == 0


def test_a_run_ends_where_the_text_has_nothing_more_to_teach() -> None:
    five, twenty, fast = choose(BOOK, LAPTOP, 5), choose(BOOK, LAPTOP, 60), choose(BOOK, GPUS, 60)
    assert "steps" not in five.values["train"]
    for choice in (twenty, fast):
        config = config_from_dict(choice.values, "dial")
        model = config.model.model_copy(update={"vocab_size": config.tokenizer.vocab_size})
        tokens = config.train.steps * config.train.batch_size * model.context_length
        assert config.train.steps == choice.steps
        assert tokens * operations(model) == pytest.approx(MOST_OPERATIONS, rel=0.05)
        assert "more would make it no better" in dict(choice.reasons)["passes"]
    assert "after about a minute" in dict(fast.reasons)["passes"]
    ten = choose(replace(BOOK, size=10_000_000), LAPTOP, 60)
    assert "steps" not in ten.values["train"]


def test_the_law_knows_that_text_runs_out() -> None:
    fresh, again = predict(1e6, 50e6, 50e6), predict(1e6, 50e6, 1e6)
    assert fresh < again < predict(1e6, 1e6, 1e6)
    assert predict(1e6, 1e9, 1e6) == pytest.approx(predict(1e6, 1e8, 1e6), abs=0.02)


def test_shapes_cost_what_the_model_says() -> None:
    for minutes in (1, 60):
        values = choose(BOOK, LAPTOP, minutes).values
        model = ModelConfig.model_validate(values["model"] | {"vocab_size": values["tokenizer"]["vocab_size"]})
        counts = {name: count for name, count in count_parameters(model).items() if count}
        assert parameters_of(model) == counts
        assert operations(model) == flops_per_token(model)


def test_the_device_is_measured() -> None:
    device = measure()
    assert device.count >= 1
    assert 1e8 < device.flops < 1e17


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    choice = random.Random(0)
    words = WORDS.split()
    lines = [" ".join(choice.choice(words) for _ in range(10)).capitalize() + "." for _ in range(400)]
    Path("my notes.txt").write_text("\n".join(lines), "utf-8")
    return "my notes.txt"


def test_a_plan_says_and_changes_nothing(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([text, "--minutes", "3", "--plan"]) == 0
    plan, said = capfd.readouterr()
    names = ("text", "device", "held out", "tokenizer", "model", "batch", "passes", "expected", "time")
    for name in names:
        assert f"\n{name} " in f"\n{plan}"
        assert f"\n{name} " not in f"\n{said}"
    assert [path.name for path in Path().iterdir()] == ["my notes.txt"]


def test_a_config_is_alone_on_stdout(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments in ([text, "--print-config"], [text, "--plan", "--print-config"]):
        assert main(arguments) == 0
        config, said = capfd.readouterr()
        assert tomllib.loads(config)["data"]["source"] == text
        assert "\ntokenizer " in said


def test_a_plan_is_of_what_was_asked_for(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    lines = Path(text).read_text("utf-8").splitlines()
    records = [json.dumps({"id": "x", "poem": line}) for line in lines]
    Path("poems.jsonl").write_text("\n".join(records), "utf-8")
    assert main(["poems.jsonl", "--plan"]) == 2
    error = capfd.readouterr().err
    assert "no key 'text'; keys found: 'id', 'poem'; set data.text_field to the one with the text" in error
    assert main([text, "poems.jsonl", "--plan"]) == 2
    assert "to the one with the text, or leave the file out" in capfd.readouterr().err
    asked = ["data.text_field=poem", "data.validation_fraction=0.2", "data.cleaners=[]", "train.batch_size=3"]
    assert main(["poems.jsonl", "--plan", *asked]) == 0
    plan = capfd.readouterr().out
    assert "held out    20.0%" in plan
    assert f"yours       {' '.join(asked)}, whatever is said above" in plan
    assert main(["poems.jsonl", "--print-config", *asked]) == 0
    data = tomllib.loads(capfd.readouterr().out)["data"]
    assert (data["text_field"], data["validation_fraction"], data["cleaners"]) == ("poem", 0.2, [])
    # Of a pair one side is read, and it is said which.
    Path("pairs.jsonl").write_text(
        "\n".join(json.dumps({"prompt": "x", "completion": line}) for line in lines), "utf-8"
    )
    assert main(["pairs.jsonl", "--plan"]) == 0
    assert "records     of 'prompt', 'completion' only 'completion' is read" in capfd.readouterr().out
    Path("latin.txt").write_bytes("Ça déjà là où né.\n".encode("cp1252") * 400)
    assert main(["latin.txt", "--plan", "data.encoding=cp1252"]) == 0
    assert "encoding" not in capfd.readouterr().err


def test_conversations_are_trained_whole(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    turns = [{"role": "user", "content": WORDS}, {"role": "assistant", "content": WORDS[::-1]}]
    for name, count in (("few", 30), ("many", 90)):
        records = "\n".join([json.dumps({"messages": turns})] * count)
        (tmp_path / f"{name}.jsonl").write_text(records, "utf-8")
        for asked in ([], ["data.messages=messages"]):
            assert main([str(tmp_path / f"{name}.jsonl"), "--print-config", *asked]) == 0
            data = tomllib.loads(capfd.readouterr().out)["data"]
            assert (data["messages"], data["packing"], data["split"]) == ("messages", "documents", "document")
            assert not data.get("cleaners")


def test_a_setting_of_several_lines_is_a_comment_of_one(text: str) -> None:
    small = ["model.n_layers=1", "model.d_model=32", "model.n_heads=1", "train.steps=4", "train.tensorboard=false"]
    assert main([text, *small, 'sample.prompts=["a\\nb"]', "data.about=one\ntwo"]) == 0
    assert "two" in load_config(Path("runs/my-notes/dial.toml")).data.about


def test_minutes_are_those_of_the_last_run(
    text: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The process of the tests is older than some minutes.
    monkeypatch.setattr(command, "process_seconds", lambda: 1.0)
    small = ["model.n_layers=1", "model.d_model=32", "model.n_heads=1", "train.steps=8", "train.tensorboard=false"]
    assert main([text, *small, "train.minutes=4"]) == 0
    assert load_config(Path("runs/my-notes/dial.toml")).train.minutes == 4
    for given, message in (
        (["--minutes", "6"], "6 min in all now, and at most 8 steps"),
        ([], "6 min in all now"),
        (["--minutes", "3", "train.minutes=4"], "--minutes 3 and train.minutes=4: give one of them"),
    ):
        capfd.readouterr()
        main([text, *given])
        said = capfd.readouterr().err
        assert message in said
    state = Path("runs/my-notes/config.toml")
    assert load_config(state).train.minutes == 6
    # Less than it has had already is no end that a schedule could have.
    assert main([text, "--minutes", "0.01", "train.steps=20"]) == 2
    assert re.search(r"train.minutes = 0.01: the run has taken [\d.]+ already; give it more", capfd.readouterr().err)


def test_a_run_that_its_steps_end_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_from_dict({"train": {"minutes": 10, "steps": 100}, "optimizer": {"schedule": "wsd"}}, "test")
    now = [0.0]
    monkeypatch.setattr(budget_module, "_now", lambda: now[0])
    budget = budget_module.Budget(config, 0.0, 0.0, None)
    assert budget.seconds_left == 600
    for step in range(1, 51):
        now[0] = float(step)
        budget.note(step)
    assert budget.seconds_left == pytest.approx(50 + 4, abs=1)
    assert budget.share == pytest.approx(50 / 104, abs=0.02)


def test_where_a_model_can_go_and_the_word_that_sends_it_on(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main([text, "--plan"]) == 0
    said = capfd.readouterr().out
    word = re.search(r"ONNX, a web page, one file; with (\S+) .* transformers and llama.cpp too", said)
    assert word is not None, said
    assert main([text, word[1], "--plan"]) == 0
    assert "transformers, llama.cpp, ONNX" in capfd.readouterr().out


def test_one_command_trains_and_its_config_is_the_same_run(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    small = ["model.n_layers=1", "model.d_model=32", "model.n_heads=1", "train.steps=30", "train.tensorboard=false"]
    assert main([text, *small, "--minutes", "5"]) == 0
    file = Path("runs/my-notes/dial.toml")
    assert load_config(file).data.source == text
    assert load_config(file).train.minutes == 5
    assert file.read_text("utf-8").startswith("# text ")
    capfd.readouterr()
    assert main([text, "--minutes", "7", "--plan"]) == 0
    plan = capfd.readouterr().out
    assert "\ntokenizer " in plan
    assert "dial.toml: chosen before, kept" in plan
    assert "7 min in all now" in plan
    for again in ([text, "--minutes", "5"], ["--config", str(file)]):
        assert main(again) == 0
        assert "nothing to do" in capfd.readouterr().err
    Path("other.txt").write_text(Path(text).read_text("utf-8"), "utf-8")
    assert main(["other.txt", "run_dir=runs/my-notes"]) == 2
    said = capfd.readouterr().err
    assert "made for my notes.txt, and this command gives other.txt; add run_dir=runs/another" in said
    assert main(["other.txt", "run_dir=runs/another", *small, "--minutes", "5"]) == 0


def test_mistakes_are_one_line(text: str, capfd: pytest.CaptureFixture[str]) -> None:
    cases = {
        (): "nothing to train on; give a text file or a folder",
        (text, "--minutes", "0"): "--minutes 0: expected a time above 0",
        (text, "--minutes", "0.1"): "closing leave no time to train; give --minutes 0.4 or more",
        ("s3://nowhere/lang=en/x.parquet",): "s3://nowhere",
        (text, "model.nlayers=3"): "did you mean model.n_layers?",
        ("absent.txt",): "absent.txt",
        ("--config", "quickstart", "--plan"): "jslm plan --config quickstart",
        ("quickstart",): "it is a preset's name: jslm train --config quickstart",
    }
    for arguments, message in cases.items():
        assert main(list(arguments)) == 2
        said = capfd.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
