"""Benchmark files as questions: a context, the texts that may follow it, and which one is right."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jslm.errors import JslmError
from jslm.files import read_utf8

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Question:
    """`choices` continue `context` as they stand, spaces included; `lengths` are their characters for normalisation.

    `group` names the part of the benchmark: BLiMP's paradigms. `cloze`: the one choice is to be written, not chosen.
    """

    context: str
    choices: tuple[str, ...]
    answer: int
    group: str = ""
    cloze: bool = False

    @property
    def lengths(self) -> tuple[int, ...]:
        """Characters of each choice, without the space that joins it to the context."""
        return tuple(len(choice.removeprefix(" ")) for choice in self.choices)


@dataclass(frozen=True)
class Benchmark:
    """A file format; `pattern` finds its files in a folder."""

    name: str
    pattern: str
    read: Callable[[Path], Iterator[Question]]


def read_questions(name: str, path: Path) -> list[Question]:
    """All questions of a file. Raises JslmError with the line for a bad one, and for a file without any."""
    questions = list(BENCHMARKS[name].read(path))
    if not questions:
        raise JslmError(f"{path}: empty; expected the questions of {name}, one a line")
    return questions


def read_records(path: Path, keys: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE: line N", object) for each line of a JSONL file. Raises JslmError for a line without one of the `keys`."""
    for number, line in enumerate(read_lines(path), 1):
        where = f"{path}: line {number}"
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise JslmError(f"{where}: not JSON ({error}); expected one object a line") from None
        if not isinstance(record, dict):
            raise JslmError(f"{where}: {type(record).__name__}; expected an object with {_listed(keys)}")
        for key in keys:
            if key not in record:
                raise JslmError(f"{where}: no {key!r} among {_listed(list(record))}; expected {_listed(keys)}")
        yield where, record


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file, without their ends. Raises JslmError where it can't be read."""
    return read_utf8(path).split("\n")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names)) if names else "nothing"


def text_of(where: str, record: Record, key: str) -> str:
    """A value that must be text with something in it. Raises JslmError."""
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise JslmError(f"{where}: {key} = {value!r}; expected text")
    return value


def texts_of(where: str, key: str, value: Any) -> list[str]:
    """A list of two texts or more, each with something in it. Raises JslmError."""
    if not isinstance(value, list) or len(value) < 2 or not all(isinstance(v, str) and v.strip() for v in value):
        raise JslmError(f"{where}: {key} = {value!r}; expected a list of two texts or more")
    return value


def number_of(where: str, record: Record, key: str, count: int) -> int:
    """The index of the right one among `count`; data sets have it as a number or as digits."""
    value = record[key]
    text = str(value)
    if isinstance(value, bool) or not text.isdecimal() or int(text) >= count:
        raise JslmError(f"{where}: {key} = {value!r}; expected a number from 0 to {count - 1}")
    return int(text)


def _blimp(path: Path) -> Iterator[Question]:
    """Warstadt et al. 2020, "BLiMP": which of two sentences that differ in one place is more probable as a whole."""
    for where, record in read_records(path, ("sentence_good", "sentence_bad")):
        pair = tuple(text_of(where, record, key) for key in ("sentence_good", "sentence_bad"))
        yield Question("", pair, 0, str(record.get("UID") or path.stem.removeprefix("blimp_")))


def _hellaswag(path: Path) -> Iterator[Question]:
    """Zellers et al. 2019, "HellaSwag": which of four endings; the text as lm-evaluation-harness presents it."""
    for where, record in read_records(path, ("ctx_a", "ctx_b", "activity_label", "endings", "label")):
        endings = texts_of(where, "endings", record["endings"])
        # Some items have no second part, but each has its activity.
        context = f"{record['activity_label']}: {record['ctx_a']} {str(record['ctx_b']).capitalize()}"
        choices = tuple(f" {_plain(ending)}" for ending in endings)
        yield Question(_plain(context), choices, number_of(where, record, "label", len(endings)))


