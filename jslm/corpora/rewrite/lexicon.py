"""Words with all their forms, and who may use which: `lexicon(split)`."""

from __future__ import annotations

from functools import cache
from typing import Final, NamedTuple

from jslm.corpora.rewrite.words import DOMAINS, NAMES, PERSON_VERBS, listed
from jslm.errors import JslmError

SPLITS: Final = ("train", "verb", "noun", "wide")


class Verb(NamedTuple):
    """The five forms of a verb; the grammar picks one by its number."""

    base: str
    third: str
    past: str
    participle: str
    gerund: str


class Noun(NamedTuple):
    """A countable noun."""

    singular: str
    plural: str


class DomainWords(NamedTuple):
    """What a sentence of one domain may use."""

    name: str
    people: tuple[Noun, ...]
    things: tuple[Noun, ...]
    verbs: tuple[Verb, ...]
    person_verbs: tuple[Verb, ...]


class Lexicon(NamedTuple):
    """All domains of one split; `names` are people's first names, which belong to no domain."""

    domains: tuple[DomainWords, ...]
    names: tuple[str, ...]


@cache
def lexicon(split: str) -> Lexicon:
    """The words of a split: `train` has no held-out word, `verb` only held-out verbs, `noun` only held-out nouns.

    `wide` has those of `train`; `wide_words` come on top. Raises JslmError for another name.
    """
    if split not in SPLITS:
        raise JslmError(f"split = {split!r}; expected one of {', '.join(SPLITS)}")

    def nouns(words: str) -> tuple[Noun, ...]:
        return tuple(Noun(word, plural(word)) for word in _select(words, held_out_nouns(), split == "noun"))

    def verbs(words: str) -> tuple[Verb, ...]:
        return tuple(conjugate(word) for word in _select(words, held_out_verbs(), split == "verb"))

    domains = tuple(
        DomainWords(name, nouns(d.people), nouns(d.things), verbs(d.verbs), verbs(f"{d.person_verbs} {PERSON_VERBS}"))
        for name, d in DOMAINS.items()
    )
    return Lexicon(domains, () if split == "noun" else tuple(NAMES))


@cache
def held_out_verbs() -> frozenset[str]:
    """Base forms of the verbs that training never sees, in any form."""
    return _starred(" ".join([PERSON_VERBS, *(f"{d.verbs} {d.person_verbs}" for d in DOMAINS.values())]))


@cache
def held_out_nouns() -> frozenset[str]:
    """Singulars of the nouns that training never sees, in any form."""
    return _starred(" ".join(f"{d.people} {d.things}" for d in DOMAINS.values()))


@cache
def held_out_forms() -> frozenset[str]:
    """Every form of every held-out verb and noun."""
    verbs = {form for verb in held_out_verbs() for form in conjugate(_spelled(verb))}
    return frozenset(verbs | {form for noun in held_out_nouns() for form in (noun, plural(noun))})


def conjugate(word: str) -> Verb:
    """All forms of a verb given by its base; `+` at its end doubles the last consonant.

    >>> conjugate("stop+")
    Verb(base='stop', third='stops', past='stopped', participle='stopped', gerund='stopping')
    """
    base = word.removesuffix("+")
    stem = base + base[-1] if word.endswith("+") else base.removesuffix("e")
    past = base[:-1] + "ied" if base.endswith("y") and base[-2] not in "aeiou" else stem + "ed"
    participle = past
    third = base + "es" if base.endswith(("do", "go")) else plural(base)
    if base in IRREGULAR_VERBS:
        past, participle = IRREGULAR_VERBS[base]
    if base in DOUBLED_GERUNDS:
        stem = base + base[-1]
    gerund = base + "ing" if base.endswith("ee") else stem + "ing"
    return Verb(base, third, past, participle, gerund)


def plural(noun: str) -> str:
    """Plural of a noun; the rules for -s, -es and -ies are those of a verb's third person, too."""
    if noun in IRREGULAR_PLURALS:
        return IRREGULAR_PLURALS[noun]
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def article(word: str) -> str:
    """`a` or `an`, by the sound that the next word begins with."""
    if word.startswith(("hono", "hone", "hour")):
        return "an"
    if word.startswith(("uni", "use", "eu", "one")):
        return "an" if word.startswith("unin") or word == "unimportant" else "a"
    return "an" if word[0].lower() in "aeiou" else "a"


