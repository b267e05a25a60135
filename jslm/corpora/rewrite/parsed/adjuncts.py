"""Phrases with "by" that name nobody who did it: times, places, means, manners, measures, gerunds."""

from __future__ import annotations

import random
from typing import Final

from jslm.corpora.rewrite.parsed.trees import Tree, Word

_DAYS: Final = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_MONTHS: Final = (
    *("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"),
    "December",
)
_COUNTS: Final = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_HOURS: Final = ("noon", "dawn", "dusk", "nightfall", "sunset", "then", "now", "tomorrow")
_SPANS: Final = ("week", "month", "year", "day", "term", "summer", "decade", "season", "afternoon", "century")
_PLACES: Final = (
    *("window", "gate", "lake", "sea", "pool", "bridge", "stove", "bed", "church", "entrance", "roadside", "canal"),
    *("fence", "side of the house", "kitchen table", "water's edge", "town hall", "old well", "railway line"),
)
_MEANS: Final = (
    *("hand", "hand", "hand", "post", "mail", "train", "phone", "email", "ship", "boat", "car", "truck", "sea"),
    *("bicycle", "courier", "cable", "satellite", "rail", "tram", "ferry", "helicopter", "letter", "fax", "text"),
    *("lorry", "steamer", "sledge", "telegram", "telephone"),
)
_MANNERS: Final = (
    *("mistake", "accident", "chance", "default", "name", "heart", "night", "day", "force", "design", "candlelight"),
    *("moonlight", "lot", "choice", "popular demand", "a show of hands", "common consent", "special delivery"),
    *("weight", "the dozen", "the hour"),
)
_UNITS: Final = (
    *("percent", "inches", "feet", "miles", "pounds", "degrees", "hours", "days", "points", "minutes", "votes"),
    "kilometres",
)
_PARTS: Final = ("a fifth", "two thirds", "a tenth", "a few inches", "a wide margin", "one vote", "several hours")
_ORDERS: Final = ("one by one", "piece by piece", "inch by inch", "step by step", "day by day", "bit by bit")
_GERUNDS: Final = (
    (("pressing", "turning", "pulling", "lifting"), ("the button", "the handle", "a lever", "the red knob", "a chain")),
    (("adding", "removing", "stirring in"), ("salt", "sugar", "more water", "a little oil", "two eggs", "some flour")),
    (("using", "taking", "borrowing"), ("a ladder", "a sharp knife", "an old key", "a loan", "better tools", "a map")),
    (("opening", "closing", "cleaning"), ("the valve", "the windows", "every filter", "the gates", "both doors")),
    (("cutting", "raising", "reducing"), ("costs", "taxes", "the price", "the dose", "their wages", "the fees")),
    (("reading", "signing", "sending"), ("the manual", "a form", "the contract", "two letters", "the file")),
    (("calling", "asking", "writing to"), ("the office", "her neighbours", "a lawyer", "the school", "an expert")),
)
# A means or a measure does not begin a sentence.
_FRONT, _END = ("time", "time", "place", "gerund", "manner"), ("means", "measure")
_BEGINNINGS: Final = (
    *("The", "A", "An", "This", "That", "These", "Those", "His", "Her", "Its", "Their", "Our", "My", "Your", "He"),
    *("She", "They", "We", "It", "You", "Some", "Many", "All", "Most"),
)
_CLAUSES: Final = frozenset(["advcl", "acl", "ccomp", "xcomp", "csubj", "parataxis", "conj", "appos"])


def no_agent(rng: random.Random, *, front: bool = False) -> str:
    """Such a phrase, as it stands within a sentence; `front`: one that may begin it ("by Friday", not "by half")."""
    kind = rng.choice(_FRONT if front else _FRONT + _END)
    if kind == "time":
        return f"by {_time(rng)}"
    if kind == "place":
        return f"by the {rng.choice(_PLACES)}"
    if kind == "means":
        return f"by {rng.choice(_MEANS)}"
    if kind == "manner":
        return rng.choice((*(f"by {manner}" for manner in _MANNERS), *_ORDERS))
    if kind == "measure":
        number = f"{rng.choice(_COUNTS)} {rng.choice(_UNITS)}"
        return f"by {rng.choice((rng.choice(_PARTS), number, f'nearly {number}', f'{rng.randint(2, 95)}%'))}"
    verbs, things = rng.choice(_GERUNDS)
    return f"by {rng.choice(verbs)} {rng.choice(things)}"


def _time(rng: random.Random) -> str:
    day, month, span, count = rng.choice(_DAYS), rng.choice(_MONTHS), rng.choice(_SPANS), rng.choice(_COUNTS)
    return rng.choice(
        (
            *(day, f"next {day}", f"{day} evening", month, f"the end of {month}"),
            *(f"{month} {rng.randint(1, 28)}", f"{rng.randint(1, 28)} {month}"),
            *(f"the end of the {span}", f"the middle of the {span}", f"early {month}", f"{rng.randint(1700, 2040)}"),
            *(rng.choice(_HOURS), rng.choice(_HOURS), f"{count} o'clock", f"the age of {count}"),
        )
    )


def takes_one(tree: Tree, verb: Word) -> bool:
    """Whether a sentence may get such a phrase at its end or its beginning: one clause, of `verb`, no "by"."""
    return (
        verb.head is None
        and tree.text.endswith(".")
        and not tree.text.endswith("..")
        and not any(word.lower == "by" for word in tree.words)
        and not any(word.deprel.split(":")[0] in _CLAUSES for word in tree.words)
    )


def added(texts: tuple[str, ...], rng: random.Random) -> tuple[str, ...]:
    """Sentences that end in a full stop, each with the same phrase: before the stop, or a fifth of them at the start.

    "The wall was painted." becomes "The wall was painted by Friday." or "By Friday, the wall was painted."
    """
    if rng.random() < 0.2 and all(text.split(" ")[0] in _BEGINNINGS for text in texts):
        phrase = no_agent(rng, front=True)
        return tuple(f"{phrase[0].upper()}{phrase[1:]}, {text[0].lower()}{text[1:]}" for text in texts)
    phrase = no_agent(rng)
    return tuple(f"{text[:-1]} {phrase}." for text in texts)
