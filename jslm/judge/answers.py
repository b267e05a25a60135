"""`answers.jsonl`: an answer a line, on the disk before the page hears that it was taken."""

from __future__ import annotations

import datetime
import json
import logging
import os
from collections.abc import Mapping
from typing import Any

from jslm.judge.study import ANSWERS_FILE, Study

_log = logging.getLogger("jslm")

# Question -> value, from -grades (B is better) to grades (A is better).
Values = dict[str, int]


class Answers:
    """All answers of a study, by person and pair; of two to the same pair the later counts."""

    def __init__(self, study: Study) -> None:
        """Reads what is there. A line that a crash cut off is cut out, spoilt ones are counted; both are said."""
        self._study, self._path = study, study.folder / ANSWERS_FILE
        self._grades = {question.name: question.grades for question in study.questions}
        self._names: dict[str, str] = {}
        self._given: dict[str, dict[int, Values]] = {}
        spoilt = 0
        raw = self._path.read_bytes() if self._path.exists() else b""
        whole, _, torn = raw.rpartition(b"\n")
        for line in whole.split(b"\n") if whole else ():
            spoilt += not self._take(line)
        if torn:
            os.truncate(self._path, len(raw) - len(torn))
            _log.warning("%s: its last line was cut off by a crash, and is asked again", self._path)
        if spoilt:
            _log.warning("%s: %d line(s) are no answers of this study, and are left out", self._path, spoilt)

    def person(self, name: str) -> str:
        """A person's name as it was first spelled: a phone writes "ada" as "Ada"."""
        return self._names.get(name.casefold(), name)

    def people(self) -> dict[str, int]:
        """How many pairs each person has answered, in the order of their first answers."""
        return {name: len(given) for name, given in self._given.items()}

    def finished(self) -> list[str]:
        """Those who have answered all."""
        return [name for name, given in self._given.items() if len(given) == len(self._study.open)]

    def given(self, person: str) -> Mapping[int, Values]:
        """A person's answers, by the pair's number."""
        return self._given.get(person, {})

    def is_answer(self, values: Any) -> bool:
        """Whether `values` has a grade for each question, and nothing else."""
        return (
            isinstance(values, dict)
            and values.keys() == self._grades.keys()
            and all(type(value) is int and abs(value) <= self._grades[name] for name, value in values.items())
        )

    def add(self, person: str, number: int, values: Values) -> None:
        """Writes an answer; returns when it is on the disk. Raises OSError where that fails, and takes nothing then."""
        line = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "person": person,
            "pair": number,
            "left": self._study.left(person, number),
            "a_over_b": values,
        }
        size = self._path.stat().st_size if self._path.exists() else 0
        try:
            with self._path.open("ab") as file:
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            if self._path.exists():
                os.truncate(self._path, size)
            raise
        self._keep(person, number, values)

    def _take(self, line: bytes) -> bool:
        try:
            found = json.loads(line)
            person, number, values = found["person"], found["pair"], found["a_over_b"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return False
        if not (isinstance(person, str) and number in self._study.open and self.is_answer(values)):
            return False
        self._keep(person, number, values)
        return True

    def _keep(self, person: str, number: int, values: Values) -> None:
        person = self._names.setdefault(person.casefold(), person)
        self._given.setdefault(person, {})[number] = values