def _plain(text: str) -> str:
    """Without WikiHow's markers: a title becomes a sentence's end, other brackets go."""
    text = text.strip().replace(" [title]", ". ")
    return re.sub(r"\[.*?\]", "", text).replace("  ", " ")


def _lambada(path: Path) -> Iterator[Question]:
    """Paperno et al. 2016, "LAMBADA": the last word of a passage, a passage a line or the "text" of a JSONL line."""
    jsonl = path.suffix in (".jsonl", ".json")
    if jsonl:
        passages = ((where, text_of(where, record, "text")) for where, record in read_records(path, ("text",)))
    else:
        passages = ((f"{path}: line {n}", line) for n, line in enumerate(read_lines(path), 1) if line.strip())
    for where, passage in passages:
        context, _, word = passage.rstrip().rpartition(" ")
        if not context:
            raise JslmError(f"{where}: {passage!r} is one word; expected a passage whose last word is to be guessed")
        yield Question(context, (f" {word}",), 0, cloze=True)


def arc_parts(where: str, record: Record) -> tuple[str, list[str], list[str], int]:
    """Question, texts of the choices, their labels, and the index of the right one, of a record in AllenAI's or
    Hugging Face's layout. Raises JslmError for another."""
    question: Any = record["question"]
    choices: Any = record.get("choices")
    if isinstance(question, dict):
        question, choices = question.get("stem"), question.get("choices")
    if isinstance(choices, list):
        entries = [entry for entry in choices if isinstance(entry, dict)]
        choices = {key: [entry.get(key) for entry in entries] for key in ("text", "label")}
    if not isinstance(question, str) or not isinstance(choices, dict):
        raise JslmError(f"{where}: expected a question and choices with 'text' and 'label'")
    texts = texts_of(where, "choices", choices.get("text"))
    labels = [str(label) for label in choices.get("label") or ()]
    if len(labels) != len(texts) or str(record["answerKey"]) not in labels:
        raise JslmError(f"{where}: answerKey = {record['answerKey']!r}; expected one of {_listed(labels)}")
    return question, texts, labels, labels.index(str(record["answerKey"]))


def _arc(path: Path) -> Iterator[Question]:
    """Clark et al. 2018, "ARC": which answer follows the question; AllenAI's own files or Hugging Face's."""
    for where, record in read_records(path, ("question", "answerKey")):
        question, texts, _, answer = arc_parts(where, record)
        yield Question(f"Question: {question}\nAnswer:", tuple(f" {text}" for text in texts), answer)


def _piqa(path: Path) -> Iterator[Question]:
    """Bisk et al. 2020, "PIQA": which of two ways; labels inside the lines, or in `NAME-labels.lst` beside them."""
    beside = path.with_name(f"{path.stem}-labels.lst")
    labels = [line for line in read_lines(beside) if line.strip()] if beside.is_file() else None
    for number, (where, record) in enumerate(read_records(path, ("goal", "sol1", "sol2"))):
        if labels is not None and number < len(labels):
            record = {**record, "label": labels[number].strip()}
        elif "label" not in record:
            raise JslmError(f"{where}: no 'label', and no line for it in {beside}; expected 0 or 1")
        choices = tuple(" " + text_of(where, record, key) for key in ("sol1", "sol2"))
        yield Question(f"Question: {record['goal']}\nAnswer:", choices, number_of(where, record, "label", 2))


BENCHMARKS = {
    entry.name: entry
    for entry in (
        Benchmark("blimp", "blimp*.jsonl", _blimp),
        Benchmark("lambada", "lambada*", _lambada),
        Benchmark("hellaswag", "hellaswag*.jsonl", _hellaswag),
        Benchmark("arc", "[aA][rR][cC]*.jsonl", _arc),
        Benchmark("piqa", "piqa*.jsonl", _piqa),
    )
}