def _select(words: str, held_out: frozenset[str], want_held_out: bool) -> tuple[str, ...]:
    # dict.fromkeys: a verb may stand in a domain's list and in the shared one.
    bare = dict.fromkeys(word.rstrip("*") for word in words.split())
    return tuple(word for word in bare if (word.rstrip("+") in held_out) == want_held_out)


def _spelled(base: str) -> str:
    """A held-out verb as the lists have it: with `+` where its last consonant is doubled."""
    lists = " ".join([PERSON_VERBS, *(f"{d.verbs} {d.person_verbs}" for d in DOMAINS.values())])
    return f"{base}+" if f" {base}+*" in f" {lists}" else base


def _starred(words: str) -> frozenset[str]:
    return frozenset(word.rstrip("*+") for word in words.split() if word.endswith("*"))


IRREGULAR_PLURALS: Final = {
    "child": "children",
    "man": "men",
    "woman": "women",
    "mouse": "mice",
    "goose": "geese",
    "tooth": "teeth",
    "knife": "knives",
    "shelf": "shelves",
    "leaf": "leaves",
    "wolf": "wolves",
    "hypothesis": "hypotheses",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "volcano": "volcanoes",
    "wife": "wives",
    "thief": "thieves",
    "scarf": "scarves",
    "businessman": "businessmen",
    "fisherman": "fishermen",
    "salesman": "salesmen",
    "workman": "workmen",
}

# base, past, participle; the participle is left out where it equals the past.
_IRREGULAR = """
beat beat beaten, bind bound, bite bit bitten, break broke broken, bring brought, build built, buy bought,
catch caught, choose chose chosen, cut cut, dig dug, do did done, draw drew drawn, drink drank drunk,
drive drove driven, eat ate eaten, feed fed, fight fought, find found, fly flew flown, forget forgot forgotten,
freeze froze frozen, forgive forgave forgiven, give gave given, grow grew grown, hang hung, hear heard,
hide hid hidden, hit hit,
hold held, hurt hurt, keep kept, know knew known, lead led, leave left, lose lost, make made, meet met, mislead misled,
misunderstand misunderstood, outgrow outgrew outgrown, overhear overheard,
overtake overtook overtaken, pay paid, prove proved proven, read read, rebuild rebuilt, redo redid redone,
remake remade, rewrite rewrote rewritten, ride rode ridden, see saw seen, seek sought, sell sold, send sent, set set,
shake shook shaken, show showed shown, shut shut, sing sang sung, split split, spread spread, steal stole stolen,
sting stung, sweep swept, swing swung, take took taken, teach taught, tear tore torn, throw threw thrown,
understand understood, wake woke woken, weave wove woven, win won, withdraw withdrew withdrawn, withhold withheld,
write wrote written,
bend bent, bid bid, bleed bled, blow blew blown, breed bred, broadcast broadcast, burst burst, cast cast,
deal dealt, feel felt, fling flung, forbid forbade forbidden, foresee foresaw foreseen, foretell foretold, get got,
grind ground, lay laid, lend lent, let let, light lit, mean meant, mistake mistook mistaken, mow mowed mown,
outdo outdid outdone, outrun outran outrun, overcome overcame overcome, override overrode overridden, oversee oversaw
overseen, overthrow overthrew overthrown, put put, quit quit, ring rang rung, run ran run, say said, sew sewed sewn,
shed shed, shoot shot, shrink shrank shrunk, sink sank sunk, slay slew slain, sling slung, slit slit, sow sowed sown,
speak spoke spoken, spend spent, spin spun, spit spat, stick stuck, strike struck, string strung, swear swore sworn,
tell told, think thought, thrust thrust, tread trod trodden, undergo underwent undergone, undertake undertook
undertaken, undo undid undone, unwind unwound, uphold upheld, upset upset, wear wore worn, wed wed, wind wound,
withstand withstood, wring wrung, sleep slept, sit sat, stand stood, fall fell fallen, swim swam swum, go went gone,
come came come
"""
IRREGULAR_VERBS: Final = {
    forms[0]: (forms[1], forms[-1]) for forms in (entry.split() for entry in _IRREGULAR.split(","))
}
DOUBLED_GERUNDS: Final = frozenset(
    listed(
        "cut dig forget hit set shut split win bid forbid let outrun put quit run shed sit slit spin spit swim upset "
        "wed"
    )
)
