"""What errors about records say, line by line, and that the way out which they name is one."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jslm.config import Config, DataConfig, DedupConfig, PrepareConfig, TokenizerConfig
from jslm.errors import JslmError
from jslm.prepare import PreparedData, prepare

silent: Callable[[str], None] = lambda message: None  # noqa: E731
PAIR: dict[str, Any] = {"template": "{prompt}\t{chosen}", "prompt_end": "\t", "packing": "documents"}
SAID = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yes"}]


def make_config(folder: Path, source: Path | str, **data: Any) -> Config:
    data.setdefault("validation_fraction", 0.0)
    return Config(
        run_dir=str(folder / "run"),
        data=DataConfig(source=str(source), **data),
        tokenizer=TokenizerConfig(kind="byte"),
        prepare=PrepareConfig(workers=1),
    )


def refused(config: Config) -> str:
    with pytest.raises(JslmError) as caught:
        prepare(config, log=silent)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def with_data(config: Config, **data: Any) -> PreparedData:
    return prepare(config.model_copy(update={"data": config.data.model_copy(update=data)}), log=silent)


def write_rows(path: Path, records: list[dict[str, Any]]) -> Path:
    """Records in the format of the name."""
    plain = path.name.removesuffix(".gz").removesuffix(".zip")
    if plain.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(records), path)
        return path
    if plain.endswith(".csv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
        return path
    lines = [json.dumps(record) for record in records]
    text = f"[{', '.join(lines)}]" if plain.endswith(".json") else "\n".join(lines)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("in/" + plain, text)
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("a.jsonl", "a.jsonl:3"),
        ("a.json", "a.json:1 (record 3)"),
        ("a.csv", "a.csv:5"),
        ("a.parquet", "a.parquet (row 3)"),
        ("a.jsonl.gz", "a.jsonl.gz:3"),
        ("a.jsonl.zip", "a.jsonl.zip:in/a.jsonl:3"),
    ],
)
def test_errors_about_records_name_the_place(tmp_path: Path, name: str, place: str) -> None:
    # Two lines in CSV: what follows is a line further down than it is rows.
    records = [{"prompt": f"say\n{n}" if n == 0 else f"say {n}", "chosen": "yes", "rejected": "no"} for n in range(5)]
    for change, message in (
        ({"rejected": "yes"}, "both answers are 'yes', which prefers nothing"),
        ({"rejected": ""}, "the rejected answer is empty"),
        ({"chosen": " "}, "the pair has no completion"),
    ):
        broken = [record | (change if number == 2 else {}) for number, record in enumerate(records)]
        config = make_config(tmp_path, write_rows(tmp_path / name, broken), rejected="rejected", **PAIR)
        assert refused(config).startswith(f"{tmp_path}/{place}: ")
        assert message in refused(config)
    # The advice: drop it.
    write_rows(tmp_path / name, [*records[:2], *records[3:]])
    assert prepare(config, log=silent).meta["train"]["documents"] == 4


def test_pairs_in_text_files_name_the_line_of_the_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\tb\n\n\nc\td\ne f\n")
    config = make_config(tmp_path, path, separator="\n", prompt_end="\t", packing="documents")
    assert refused(config).startswith(f"{path}:5: no data.prompt_end = '\\t' in the document 'e f'")
    path.write_text("one\n---\n\n two\t2\n---\nthree\t3")
    config = make_config(tmp_path, path, separator="---", prompt_end="\t", packing="documents")
    assert refused(config).startswith(f"{path}:1: no data.prompt_end")


@pytest.mark.parametrize("skips", [True, False])
def test_a_prompt_that_a_cleaner_takes_is_named_and_can_be_skipped(tmp_path: Path, skips: bool) -> None:
    records = [{"prompt": f"say {n}", "chosen": "" if n == 1 else "yes"} for n in range(3)]
    for record in records:
        record["chosen"] += "_x_" if record["chosen"] else "\u200b"
    path = write_rows(tmp_path / "a.jsonl", records)
    config = make_config(tmp_path, path, cleaners=["normalize"], **PAIR)
    config = config.model_copy(
        update={"prepare": PrepareConfig(workers=1, on_bad_document="skip" if skips else "stop")}
    )
    if not skips:
        assert refused(config).startswith(f"{path}:2: no data.prompt_end = '\\t' in the document 'say 1'")
        return
    meta = prepare(config, log=silent).meta
    assert (meta["train"]["documents"], meta["skipped"]["count"]) == (2, 1)
    assert meta["skipped"]["first"][0].startswith(f"{path}:2: no data.prompt_end")


def test_a_prompt_that_goes_with_a_repeated_line_is_named(tmp_path: Path) -> None:
    records = [{"prompt": "The very same question each time", "chosen": f"yes {n}"} for n in range(3)]
    path = write_rows(tmp_path / "a.jsonl", records)
    settings = {**PAIR, "template": "{prompt}\n=>\n{chosen}", "prompt_end": "=>\n"}
    dedup = DedupConfig(max_line_occurrences=2, min_line_characters=1)
    assert refused(make_config(tmp_path, path, dedup=dedup, **settings)).startswith(f"{path}:1: no data.prompt_end")


def test_a_special_token_in_a_message_names_the_line(tmp_path: Path) -> None:
    template = tmp_path / "upper.jinja"
    template.write_text("{% for m in messages %}{{ m['role'] }}: {{ m['content'] | upper }}\n{% endfor %}")
    told = [SAID[0], {"role": "assistant", "content": "a <|X|> b"}]
    path = write_rows(tmp_path / "a.jsonl", [{"messages": SAID}, {"messages": told}])
    config = make_config(tmp_path, path, messages="messages", chat_template=str(template), packing="documents")
    config = config.model_copy(update={"tokenizer": TokenizerConfig(kind="byte", special_tokens=["<|X|>"])})
    assert refused(config).startswith(f"{path}:2: messages[1].content holds <|X|>, which is a special token")


@pytest.mark.parametrize("kind", ["conversation", "pair"])
def test_one_record_is_told_the_way_out(tmp_path: Path, kind: str) -> None:
    path = write_rows(tmp_path / "a.jsonl", [{"messages": SAID, "prompt": "say", "chosen": "yes"}])
    settings: dict[str, Any] = PAIR if kind == "pair" else {"messages": "messages", "packing": "documents"}
    config = make_config(tmp_path, path, validation_fraction=0.1, **settings)
    message = refused(config)
    assert "give more records, or set data.validation_fraction=0" in message
    assert "data.split" not in message
    assert with_data(config, validation_fraction=0.0).meta["train"]["documents"] == 1


def test_one_document_is_told_three_ways_out(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A day.\n---\nAnother day.")
    config = make_config(tmp_path, path, validation_fraction=0.2, split="document")
    message = refused(config)
    ways: list[tuple[str, dict[str, Any]]] = [
        ("data.split=position", {"split": "position"}),
        ("data.separator", {"separator": "---"}),
        ("data.validation_fraction=0", {"validation_fraction": 0.0}),
    ]
    for number, (advice, change) in enumerate(ways):
        assert advice in message
        elsewhere = config.model_copy(update={"run_dir": str(tmp_path / str(number))})
        assert with_data(elsewhere, **change).meta["train"]["tokens"] > 1


def test_a_corpus_too_small_to_learn_from_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("It was a day, and a day it was, my dear.")
    said: list[str] = []
    prepare(make_config(tmp_path, path, validation_fraction=0.1), log=said.append)
    assert any("data.source: 40 byte(s) of text are too small to learn from" in line for line in said)
    path.write_text("It was a day, and a day it was, my dear." * 300)
    said.clear()
    prepare(make_config(tmp_path, path, validation_fraction=0.1), force=True, log=said.append)
    assert not any("too small" in line for line in said)
    path.write_text("ab")
    message = refused(make_config(tmp_path / "two", path, validation_fraction=0.5))
    assert "set data.validation_fraction=0" in message
    assert prepare(make_config(tmp_path / "two", path), log=silent).meta["train"]["tokens"] == 2


def test_a_separator_that_is_read_as_text_is_pointed_out_once(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("A day.\n<|endoftext|>\nAnother day.\n<|endoftext|>\n<|im_start|>user\n" * 3)
    config = make_config(tmp_path, path)
    said: list[str] = []
    prepare(config, log=said.append)
    found = [line for line in said if "<|" in line]
    assert found == [
        f"{path}: <|endoftext|> stands in the text (6 time(s) in all), and is read as ordinary characters; "
        "where it ends documents of a text file, set data.separator='<|endoftext|>'",
        f"{path}: <|im_start|> stands in the text (3 time(s) in all), and is read as ordinary characters; "
        "conversations are learned as such from records, with data.messages and data.chat_template",
    ]
    # The advice.
    told = config.model_copy(update={"data": config.data.model_copy(update={"separator": "<|endoftext|>"})})
    said.clear()
    assert prepare(told, force=True, log=said.append).meta["train"]["documents"] == 7
    assert not any("endoftext" in line for line in said)
