"""What the page may ask for and hand in. No answer of it tells which model wrote what, until the study is done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from jslm.errors import JslmError
from jslm.judge.answers import Answers
from jslm.judge.figures import result, said
from jslm.judge.study import Study

_LONGEST_NAME = 40


class Refused(JslmError):
    """A request that cannot be served: a status of HTTP and one line."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Desk:
    """A study, its answers, and how many people are to give them."""

    def __init__(self, study: Study, answers: Answers, people: int, on_done: Callable[[dict[str, Any]], None]) -> None:
        """`on_done` gets the figures each time somebody finishes and enough have."""
        self.study, self.answers, self._people, self._on_done = study, answers, people, on_done
        self._lock = threading.Lock()

    def figures(self) -> dict[str, Any]:
        """The figures. Raises Refused before enough people have answered all."""
        finished = len(self.answers.finished())
        if finished < self._people:
            of = len(self.study.open)
            counts = ", ".join(f"{name} {count} of {of}" for name, count in self.answers.people().items())
            raise Refused(
                403,
                f"not done: {finished} of {self._people} {'person has' if self._people == 1 else 'people have'} "
                f"answered all ({counts or 'nobody has begun'}); the result is shown then, and not before",
            )
        return result(self.study, self.answers)

    def item(self, name: str, place: int | None = None) -> dict[str, Any]:
        """What a person sees: the first pair without an answer, or the one at `place` of their order; or the end.

        Raises Refused for a bad name or place.
        """
        with self._lock:
            return self._item(self._person(name), place)

    def answer(self, name: str, place: int, values: Any) -> dict[str, Any]:
        """Takes grades from -grades (left) to grades (right) for the pair at `place`, and returns the next item."""
        with self._lock:
            person = self._person(name)
            number = self._number(person, place)
            if not self.answers.is_answer(values):
                raise Refused(400, "answers: expected a grade for each question, as the page gives them")
            sign = -1 if self.study.left(person, number) == "a" else 1
            # A grade above 0 is for the right; what is kept is for A.
            kept = {question: sign * value for question, value in values.items()}
            was_finished = person in self.answers.finished()
            try:
                self.answers.add(person, number, kept)
            except OSError as error:
                raise Refused(507, f"the answer could not be written ({error.strerror}); free some space") from None
            if not was_finished and person in self.answers.finished() and self._is_done():
                self._on_done(self.figures())
            return self._item(person, None)

    def _is_done(self) -> bool:
        return len(self.answers.finished()) >= self._people

    def _person(self, name: str) -> str:
        name = " ".join(name.split())
        if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable():
            raise Refused(400, f"a name has 1 to {_LONGEST_NAME} characters")
        return self.answers.person(name)

    def _number(self, person: str, place: int) -> int:
        if not 0 <= place < len(self.study.open):
            raise Refused(400, f"place {place}: expected 0 to {len(self.study.open) - 1}")
        return self.study.order(person)[place]

    def _item(self, person: str, place: int | None) -> dict[str, Any]:
        given = self.answers.given(person)
        order = self.study.order(person)
        shown = {"person": person, "done": len(given), "of": len(order)}
        if place is None:
            place = next((place for place, number in enumerate(order) if number not in given), None)
        if place is None:
            return {**shown, "finished": True, **self._end()}
        number = self._number(person, place)
        pair, left = self.study.pairs[number], self.study.left(person, number)
        sign = -1 if left == "a" else 1
        return {
            **shown,
            "finished": False,
            "place": place,
            "prompt": pair.prompt,
            "left": pair.a if left == "a" else pair.b,
            "right": pair.b if left == "a" else pair.a,
            "questions": [
                {"name": question.name, "text": question.text, "grades": question.grades}
                for question in self.study.questions
            ],
            "answers": {question: sign * value for question, value in given.get(number, {}).items()},
        }

    def _end(self) -> dict[str, Any]:
        if self._is_done():
            return {"result": said(self.figures())}
        return {"waiting": f"{len(self.answers.finished())} of {self._people} people have answered all"}
