"""What `split="wide"` adds: everyday and invented words, and the phrases around them that the ten domains lack."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final, NamedTuple

from jslm.corpora.rewrite.grammar import PLURAL, SINGULAR
from jslm.corpora.rewrite.invent import invented_nouns, invented_verbs, prefixed
from jslm.corpora.rewrite.lexicon import (
    IRREGULAR_VERBS,
    DomainWords,
    Noun,
    Verb,
    article,
    conjugate,
    held_out_forms,
    lexicon,
    plural,
)
from jslm.corpora.rewrite.wide_words import (
    ADJECTIVES,
    ADVERBS,
    ALWAYS_PLURAL,
    COMMANDS,
    GIVING,
    INTRANSITIVE,
    MASS,
    MODIFIERS,
    NAMES,
    PARTICLE_VERBS,
    PARTICLES,
    PEOPLE,
    PLACES,
    THINGS,
    VERBS,
)
from jslm.corpora.rewrite.words import PERSON_ADJECTIVES, THING_ADJECTIVES, Draw, listed, pick

_INVENTED: Final = 20_000


class WideWords(NamedTuple):
    """Words of no domain; of each kind those of every day, and those that are invented."""

    people: tuple[Noun, ...]
    things: tuple[Noun, ...]
    invented: tuple[Noun, ...]
    names: tuple[str, ...]
    invented_names: tuple[str, ...]
    verbs: tuple[Verb, ...]
    invented_verbs: tuple[Verb, ...]
    compounds: tuple[Verb, ...]
    particle_verbs: tuple[Verb, ...]
    commands: tuple[Verb, ...]
    giving: tuple[Verb, ...]
    intransitive: tuple[Verb, ...]


@cache
def wide_words() -> WideWords:
    """All of them, without any word that is held out, in any form."""
    held_out = held_out_forms()

    def verbs(bases: Sequence[str]) -> tuple[Verb, ...]:
        return tuple(verb for verb in map(conjugate, bases) if not held_out.intersection(verb))

    def nouns(words: Sequence[str]) -> tuple[Noun, ...]:
        found = (Noun(word, plural(word)) for word in words)
        return tuple(noun for noun in found if not held_out.intersection(noun))

    train = [verb for domain in lexicon("train").domains for verb in (*domain.verbs, *domain.person_verbs)]
    known = frozenset((*train, *verbs(VERBS)))
    irregular = [base for base in IRREGULAR_VERBS if conjugate(base) in known]
    real = dict.fromkeys((*verbs(VERBS), *train))
    # A participle has one base: no form of an invented verb is one of another verb, or held out.
    taken = set(held_out).union(*real)

    def new(verbs: Iterable[Verb]) -> tuple[Verb, ...]:
        found = []
        for verb in verbs:
            if taken.isdisjoint(verb):
                found.append(verb)
                taken.update(verb)
        return tuple(found)

    prefixes = prefixed(irregular, _INVENTED // 20)
    invented = invented_nouns(_INVENTED)
    return WideWords(
        nouns(PEOPLE),
        nouns(THINGS),
        nouns(invented[: _INVENTED // 2]),
        NAMES,
        tuple(word.capitalize() for word in invented[_INVENTED // 2 :] if word not in held_out),
        tuple(real),
        new(map(conjugate, invented_verbs(_INVENTED // 8))),
        new(Verb(*(prefix + form for form in conjugate(base))) for prefix, base in prefixes),
        verbs(PARTICLE_VERBS),
        verbs(COMMANDS),
        verbs(GIVING),
        verbs(INTRANSITIVE),
    )


class Extras(NamedTuple):
    """A verb and what goes with it; each text begins with a blank where it is not empty."""

    verb: Verb
    particle: str
    after: str


def wide_verb(draw: Draw, domain: DomainWords, of_person: bool) -> Extras:
    """A verb, perhaps with a particle, or with what it says of its patient: "painted yellow", "asked to leave"."""
    words, chance = wide_words(), draw()
    if chance < 0.08:
        return Extras(pick(draw, words.particle_verbs), f" {pick(draw, PARTICLES)}", "")
    if of_person and chance < 0.14:
        return Extras(pick(draw, words.giving), "", f" {_bare(draw, domain, False)[0]}")
    if of_person and chance < 0.18:
        return Extras(pick(draw, words.commands), "", f" to {_errand(draw, domain)}")
    pool = words.verbs if chance < 0.5 else words.invented_verbs if chance < 0.7 else words.compounds
    if chance > 0.86:
        pool = domain.person_verbs if of_person else domain.verbs
    return Extras(pick(draw, pool), "", _complement(draw, domain) if draw() < 0.15 else "")


def wide_adverb(draw: Draw) -> str:
    """ "often" and the like with a blank after it, or nothing."""
    return f"{pick(draw, ADVERBS)} " if draw() < 0.12 else ""


def wide_bare(draw: Draw, domain: DomainWords, is_person: bool) -> tuple[str, int]:
    """A noun phrase and its agreement."""
    chance = draw()
    if chance < (0.14 if is_person else 0.03):
        return _name(draw), SINGULAR
    if chance < 0.17:
        return pick(draw, _INDEFINITE_PEOPLE if is_person else _INDEFINITE_THINGS), SINGULAR
    if chance < 0.23:
        owner = _name(draw) if draw() < 0.4 else _bare(draw, domain, True, SINGULAR)[0]
        number = SINGULAR if draw() < 0.7 else PLURAL
        noun = _noun(draw, domain, is_person)
        return f"{owner}'s {_adjective(draw, is_person)}{noun[number == PLURAL]}", number
    if chance < 0.33:
        return _quantity(draw, domain, is_person)
    if chance < (0.35 if is_person else 0.41):
        return _mass(draw)
    return _bare(draw, domain, is_person)


def wide_tail(draw: Draw, domain: DomainWords, agentless: bool) -> str:
    """When, where, why or how, with a blank before it: of no style and of any tense."""
    chance = draw()
    if chance < 0.4:
        return f" {pick(draw, _WHEN)}"
    if chance < 0.5:
        return f" {pick(draw, _WHEN_IN)} {1500 + int(draw() * 540)}"
    if chance < 0.57:
        return f" in {pick(draw, PLACES) if draw() < 0.5 else pick(draw, wide_words().invented_names)}"
    if chance < 0.75:
        return f" {pick(draw, _BEFORE_NOUN)} {_bare(draw, domain, False)[0]}"
    if chance < 0.83:
        verb = pick(draw, wide_words().intransitive)
        return f" {pick(draw, _CONJUNCTIONS)} {pick(draw, _WHO)} {verb.past}"
    if not agentless:
        return f" {pick(draw, _SINCE)} {pick(draw, _MOMENTS)}"
    if chance < 0.9:
        return f" by {pick(draw, _MEANS if draw() < 0.4 else _MOMENTS)}"
    return f" {pick(draw, ('in', 'on', 'with', 'from', 'near', 'under', 'behind'))} {_bare(draw, domain, False)[0]}"


def wide_statement(draw: Draw, domain: DomainWords) -> str:
    """A sentence that has no passive: "The mayor was tired." """
    person = draw() < 0.7
    text, agreement = wide_bare(draw, domain, person)
    plain = wide_words().intransitive
    chance = draw()
    if chance < 0.35:
        be = pick(draw, (("was", "were"), ("is", "are"), ("has been", "have been"), ("will be", "will be")))
        rest = f"{be[agreement == PLURAL]} {_adjective(draw, person, always=True).strip()}"
    elif chance < 0.5:
        be = pick(draw, (("was", "were"), ("is", "are")))
        rest = f"{be[agreement == PLURAL]} {pick(draw, _BEFORE_NOUN_ALL)} {_bare(draw, domain, False)[0]}"
    elif chance < 0.7:
        be = pick(draw, (("was", "were"), ("is", "are")))
        rest = f"{be[agreement == PLURAL]} {pick(draw, plain).gerund}"
    else:
        verb = pick(draw, plain)
        rest = verb.past if draw() < 0.6 else verb.third if agreement == SINGULAR else verb.base
        if draw() < 0.4:
            rest += f" by {_bare(draw, domain, False)[0]}"
    tail = wide_tail(draw, domain, True) if draw() < 0.5 else ""
    return f"{text[0].upper()}{text[1:]} {rest}{tail}."


def _noun(draw: Draw, domain: DomainWords, is_person: bool) -> Noun:
    words, chance = wide_words(), draw()
    if chance < 0.3:
        return pick(draw, words.invented)
    if chance < 0.75:
        return pick(draw, words.people if is_person else words.things)
    return pick(draw, domain.people if is_person else domain.things)


def _adjective(draw: Draw, is_person: bool, always: bool = False) -> str:
    """With a blank after it; none in two of three."""
    chance = draw()
    if chance > 0.35 and not always:
        return ""
    chance = draw()
    if chance < 0.45:
        return f"{pick(draw, ADJECTIVES)} "
    if chance < 0.55:
        return f"{pick(draw, wide_words().invented).singular} "
    adjective = pick(draw, PERSON_ADJECTIVES if is_person else THING_ADJECTIVES)
    return f"{'very ' if draw() < 0.15 else ''}{adjective} "


def _bare(draw: Draw, domain: DomainWords, is_person: bool, number: int | None = None) -> tuple[str, int]:
    noun = _noun(draw, domain, is_person)
    before = _adjective(draw, is_person) + (f"{pick(draw, MODIFIERS)} " if draw() < 0.08 else "")
    if number is None:
        number = PLURAL if draw() < 0.35 else SINGULAR
    if number == PLURAL:
        bare = pick(draw, ALWAYS_PLURAL) if draw() < 0.06 else noun.plural
        return f"{pick(draw, _PLURAL_DETERMINERS)}{before}{bare}", PLURAL
    determiner = pick(draw, _DETERMINERS)
    if determiner == "a":
        determiner = article(before or noun.singular)
    return f"{determiner} {before}{noun.singular}", SINGULAR


def _name(draw: Draw) -> str:
    words = wide_words()
    chance = draw()
    name = pick(draw, words.names if chance < 0.5 else words.invented_names)
    if 0.4 < chance < 0.65:
        return f"{name} {pick(draw, words.invented_names)}"
    return f"{pick(draw, _TITLES)} {name}" if chance > 0.92 else name


def _mass(draw: Draw) -> tuple[str, int]:
    return f"{pick(draw, _MASS_DETERMINERS)}{_adjective(draw, False)}{pick(draw, MASS)}", SINGULAR


def _quantity(draw: Draw, domain: DomainWords, is_person: bool) -> tuple[str, int]:
    nouns = _noun(draw, domain, is_person).plural
    chance = draw()
    if chance < 0.4:
        return f"{pick(draw, _NUMBERS)} {_adjective(draw, is_person)}{nouns}", PLURAL
    if chance < 0.5:
        return f"{2 + int(draw() * 98)} {nouns}", PLURAL
    owned = f"{pick(draw, ('the', 'the', 'these', 'those', 'my', 'our', 'his', 'her', 'their'))} {nouns}"
    if chance < 0.65:
        return f"{pick(draw, ('one', 'each', 'none', 'neither', 'a group', 'a number'))} of {owned}", SINGULAR
    of = pick(draw, ("two", "three", "most", "some", "all", "many", "several", "half", "both", "a few"))
    return f"{of} of {owned}", PLURAL


def _complement(draw: Draw, domain: DomainWords) -> str:
    chance = draw()
    if chance < 0.35:
        return f" {pick(draw, _WHERE_TO)}"
    if chance < 0.45:
        return f" into {pick(draw, (*PLACES, *_LANGUAGES))}"
    return f" {pick(draw, _TOWARDS)} {_bare(draw, domain, draw() < 0.3)[0]}"


def _errand(draw: Draw, domain: DomainWords) -> str:
    if draw() < 0.5:
        return pick(draw, wide_words().intransitive).base
    return f"{pick(draw, wide_words().verbs).base} {_bare(draw, domain, False)[0]}"


_DETERMINERS: Final = listed(
    "the the the the the a a a a my your his her our their its this that every each some another no one the"
)
_PLURAL_DETERMINERS: Final = (
    *(f"{word} " for word in listed("the the the the my your his her our their its these those some many several no")),
    *(f"{word} " for word in listed("most few all two three")),
    *("", "", "", ""),
)
_MASS_DETERMINERS: Final = ("", "", "", "", "the ", "the ", "this ", "some ", "my ", "their ", "our ", "all the ")
_INDEFINITE_PEOPLE: Final = listed("everyone everybody nobody anyone")
_INDEFINITE_THINGS: Final = listed("everything nothing something")
_TITLES: Final = ("Mr.", "Mrs.", "Dr.", "Uncle", "Aunt", "President", "King", "Captain")
_NUMBERS: Final = (
    *listed("two three four five six seven eight nine ten eleven twelve twenty fifty"),
    *("a hundred", "two thousand", "more than ten", "more than a hundred", "at least five", "a lot of", "lots of"),
    *("hundreds of", "thousands of", "millions of", "dozens of", "a few", "a couple of", "almost all", "so many"),
)
_WHEN: Final = (
    *listed("yesterday today tomorrow tonight again twice once early late later afterwards recently there here first"),
    *("this morning", "this week", "this year", "last night", "last week", "last summer", "last Monday", "last month"),
    *("next week", "next year", "next month", "next Friday", "two days ago", "three years ago", "an hour ago"),
    *("on Monday", "on Tuesday", "on Wednesday", "on Thursday", "on Friday", "on Saturday", "on Sunday", "at night"),
    *("in January", "in March", "in April", "in June", "in July", "in August", "in September", "in December"),
    *("at noon", "at midnight", "at six o'clock", "at once", "at home", "at work", "at school", "at the same time"),
    *("every day", "every evening", "every year", "every Sunday", "for years", "for three weeks", "for free"),
    *("in the morning", "in the evening", "in spring", "in winter", "after only two weeks", "within an hour"),
    *("for the first time", "without warning", "in the end", "on purpose", "in public", "before lunch", "all day"),
)
_WHEN_IN: Final = ("in", "in", "in", "since", "until", "before", "after")
_BEFORE_NOUN: Final = (
    *listed("at at during after before outside inside for without despite towards across through until against"),
    "because of",
    "instead of",
    "thanks to",
)
_BEFORE_NOUN_ALL: Final = listed("in on at under behind near with from by outside inside against for")
_TOWARDS: Final = listed("to to to into into from for at with in on as off onto against across through")
_WHERE_TO: Final = listed(
    "yellow red open shut empty free upstairs downstairs home outside abroad away alone together indoors apart alive "
    "ahead north badly well twice again"
)
_LANGUAGES: Final = listed("English French German Spanish Italian Chinese Latin Greek pieces")
_SINCE: Final = listed("since until before after at around on")
_MOMENTS: Final = (
    *listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday noon midnight tomorrow Christmas June August"),
    *("next week", "the end of the month", "six o'clock", "the end of the day", "1990", "2015", "2030"),
)
_MEANS: Final = listed("bus train van plane ship hand mail email phone mistake accident law chance boat truck")
_CONJUNCTIONS: Final = listed("when because after before while although until as")
_WHO: Final = ("he", "she", "they", "we", "I", "you", "everyone", "the others", "the children", "my parents", "nobody")
