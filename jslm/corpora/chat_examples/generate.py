"""Sums, copying, questions about a short story, and greetings, some turns each; every sentence was written for this."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from jslm.errors import JslmError

KINDS = ("arithmetic", "copying", "story", "greeting")
# A question and its answer.
Exchange = tuple[str, str]
Choice = TypeVar("Choice")

_NAMES = [
    "Ada",
    "Ben",
    "Cleo",
    "Dan",
    "Eva",
    "Finn",
    "Gus",
    "Hana",
    "Ivo",
    "Jana",
    "Karl",
    "Lena",
    "Mila",
    "Nils",
    "Olga",
    "Pia",
    "Rosa",
    "Sven",
    "Tina",
    "Uli",
]
_ANIMALS = ["cat", "dog", "fox", "hen", "owl", "pig", "goat", "duck", "mouse", "bear"]
_COLOURS = ["red", "blue", "green", "yellow", "white", "black", "brown", "grey", "pink", "orange"]
_THINGS = ["ball", "hat", "key", "cup", "kite", "drum", "boat", "lamp", "ring", "book"]
_PLACES = ["garden", "kitchen", "forest", "barn", "school", "harbour", "market", "attic", "tower", "cellar"]
_WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "bread",
    "chair",
    "window",
    "candle",
    "pepper",
    "ladder",
    "button",
    "pillow",
    "rabbit",
    "silver",
    "winter",
]
_GREETINGS = ("Hello!", "Hi!", "Good morning.", "Good evening.", "Hey there.")
_PARTINGS = ("Goodbye.", "Bye!", "See you tomorrow.", "Thank you, that is all.")
_SMALL_TALK = (
    ("How are you?", "I am well, thank you. What can I do for you?"),
    ("What are you?", "I am a small language model."),
    ("What can you do?", "I can add numbers, copy words and answer questions about a story."),
    ("Are you busy?", "No, I have time for you."),
)


@dataclass(frozen=True)
class Example:
    """One conversation: what a system message asks for (empty: nothing), and questions with their answers."""

    kind: str
    system: str
    exchanges: tuple[Exchange, ...]

    def record(self) -> dict[str, Any]:
        """As a line of JSON Lines: `messages` with role and content, and `kind`."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.exchanges:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": messages, "kind": self.kind}


def generate_examples(count: int, seed: int = 0) -> Iterator[Example]:
    """`count` conversations of one to four turns, the kinds in turn; the same on every Python.

    In every fifth a system message asks for answers in capital letters, and they are. Raises JslmError for a count
    under 1.
    """
    if count < 1:
        raise JslmError(f"--count {count}; expected 1 or more conversations")
    return _generate(count, seed)


def _generate(count: int, seed: int) -> Iterator[Example]:
    # random() is the one method of random.Random that Python promises never to change.
    draw = random.Random(seed).random
    makers = dict(zip(KINDS, (_arithmetic, _copying, _story, _greeting), strict=True))
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        turns = 1 + int(4 * draw())
        exchanges = makers[kind](draw, turns)
        if draw() < 0.2:
            loud = tuple((question, answer.upper()) for question, answer in exchanges)
            yield Example(kind, "Answer in capital letters.", loud)
        else:
            yield Example(kind, "", tuple(exchanges))


def _pick(draw: Callable[[], float], choices: Sequence[Choice]) -> Choice:
    return choices[int(draw() * len(choices))]


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"


def _arithmetic(draw: Callable[[], float], turns: int) -> list[Exchange]:
    exchanges: list[Exchange] = []
    known = None
    for _ in range(turns):
        left, right = int(50 * draw()), int(50 * draw())
        if known is not None and draw() < 0.5:
            # What it refers to is in the answer before.
            known += right
            exchanges.append((f"And if you add {right} to that?", f"That makes {known}."))
        elif draw() < 0.5:
            known = left + right
            exchanges.append((f"What is {left} plus {right}?", f"{left} plus {right} is {known}."))
        else:
            known = max(left, right) - min(left, right)
            question = f"What is {max(left, right)} minus {min(left, right)}?"
            exchanges.append((question, f"{max(left, right)} minus {min(left, right)} is {known}."))
    return exchanges


def _copying(draw: Callable[[], float], turns: int) -> list[Exchange]:
    exchanges: list[Exchange] = []
    for _ in range(turns):
        word = _pick(draw, _WORDS)
        several = " ".join(_pick(draw, _WORDS) for _ in range(2 + int(3 * draw())))
        exchanges.append(
            _pick(
                draw,
                (
                    (f"Repeat after me: {several}.", f"{several.capitalize()}."),
                    (f"Spell the word {word}.", "-".join(word)),
                    (f"Write {word} twice.", f"{word} {word}"),
                    (f"What is the last word of: {several}?", several.split()[-1]),
                    (f"Write the words in reverse order: {several}", " ".join(reversed(several.split()))),
                ),
            )
        )
    return exchanges


def _story(draw: Callable[[], float], turns: int) -> list[Exchange]:
    owner, finder = _pick(draw, _NAMES), _pick(draw, _NAMES)
    while finder == owner:
        finder = _pick(draw, _NAMES)
    animal, colour, thing = _pick(draw, _ANIMALS), _pick(draw, _COLOURS), _pick(draw, _THINGS)
    home, found = _pick(draw, _PLACES), _pick(draw, _PLACES)
    story = (
        f"{owner} the {animal} had {_a(colour)} {thing}. One day {owner} left the {home} and lost the {thing}. "
        f"{finder} found it in the {found} and gave it back. {owner} was happy."
    )
    questions = [
        (f"What colour was the {thing}?", f"The {thing} was {colour}."),
        (f"Who found the {thing}?", f"{finder} found it."),
        (f"Where was the {thing} found?", f"It was found in the {found}."),
        (f"What did {owner} lose?", f"{owner} lost the {thing}."),
        (f"What animal is {owner}?", f"{owner} is {_a(animal)}."),
    ]
    exchanges = []
    for turn in range(turns):
        question, answer = questions.pop(int(draw() * len(questions)))
        exchanges.append((f"Read this story. {story} {question}" if turn == 0 else question, answer))
    return exchanges


def _greeting(draw: Callable[[], float], turns: int) -> list[Exchange]:
    name = _pick(draw, _NAMES)
    exchanges = [(f"{_pick(draw, _GREETINGS)} I am {name}.", f"Hello, {name}! How can I help you?")]
    for turn in range(1, turns):
        if turn == turns - 1 and draw() < 0.5:
            exchanges.append((_pick(draw, _PARTINGS), f"Goodbye, {name}!"))
        elif draw() < 0.5:
            exchanges.append(("What is my name?", f"Your name is {name}."))
        else:
            exchanges.append(_pick(draw, _SMALL_TALK))
    return exchanges
