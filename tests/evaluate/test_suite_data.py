"""The files of `--suite`: which are found, what is read, what is missing, and what is refused before any model."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from jslm.errors import JslmError
from jslm.evaluate.__main__ import main
from jslm.evaluate.suite_data import SOURCES, SUITE, plan_suite

BLIMP = {"sentence_good": "A cat runs.", "sentence_bad": "A cat run.", "UID": "x"}
HELLASWAG = {
    "ind": 3, "activity_label": "Roof", "ctx_a": "A man sits.", "ctx_b": "he", "ctx": "A man sits. he", "label": 1,
    "endings": ["is up high.", "starts."],
}  # fmt: skip
ARC = {
    "id": "Mercury_1", "answerKey": "B",
    "question": {"stem": "Which?", "choices": [{"text": "one", "label": "A"}, {"text": "two", "label": "B"}]},
}  # fmt: skip
ARC_FLAT = {"question": "Which?", "choices": {"text": ["one", "two"], "label": ["A", "B"]}, "answerKey": "B"}


def write(path: Path, *records: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), "utf-8")
    return path


def parquet(path: Path, *records: dict[str, Any]) -> Path:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra data)")
    from pyarrow import parquet as written

    path.parent.mkdir(parents=True, exist_ok=True)
    written.write_table(pyarrow.Table.from_pylist(list(records)), path)
    return path


def test_the_assets_are_partial_and_said_to_be(assets: Path) -> None:
    blimp, lambada, hellaswag = plan_suite(["blimp,lambada", "hellaswag", "blimp"], assets / "eval")
    assert (blimp.count, blimp.missing) == (1800, "1,800 of 67,000 documents, 6 of 67 paradigms")
    assert sorted(blimp.parts)[:2] == ["blimp_animate_subject_passive", "blimp_determiner_noun_agreement_1"]
    assert lambada.task == "lambada_standard"
    assert lambada.missing == "2,000 of 4,869 documents, the validation split in place of test"
    assert hellaswag.missing == "200 of 10,042 documents"
    # Only what the benchmark is of goes to the harness.
    assert hellaswag.parts["hellaswag"][0].keys() == {"activity_label", "ctx_a", "ctx_b", "endings", "label"}
    [cut] = plan_suite(["blimp"], assets / "eval", limit=7)
    assert (cut.count, len(cut.files)) == (42, 6)
    assert cut.sha256 != blimp.sha256
    assert plan_suite(["blimp"], assets / "eval")[0].sha256 == blimp.sha256


def test_official_files_and_those_of_the_hub_are_the_same(tmp_path: Path) -> None:
    write(tmp_path / "a" / "ARC-V1-Feb2018-2" / "ARC-Easy" / "ARC-Easy-Test.jsonl", ARC)
    parquet(tmp_path / "b" / "arc_easy" / "ARC-Easy" / "test-00000-of-00001.parquet", ARC_FLAT | {"id": "Mercury_1"})
    write(tmp_path / "a" / "blimp_passive_1.jsonl", BLIMP)
    parquet(tmp_path / "b" / "blimp" / "passive_1" / "train-00000-of-00001.parquet", BLIMP)
    write(tmp_path / "a" / "hellaswag_val.jsonl", HELLASWAG)
    parquet(tmp_path / "b" / "hellaswag" / "data" / "validation-00000-of-00001.parquet", HELLASWAG | {"label": "1"})
    (tmp_path / "a" / "lambada_test_plain_text.txt").write_text("he saw a cat\n\n", "utf-8")
    parquet(tmp_path / "b" / "lambada_standard" / "plain_text" / "test-00000.parquet", {"text": "he saw a cat"})
    write(tmp_path / "a" / "lambada_test.jsonl", {"text": "“He saw a dog"})
    write(tmp_path / "b" / "lambada_openai" / "data" / "lambada_test.jsonl", {"text": "“He saw a dog"})
    # Another language's, which is not the benchmark.
    write(tmp_path / "b" / "lambada_openai" / "data" / "lambada_test_de.jsonl", {"text": "Er sah einen Hund"})
    names = ["blimp,lambada,hellaswag,arc_easy"]
    ours, theirs = (plan_suite(names, tmp_path / folder) for folder in "ab")
    assert [task.task for task in ours] == ["blimp", "lambada_openai", "lambada_standard", "hellaswag", "arc_easy"]
    assert [(task.task, task.parts) for task in ours] == [(task.task, task.parts) for task in theirs]
    [arc] = plan_suite(["arc_easy"], tmp_path / "b")
    assert arc.parts == {"arc_easy": (ARC_FLAT,)}
    assert arc.missing == "1 of 2,376 documents"


def test_a_whole_split_is_not_partial(tmp_path: Path) -> None:
    write(tmp_path / "lambada_test.jsonl", *({"text": f"it was number {n}"} for n in range(5153)))
    [task] = plan_suite(["lambada"], tmp_path)
    assert (task.count, task.missing) == (5153, "")
    assert plan_suite(["lambada"], tmp_path, limit=5)[0].missing == "5 of 5,153 documents"
    write(tmp_path / "lambada_test.jsonl", *({"text": f"it was number {n}"} for n in range(5154)))
    with pytest.raises(JslmError, match=r"5,154 documents of lambada_openai; its test split has 5,153: remove what is"):
        plan_suite(["lambada"], tmp_path)


@pytest.mark.parametrize(
    ("file", "record", "message"),
    [
        ("blimp_x.jsonl", {"sentence_good": "a"}, r"line 1: no 'sentence_bad'"),
        ("blimp_x.jsonl", {"sentence_good": "a", "sentence_bad": " "}, r"sentence_bad = ' '; expected text"),
        ("lambada_test.jsonl", {"text": "word"}, r"'word'; expected a passage that ends with a space and the word"),
        ("lambada_test.jsonl", {"text": "it was "}, r"'it was '; expected a passage"),
        ("hellaswag_val.jsonl", HELLASWAG | {"label": ""}, r"label = ''; expected a number from 0 to 1"),
        ("hellaswag_val.jsonl", HELLASWAG | {"ctx_b": None}, r"ctx_b = None; expected text"),
        ("ARC-Easy-Test.jsonl", ARC_FLAT | {"answerKey": "E"}, r"answerKey = 'E'; expected one of 'A', 'B'"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, file: str, record: Any, message: str) -> None:
    write(tmp_path / file, record)
    name = {"b": "blimp", "l": "lambada", "h": "hellaswag", "A": "arc_easy"}[file[0]]
    with pytest.raises(JslmError, match=rf"{file}: line 1: .*{message.removeprefix('line 1: ')}"):
        plan_suite([name], tmp_path)


def test_bad_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "hellaswag" / "data"
    parquet(folder / "validation.parquet", {"text": "x"})
    with pytest.raises(JslmError, match=r"validation.parquet: no column activity_label, ctx_a, .* among text"):
        plan_suite(["hellaswag"], tmp_path)
    (folder / "validation.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(JslmError, match=r"validation.parquet: not Parquet \(.*\); fetch it again"):
        plan_suite(["hellaswag"], tmp_path)
    write(tmp_path / "blimp_x.jsonl")
    with pytest.raises(JslmError, match=r"blimp_x.jsonl: empty; expected the documents of blimp"):
        plan_suite(["blimp"], tmp_path)


def test_absent_data_are_a_command_each_before_any_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run", str(tmp_path / "no-model"), "--suite-data", str(tmp_path)]
    assert main([*arguments, "--suite", "arc_easy,blimp", "--suite", "lambada"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(
        f"jslm evaluate: error: --suite arc_easy,blimp,lambada: no data in {tmp_path} (--suite-data)"
    )
    where = shlex.quote(str(tmp_path / "arc_easy"))
    assert f"hf download allenai/ai2_arc --repo-type dataset --include 'ARC-Easy/test*' --local-dir {where}" in line
    assert "or put ARC-Easy-Test.jsonl in" in line
    assert "blimp: hf download nyu-mll/blimp " in line
    assert "hf download EleutherAI/lambada_openai " in line
    assert main([*arguments, "--suite", "hellasvag"]) == 2
    assert "no such benchmark; did you mean hellaswag? There are blimp, " in capsys.readouterr().err


def test_without_the_harness_one_line_says_how_to_add_it(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    write(tmp_path / "blimp_passive_1.jsonl", BLIMP)
    assert main(["--run", str(run), "--suite", "blimp", "--suite-data", str(tmp_path)]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(
        r"jslm evaluate: error: --suite needs the package lm_eval: pip install -e \S+\[harness\]\S*", line
    )


def test_commands_that_fetch_are_what_the_hub_s_program_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its own reading of them, up to the download itself."""
    program = pytest.importorskip("huggingface_hub.cli.hf", reason="huggingface-hub is not installed")
    asked: dict[str, Any] = {}

    def download(**values: Any) -> str:
        asked.clear()
        asked.update(values)
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.cli.download.snapshot_download", download)
    for source in SOURCES.values():
        words = shlex.split(source.how(tmp_path).partition(" (or ")[0])
        assert words[:2] == ["hf", "download"]
        program.app.main(words[1:], standalone_mode=False)
        assert (asked["repo_id"], asked["repo_type"]) == (source.repository, "dataset")
        assert asked["local_dir"] == str(tmp_path / source.folder)
        assert asked["allow_patterns"] == ([source.fetch] if source.fetch else None)
    assert set(SUITE) == {*SOURCES, "lambada"}
