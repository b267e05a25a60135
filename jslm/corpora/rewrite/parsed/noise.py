"""How people type: quotes, dashes, accents, numbers and their units. The same change in both sentences of a pair."""

from __future__ import annotations

import random
import re
from typing import Final

_ACCENTED: Final = {"a": "áàâäãå", "e": "éèêë", "i": "íîï", "o": "óôöõø", "u": "úùûü", "n": "ñ", "c": "ç", "y": "ý"}
_DASHES: Final = (" - ", " – ", " — ", "—", " -- ", "--")
_DASH: Final = re.compile(r" (?:-|–|—|--) |(?<=\w)(?:—|--)(?=\w)")
_NAME: Final = re.compile(r"(?<=[a-z,] )[A-Z][a-z]{3,}\b")
_NUMBER: Final = re.compile(r"\b\d+\b")
_LONE_NUMBER: Final = re.compile(r"(?<![\w.,:/$£€-])\d+(?= |[.,;!?]?$|[.,;!?] )")
_UNITS: Final = (
    *("{}%", "{} %", "${}", "£{}", "€{}", "{} °C", "{} °F"),
    *("#{}", "§{}", "{}+", "~{}", "{} & {}", "{}/{}", "±{}"),
)
_OPENING: Final = re.compile(r"(^|[\s(\[—–-])\"")


def vary(prompt: str, completion: str, rng: random.Random) -> tuple[str, str]:
    """Both texts with other quotes, dashes, dots, names and numbers, or as they are; what a change does is a draw's.

    Numbers and names change only where they stand in both, and in both to the same.
    """
    both = (prompt, completion)
    curly = rng.random()
    if curly < 0.35:
        both = _each(both, _curl)
    elif curly < 0.7:
        both = _each(both, _straighten)
    if rng.random() < 0.3:
        dash = rng.choice(_DASHES)
        both = _each(both, lambda text: _DASH.sub(dash, text))
    if rng.random() < 0.3:
        both = _each(both, lambda text: text.replace("...", "…"))
    if rng.random() < 0.5:
        both = _replace_all(both, _NUMBER, lambda number: _other_number(number, rng))
    if rng.random() < 0.25:
        both = _replace_all(both, _LONE_NUMBER, lambda number: rng.choice(_UNITS).format(number, number))
    if rng.random() < 0.15:
        both = _replace_all(both, _NAME, lambda name: _accent(name, rng))
    ending = rng.random()
    if ending < 0.04 and all(text.endswith(".") for text in both):
        both = _each(both, lambda text: text[:-1])
    elif ending < 0.06 and all(text.endswith(".") for text in both):
        both = _each(both, lambda text: text[:-1] + "!")
    if rng.random() < 0.03:
        both = _small(*both), _small(*reversed(both))
    return both


def _small(text: str, other: str) -> str:
    """The text without its first capital, unless the word has it within the other text too."""
    word = text.split(" ")[0]
    own = word == "I" or not word.isalpha() or word[1:] != word[1:].lower() or f" {word}" in other
    return text if own else text[0].lower() + text[1:]


def _each(both: tuple[str, str], change: object) -> tuple[str, str]:
    assert callable(change)
    return change(both[0]), change(both[1])


def _curl(text: str) -> str:
    text = _OPENING.sub("\\1“", text).replace('"', "”")
    text = re.sub(r"(^|[\s(\[—–“])'(?=\w)", "\\1‘", text)
    return text.replace("'", "’")


def _straighten(text: str) -> str:
    return text.translate(str.maketrans("“”‘’", "\"\"''"))


def _replace_all(both: tuple[str, str], pattern: re.Pattern[str], change: object) -> tuple[str, str]:
    assert callable(change)
    words = [sorted(pattern.findall(text)) for text in both]
    # What is found in one of them alone stands elsewhere in the other, such as at its start.
    if words[0] != words[1]:
        return both
    table = {word: change(word) for word in dict.fromkeys(pattern.findall(both[0]))}
    return _each(both, lambda text: pattern.sub(lambda match: table[match.group()], text))


def _other_number(number: str, rng: random.Random) -> str:
    if number.startswith("0") or len(number) > 6:
        return number
    # A year stays one, and what counts one thing does too.
    if len(number) == 4 and number[:2] in ("17", "18", "19", "20"):
        return number[:2] + f"{int(rng.random() * 100):02d}"
    if number == "1":
        return number
    least, most = max(2, 10 ** (len(number) - 1)), 10 ** len(number)
    return str(least + int(rng.random() * (most - least)))


def _accent(name: str, rng: random.Random) -> str:
    places = [place for place, char in enumerate(name) if place and char in _ACCENTED]
    if not places:
        return name
    place = places[int(rng.random() * len(places))]
    return name[:place] + rng.choice(_ACCENTED[name[place]]) + name[place + 1 :]
