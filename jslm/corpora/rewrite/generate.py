"""Draws sentences and pairs their two voices: `generate_pairs`.

A prompt has one right answer: whatever the other voice shows and this one hides (style, tense of "cut") is either told
by another word of the prompt or not drawn.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from jslm.corpora.rewrite.grammar import (
    BASE,
    CASUAL,
    DECLARATIVE,
    FORMAL,
    NEUTRAL,
    PAST,
    PLURAL,
    SINGULAR,
    SOMEONE,
    STYLES,
    TENSE,
    TENSES,
    WH_ADVERB,
    WH_AGENT,
    WH_PATIENT,
    WHAT,
    WHO,
    YES_NO,
    I,
    NounPhrase,
    Sentence,
    realize,
)
from jslm.corpora.rewrite.lexicon import DomainWords, Lexicon, Noun, article, lexicon
from jslm.corpora.rewrite.wide import wide_adverb, wide_bare, wide_statement, wide_tail, wide_verb
from jslm.corpora.rewrite.words import (
    MANNER,
    PERSON_ADJECTIVES,
    PREPOSITIONS,
    STATIVE,
    THING_ADJECTIVES,
    Draw,
    listed,
    pick,
)
from jslm.errors import JslmError

DIRECTIONS: Final = ("to_active", "to_passive")
CATEGORIES: Final = (
    *("simple", "progressive", "perfect", "future", "modal", "negation", "yes_no", "wh_agent", "wh_patient"),
    *("wh_adverb", "agentless", "pronoun", "preposition", "relative", "coordination"),
)


class Pair(NamedTuple):
    """A sentence and the same in the other voice, with what it shows: `category`, `style` and `domain`."""

    source: str
    target: str
    direction: str
    category: str
    style: str
    domain: str

    def record(self) -> dict[str, str]:
        """As a line of JSONL: prompt, completion, category, style, domain."""
        return {
            "prompt": self.source,
            "completion": self.target,
            "category": self.category,
            "style": self.style,
            "domain": self.domain,
        }


def generate_pairs(
    count: int | None = None,
    seed: int = 0,
    *,
    split: str = "train",
    direction: str | None = None,
    restyle: bool = False,
    tokenized: bool = False,
) -> Iterator[Pair]:
    """Yields `count` pairs (None: without end), the same for a seed on every Python.

    `split`: `train`, or `verb` or `noun` with verbs or nouns that never occur in `train`; `wide` has everyday and
    invented words, names, numbers, particles, complements and adjuncts besides, none of the held-out words, and a
    sentence in ten that stays as it is (category `unchanged`). `direction`: `to_active` or
    `to_passive`; None mixes them. A given direction changes nothing else: `to_passive` yields the pairs of `to_active`
    turned round. Normally source and target share the style of the label and the source alone says what the target is;
    with `restyle` the source has a style of its own, and only the label says which one is asked for. `tokenized` writes
    lower case with blanks around punctuation. Pairs may repeat. Raises JslmError for a bad argument.
    """
    if count is not None and count < 0:
        raise JslmError(f"count = {count}; expected 0 or more")
    if seed < 0:
        raise JslmError(f"seed = {seed}; expected 0 or more")
    if direction is not None and direction not in DIRECTIONS:
        raise JslmError(f"direction = {direction!r}; expected one of {', '.join(DIRECTIONS)}, or none for both")
    words = lexicon(split)
    # Only `random()` is drawn from: its stream is promised to be the same on every Python, that of `choice` is not.
    pairs = _pairs(random.Random(seed).random, words, direction, restyle, tokenized, split == "wide")
    return itertools.islice(pairs, count)


class _Setting(NamedTuple):
    """What the parts of one sentence share; `style` is neutral with `restyle`, for both voices copy these words."""

    draw: Draw
    domain: DomainWords
    names: Sequence[str]
    style: int
    restyle: bool
    wide: bool


def _pairs(
    draw: Draw, words: Lexicon, direction: str | None, restyle: bool, tokenized: bool, wide: bool
) -> Iterator[Pair]:
    while True:
        domain = pick(draw, words.domains)
        style = int(draw() * len(STYLES))
        category = pick(draw, CATEGORIES)
        source_style = int(draw() * len(STYLES)) if restyle else style
        to_active = draw() < 0.5
        if direction is not None:
            to_active = direction == "to_active"
        setting = _Setting(draw, domain, words.names, NEUTRAL if restyle else style, restyle, wide)
        sentence = _sentence(setting, category)
        source = realize(sentence, to_active, source_style)
        target = realize(sentence, not to_active, style)
        if wide and draw() < _UNCHANGED:
            category = "unchanged"
            source = target = wide_statement(draw, domain) if draw() < 0.3 else target
        if tokenized:
            source, target = _tokens(source), _tokens(target)
        yield Pair(source, target, DIRECTIONS[not to_active], category, STYLES[style], domain.name)


def _sentence(setting: _Setting, category: str) -> Sentence:
    """A sentence that shows `category`; other features come at a low rate."""
    draw, domain = setting.draw, setting.domain
    of_person = draw() < 0.4
    verb = pick(draw, domain.person_verbs if of_person else domain.verbs)
    particle = after = adverb = ""
    if setting.wide:
        verb, particle, after = wide_verb(draw, domain, of_person)
    while category == "progressive" and verb.base in STATIVE:
        verb = pick(draw, domain.person_verbs if of_person else domain.verbs)
    kind = _KINDS.get(category, DECLARATIVE)
    negated = category == "negation" or (category in _MAY_BE_NEGATED and draw() < 0.15)
    agent, patient = _agent_and_patient(setting, category, kind, of_person, negated)
    wh = ""
    if kind == WH_ADVERB:
        wh = "why" if negated else pick(draw, ("when", "where", "why", "how"))

    tense = pick(draw, _TENSES_OF.get(category, _ANY_TENSE))
    if TENSES[tense].name == "ought to" and setting.style != FORMAL:
        tense = TENSE["should"]
    if verb.base in STATIVE and "progressive" in TENSES[tense].name:
        tense = TENSE["past perfect"]
    if tense == TENSE["present"] and verb[BASE] == verb[PAST] and agent.agreement != SINGULAR:
        # "They cut it" may be either.
        tense = TENSE["past"]

    manner = ""
    if not negated and verb.base not in STATIVE and draw() < 0.1:
        manner = f"{pick(draw, MANNER)} "
    tails = _NOTHING
    if kind != WH_ADVERB and category != "relative" and draw() < 0.25:
        tails = pick(draw, _TAILS[TENSES[tense].time])
    openers, marked = _openers(setting, kind, contracted=negated and agent is not SOMEONE)
    if setting.wide:
        if not negated and not manner and TENSES[tense].name not in _TWO_WORDS:
            adverb = wide_adverb(draw)
        if tails is _NOTHING and kind != WH_ADVERB and draw() < 0.35:
            tails = (wide_tail(draw, domain, agent is SOMEONE),) * 3
        elif kind == DECLARATIVE and openers is _NOTHING and draw() < 0.08:
            openers = (f"{wide_tail(draw, domain, False)[1:]}, ",) * 3
    return Sentence(
        kind, agent, verb, patient, tense, negated, manner, wh, openers, tails, marked, particle, after, adverb
    )


def _openers(setting: _Setting, kind: int, contracted: bool) -> tuple[tuple[str, str, str], bool]:
    """Openers by style, and whether the prompt tells the style (see `Sentence.marked`)."""
    draw, style = setting.draw, setting.style
    if setting.restyle:
        return _NOTHING, True
    needed = (style == CASUAL and not contracted) or (style == FORMAL and kind in (WH_AGENT, WH_PATIENT))
    if needed or draw() < (0.1 if style == NEUTRAL else 0.4):
        opener = pick(draw, _OPENERS[style][kind == DECLARATIVE])
        return (opener, opener, opener), True
    return _NOTHING, False


def _agent_and_patient(
    setting: _Setting, category: str, kind: int, of_person: bool, negated: bool
) -> tuple[NounPhrase, NounPhrase]:
    draw, domain = setting.draw, setting.domain
    feature = category if category in ("coordination", "relative", "preposition") else ""
    in_patient = draw() < 0.6
    in_agent = not in_patient or draw() < 0.4
    patient = _noun_phrase(setting, of_person, feature if in_patient else "")
    agentless = category == "agentless" or (kind in (YES_NO, WH_ADVERB) and not negated and draw() < 0.2)
    if setting.wide and kind == DECLARATIVE and not feature:
        agentless = agentless or draw() < 0.2
    agent = SOMEONE if agentless else _noun_phrase(setting, True, feature if in_agent else "")
    if category == "pronoun" or (not feature and draw() < 0.2):
        agent, patient = _pronouns(draw, agent, patient, of_person)
    if kind == WH_AGENT:
        agent = _asked(draw, domain.people, WHO)
    elif kind == WH_PATIENT:
        patient = _asked(draw, domain.people, WHO) if of_person else _asked(draw, domain.things, WHAT)
    return agent, patient


def _pronouns(draw: Draw, agent: NounPhrase, patient: NounPhrase, of_person: bool) -> tuple[NounPhrase, NounPhrase]:
    """Puts a pronoun in one place or both; never one that would have to be a reflexive (I saw me)."""
    chance = draw()
    if chance < 0.7 and agent is not SOMEONE:
        agent = pick(draw, _PRONOUNS)
    if chance > 0.35:
        patient = pick(draw, _PRONOUNS if of_person else _THING_PRONOUNS)
    if (agent in _FIRST and patient in _FIRST) or agent is patient is _YOU:
        agent = _THEY
    return agent, patient


def _asked(draw: Draw, nouns: Sequence[Noun], pronoun: NounPhrase) -> NounPhrase:
    chance = draw()
    if chance < 0.65:
        return pronoun
    is_plural = chance > 0.9
    text = f"which {pick(draw, nouns)[is_plural]}"
    return NounPhrase(text, text, PLURAL if is_plural else SINGULAR)


def _noun_phrase(setting: _Setting, is_person: bool, feature: str) -> NounPhrase:
    """A name, or a noun with what stands before it, and after it if `feature` asks."""
    draw = setting.draw
    if is_person and not feature and setting.names and draw() < 0.08:
        name = pick(draw, setting.names)
        return NounPhrase(name, name, SINGULAR)
    text, agreement = _bare(setting, is_person)
    if feature == "coordination":
        other, _ = _bare(setting, is_person)
        text, agreement = f"{text} and {other}", PLURAL
    elif feature == "relative":
        text += _relative(setting, is_person)
    elif feature or draw() < 0.08:
        place, _ = _bare(setting, draw() < 0.4)
        text += f" {pick(draw, PREPOSITIONS)} {place}"
    return NounPhrase(text, text, agreement)


def _bare(setting: _Setting, is_person: bool) -> tuple[str, int]:
    """Determiner, perhaps an adjective, noun; and the agreement."""
    draw = setting.draw
    if setting.wide and draw() < 0.8:
        return wide_bare(draw, setting.domain, is_person)
    noun = pick(draw, setting.domain.people if is_person else setting.domain.things)
    adjective = ""
    chance = draw()
    if chance < 0.3:
        adjective = f"{pick(draw, PERSON_ADJECTIVES if is_person else THING_ADJECTIVES)} "
        if chance < 0.06:
            adjective = f"{pick(draw, _INTENSIFIERS[setting.style])} {adjective}"
    if draw() < 0.35:
        return f"{pick(draw, _PLURAL_DETERMINERS)}{adjective}{noun.plural}", PLURAL
    determiner = pick(draw, _SINGULAR_DETERMINERS)
    if determiner == "a":
        determiner = article(adjective or noun.singular)
    return f"{determiner} {adjective}{noun.singular}", SINGULAR


def _relative(setting: _Setting, is_person: bool) -> str:
    """A clause about the noun; in formal style with "who", "whom" and "which"."""
    draw, domain = setting.draw, setting.domain
    verb = pick(draw, domain.person_verbs if is_person else domain.verbs)
    other, _ = _bare(setting, True)
    formal = setting.style == FORMAL
    if is_person and draw() < 0.4:
        return f" {'who' if formal else 'that'} {verb.past} {other}"
    word = "that" if not formal else "whom" if is_person else "which"
    return f" {word} {other} {verb.past}"


def _tokens(text: str) -> str:
    return text.lower().replace(",", " ,").replace(":", " :").replace(".", " .").replace("?", " ?")


_YOU: Final = NounPhrase("you", "you", PLURAL, True)
_THEY: Final = NounPhrase("they", "them", PLURAL, True)
_FIRST: Final = (NounPhrase("I", "me", I, True), NounPhrase("we", "us", PLURAL, True))
_PRONOUNS: Final = (
    *_FIRST,
    _YOU,
    NounPhrase("he", "him", SINGULAR, True),
    NounPhrase("she", "her", SINGULAR, True),
    _THEY,
)
_THING_PRONOUNS: Final = (NounPhrase("it", "it", SINGULAR, True), _THEY)

_SINGULAR_DETERMINERS: Final = listed(
    "the the the the a a a my your his her our their this that every each some another"
)
# The last ones are no determiner at all: "dogs chase cats".
_PLURAL_DETERMINERS: Final = (
    *(f"{word} " for word in listed("the the the the my your his her our their these those some many several")),
    *(f"{word} " for word in listed("two three few all both")),
    *("", "", ""),
)

_UNCHANGED: Final = 0.1
# An adverb would stand inside them: "has often to be seen".
_TWO_WORDS: Final = frozenset(("have to", "had to", "ought to", "going to"))
_KINDS: Final = {"yes_no": YES_NO, "wh_agent": WH_AGENT, "wh_patient": WH_PATIENT, "wh_adverb": WH_ADVERB}
_MODALS: Final = tuple(
    number
    for number, tense in enumerate(TENSES)
    if tense.active[0] not in ("be", "was", "have", "had", "will") and tense.name not in ("present", "past")
)
_ANY_TENSE: Final = (*(TENSE[name] for name in ("present", "past") for _ in range(6)), *range(len(TENSES)))
_TENSES_OF: Final = {
    "simple": (TENSE["present"], TENSE["past"]),
    "progressive": (TENSE["present progressive"], TENSE["past progressive"]),
    "perfect": (TENSE["present perfect"], TENSE["past perfect"], TENSE["future perfect"]),
    "future": (TENSE["future"], TENSE["going to"]),
    "modal": _MODALS,
}
_MAY_BE_NEGATED: Final = frozenset(CATEGORIES) - frozenset(_TENSES_OF) - {"wh_agent", "wh_patient"}

# What follows is said formally, neutrally or casually.
_NOTHING: Final = ("", "", "")
_INTENSIFIERS: Final = (
    ("extremely", "exceptionally", "rather", "highly"),
    ("very", "quite", "unusually", "somewhat"),
    ("really", "pretty", "super", "totally"),
)
_TAILS: Final = {
    "past": (
        (" on the previous day", " yesterday", " just yesterday"),
        (" in the previous year", " last year", " way back last year"),
        (" some time ago", " a while ago", " ages ago"),
        (" in the course of the morning", " in the morning", " first thing in the morning"),
    ),
    "present": (
        (" on a daily basis", " every day", " day in, day out"),
        (" at regular intervals", " regularly", " all the time"),
        (" without exception", " again and again", " over and over"),
    ),
    "now": (
        (" at this time", " now", " right now"),
        (" at the present moment", " at the moment", " right this minute"),
    ),
    "perfect": (
        (" on numerous occasions", " many times", " tons of times"),
        (" in recent times", " recently", " just lately"),
    ),
    "before": (
        (" prior to that time", " before that", " before all that"),
        (" at an earlier date", " earlier", " way earlier"),
    ),
    "future": (
        (" in the near future", " soon", " pretty soon"),
        (" on the following day", " tomorrow", " first thing tomorrow"),
        (" without delay", " immediately", " right away"),
    ),
}
# By style; for questions, for statements.
_OPENERS: Final = (
    (
        ("in that case, ", "under these circumstances, ", "for the sake of clarity, ", "with due respect, "),
        ("furthermore, ", "moreover, ", "consequently, ", "in addition, ", "nevertheless, ", "as a rule, "),
    ),
    (("then ", "in fact, ", "in other words, "), ("however, ", "in fact, ", "of course, ", "in the end, ")),
    (("so, ", "hey, ", "okay, ", "oh, ", "wait, "), ("well, ", "anyway, ", "yeah, ", "honestly, ", "guess what: ")),
)
