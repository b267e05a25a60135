"""Invented words that are spelled as English is: what a model can only copy, or inflect by rule."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Final

from jslm.corpora.rewrite.words import Draw, listed, pick

_SEED: Final = 20
_ONSETS: Final = listed(
    "b c d f g h j k l m n p r s t v w z b d f g h l m n p r s t bl br ch cl cr dr fl fr gl gr pl pr qu sc sh sk sl "
    "sm sn sp st str sw th tr tw wh"
)
_VOWELS: Final = listed("a e i o u a e i o u a e i o ai ea ee oa oo ou au ie")
_SHORT: Final = listed("a e i o u")
_CODAS: Final = listed("b ck d ff g ll m n ng nk nt nd p r rd rk rm rn s ss st t sh x lt mp lf rt ct")
_ENDINGS: Final = listed(
    "er or ist ian man ant ard ling ette ium ity on in ar el ock age ment ness tion us ia ix y ure"
)
_PREFIXES: Final = listed("re re un mis mis over over out out under pre fore for with up inter")
# Endings of stems after which the spelling of -ed tells where the stem ends.
_CLUSTERS: Final = listed("nk nt nd rk rm rn rd st lt mp lf sk ct ck ll ss ff sh ch zz lp ft rt pt lk")
_SINGLE: Final = listed("b d g m n p r t")
_AFTER_TWO: Final = listed("d k l m n p r t")
_BEFORE_E: Final = listed("b c d g k l m n p r s t v z")
_LONG_ENDINGS: Final = listed(
    "ate ate ate ize ize ise ify en er et ish it ow ure ute ive ence ance age ise ide ine ire ore"
)


@cache
def invented_nouns(count: int) -> tuple[str, ...]:
    """That many distinct words that no dictionary has, or hardly any; always the same."""
    return _distinct(count, _noun, _SEED)


@cache
def invented_verbs(count: int) -> tuple[str, ...]:
    """That many bases of regular verbs, with `+` where the last consonant is doubled; always the same."""
    return _distinct(count, _verb, _SEED + 1)


def prefixed(verbs: Sequence[str], count: int, seed: int = _SEED + 2) -> tuple[tuple[str, str], ...]:
    """That many (prefix, verb): "outdraw" and the like; always the same."""
    draw = random.Random(seed).random
    return tuple(dict.fromkeys((pick(draw, _PREFIXES), pick(draw, verbs)) for _ in range(count)))


def _distinct(count: int, make: Callable[[Draw], str], seed: int) -> tuple[str, ...]:
    draw = random.Random(seed).random
    found: dict[str, None] = {}
    while len(found) < count:
        found[make(draw)] = None
    return tuple(found)


def _syllables(draw: Draw, count: int) -> Iterator[str]:
    for _ in range(count):
        yield pick(draw, _ONSETS)
        yield pick(draw, _VOWELS)


def _noun(draw: Draw) -> str:
    chance = draw()
    stem = "".join(_syllables(draw, 1 if chance < 0.6 else 2))
    return stem + pick(draw, _CODAS) + (pick(draw, _ENDINGS) if chance > 0.3 else "")


def _verb(draw: Draw) -> str:
    chance, onset = draw(), pick(draw, _ONSETS)
    if chance < 0.15:
        return onset + pick(draw, _SHORT) + pick(draw, _CLUSTERS)
    if chance < 0.25:
        return onset + pick(draw, _SHORT) + pick(draw, _SINGLE) + "+"
    if chance < 0.35:
        return onset + pick(draw, ("ea", "oa", "ai", "ee", "oo", "ou")) + pick(draw, _AFTER_TWO)
    if chance < 0.4:
        return onset + pick(draw, ("ea", "au", "oo", "oi", "ui")) + pick(draw, ("s", "v", "z", "c")) + "e"
    if chance < 0.52:
        return onset + pick(draw, ("a", "i", "o", "u")) + pick(draw, _BEFORE_E) + "e"
    if chance < 0.6:
        return onset + pick(draw, _SHORT) + pick(draw, ("dd", "bb", "gg", "tt", "zz", "nd", "mb", "ck", "st")) + "le"
    if chance < 0.65:
        return onset + pick(draw, ("ay", "oy", "ew", "aw", "ain", "oil"))
    if chance < 0.7:
        return onset + pick(draw, _SHORT) + pick(draw, ("rr", "nn", "tt", "mm", "ld", "pp")) + "y"
    return "".join(_syllables(draw, 1)) + pick(draw, _SINGLE) + pick(draw, _LONG_ENDINGS)
