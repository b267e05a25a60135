"""Altered copies of documents: lower case, sentences left out, mistyped letters. Seeded, whatever the order of work."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from jslm.config import AugmentConfig

# A sentence with the white space behind it: up to a stop and its closing quotes, or to the end of a paragraph.
_SENTENCE = re.compile(r".+?(?:[.!?…]+[\"'”’)\]]*(?=\s)\s*|\n\s*\n|\Z)", re.DOTALL)
_MISTAKES = 4


class _Piece(Protocol):
    """A document, or a part of one, and the split that it belongs to (`jslm.prepare.split.Piece`)."""

    @property
    def text(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def bits(self) -> float | None: ...


P = TypeVar("P", bound=_Piece)


def with_copies(pieces: Callable[[], Iterable[P]], config: AugmentConfig) -> Iterator[P]:
    """The pieces, and after them, pass by pass, an altered copy of each training piece, `config.copies` times.

    `pieces` is called once a pass. Copies follow the whole corpus rather than their originals, so that no window holds
    a text beside its own copy. A copy that came out unchanged or empty is passed over: no text is there twice. Memory:
    one piece.
    """
    yield from pieces()
    for copy in range(config.copies):
        for number, piece in enumerate(pieces()):
            if piece.split != "train":
                continue
            text = augment(piece.text, config, piece_rng(config, copy, number))
            if text and text != piece.text:
                yield dataclasses.replace(piece, text=text, bits=None)  # type: ignore[type-var]


def piece_rng(config: AugmentConfig, copy: int, number: int) -> random.Random:
    """The generator of one copy of one piece, by number: the same whichever pieces were altered before it."""
    return random.Random(f"{config.seed}/{copy}/{number}")


def augment(text: str, config: AugmentConfig, rng: random.Random) -> str:
    """One altered copy of a text: sentences left out, then mistyped letters, then lower case, as `config` says."""
    if config.drop_sentences:
        text = drop_sentences(text, config.drop_sentences, rng)
    if config.noise:
        text = add_noise(text, config.noise, rng)
    if rng.random() < config.lowercase:
        text = text.lower()
    return text


def drop_sentences(text: str, chance: float, rng: random.Random) -> str:
    """The text without some of its sentences, each left out by `chance`; one stays where all would go."""
    sentences = _SENTENCE.findall(text)
    kept = [sentence for sentence in sentences if rng.random() >= chance]
    if not kept and sentences:
        kept = [sentences[int(rng.random() * len(sentences))]]
    return "".join(kept)


def add_noise(text: str, chance: float, rng: random.Random) -> str:
    """The text with mistyped letters, each by `chance`: swapped with the next, left out, doubled or another one.

    Other letters are drawn from the text itself, so that a vocabulary of its characters still holds them all.
    """
    letters = [character for character in text if character.isalpha()]
    result: list[str] = []
    place = 0
    while place < len(text):
        character = text[place]
        place += 1
        if not character.isalpha() or rng.random() >= chance:
            result.append(character)
            continue
        mistake = int(rng.random() * _MISTAKES)
        if mistake == 0 and place < len(text) and text[place].isalpha():
            result += [text[place], character]
            place += 1
        elif mistake == 1:
            continue
        elif mistake == 2:
            result += [character, character]
        else:
            result.append(letters[int(rng.random() * len(letters))])
    return "".join(result)
