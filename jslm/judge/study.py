"""A study: two texts a prompt, who is asked what in which order, and which side each text stands on."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from jslm.errors import JslmError
from jslm.files import write_text

STUDY_FILE = "study.json"
ANSWERS_FILE = "answers.jsonl"
Which = Literal["a", "b"]


@dataclass(frozen=True)
class Question:
    """What is asked of a pair; an answer is from -grades (left) over 0 (the same) to grades (right)."""

    name: str
    text: str
    grades: int


QUESTIONS = (Question("better", "Which one is better?", 1),)
SCALES = (
    Question("coherence", "Which one holds together better?", 2),
    Question("quality", "Which one is better written?", 2),
)


@dataclass(frozen=True)
class Pair:
    """A prompt, and what both models wrote after it."""

    prompt: str
    a: str
    b: str


class Study:
    """What `study.json` holds. The secret decides sides and order, so that nobody can work them out."""

    def __init__(self, folder: Path, values: Mapping[str, Any]) -> None:
        self.folder = folder
        self.asked: Mapping[str, Any] = values["asked"]
        self.labels: dict[Which, str] = {"a": values["asked"]["a"]["label"], "b": values["asked"]["b"]["label"]}
        self.pairs = [Pair(**pair) for pair in values["pairs"]]
        self.questions: Sequence[Question] = SCALES if values["asked"]["scales"] else QUESTIONS
        self._secret = str(values["secret"]).encode()
        # Where both wrote the same there is nothing to ask: ties.
        self.open = [number for number, pair in enumerate(self.pairs) if pair.a != pair.b]

    @property
    def same(self) -> int:
        """Pairs of one and the same text."""
        return len(self.pairs) - len(self.open)

    def order(self, person: str) -> list[int]:
        """The pairs that a person is asked about, shuffled."""
        return sorted(self.open, key=lambda number: self._draw("order", person, number))

    def left(self, person: str, number: int) -> Which:
        """Which model's text stands on the left for a person."""
        return "a" if self._draw("side", person, number)[0] % 2 else "b"

    def _draw(self, what: str, person: str, number: int) -> bytes:
        # "ada" is "Ada" (answers.py).
        return hmac.digest(self._secret, json.dumps([what, person.casefold(), number]).encode(), hashlib.sha256)


def open_study(folder: Path, asked: Mapping[str, Any], write: Callable[[], list[Pair]]) -> Study:
    """The study of `folder`, made by `write` where there is none yet.

    Raises JslmError where the one that is there was asked for otherwise, or is damaged, and where all pairs are of one
    text.
    """
    file = folder / STUDY_FILE
    if not file.exists():
        if (folder / ANSWERS_FILE).exists():
            raise JslmError(f"{folder}: has answers and no {STUDY_FILE} that they are of; choose another --out")
        pairs = [{"prompt": pair.prompt, "a": pair.a, "b": pair.b} for pair in write()]
        if all(pair["a"] == pair["b"] for pair in pairs):
            raise JslmError(
                f"both models wrote the same after all {len(pairs)} prompts, so there is nothing to judge; give other "
                "checkpoints, or a temperature above 0 (sample.temperature=0.8)"
            )
        values = {"asked": asked, "secret": secrets.token_hex(16), "pairs": pairs}
        folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(values, indent=1, ensure_ascii=False) + "\n")
    try:
        found = json.loads(file.read_text("utf-8"))
        study = Study(folder, found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise JslmError(f"{file}: damaged ({error}); choose another --out to begin anew") from None
    for key, value in asked.items():
        if study.asked.get(key) != value:
            raise JslmError(
                f"{file}: this study was begun with {key} = {_short(study.asked.get(key))}, now it is {_short(value)}; "
                "give what it was begun with, or another --out"
            )
    return study


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."
