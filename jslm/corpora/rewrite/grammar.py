"""One sentence, said actively or passively, in one of three styles.

A `Sentence` holds who does what to whom; `realize` is a pure function of it. Tenses and modals are rows of a table of
finite verb, words that follow, and form of the main verb, once for each voice; every combination of agreement and
negation is spelled out from it when the module is loaded, for a sentence has to cost microseconds.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from jslm.corpora.rewrite.lexicon import Verb

STYLES: Final = ("formal", "neutral", "casual")
FORMAL, NEUTRAL, CASUAL = range(3)

# Agreement of a subject with the finite verb.
I, SINGULAR, PLURAL = range(3)  # noqa: E741 - the pronoun
# Forms of the main verb, as numbered in `Verb`.
BASE, THIRD, PAST, PARTICIPLE, GERUND = range(5)
# How the finite verb is negated or contracted.
_PLAIN, _NOT, _NT, _SHORT = range(4)

DECLARATIVE, YES_NO, WH_AGENT, WH_PATIENT, WH_ADVERB = range(5)


class NounPhrase(NamedTuple):
    """A noun phrase as subject and as object, and what it demands of its verb."""

    subject: str
    object: str
    agreement: int
    is_pronoun: bool = False


SOMEONE: Final = NounPhrase("someone", "someone", SINGULAR)
# "Whom" belongs to formal style, and is put there by `realize`.
WHO: Final = NounPhrase("who", "who", SINGULAR)
WHAT: Final = NounPhrase("what", "what", SINGULAR)


class Sentence(NamedTuple):
    """Who does what to whom, how and when.

    `particle` ("up") follows the verb, and a pronoun that is its object; `after` ("yellow", "to the station") follows
    the patient, or the passive verb; `adverb` follows the first auxiliary. Each has its blank: before it, the adverb
    after it.

    `marked`: something besides contractions and "whom" tells the style (an opener, a negation, or the label that comes
    with the prompt), so that these may be used and the other voice can still be told from the prompt.
    """

    kind: int
    agent: NounPhrase
    verb: Verb
    patient: NounPhrase
    tense: int
    negated: bool
    manner: str
    wh: str
    openers: tuple[str, str, str]
    tails: tuple[str, str, str]
    marked: bool
    particle: str = ""
    after: str = ""
    adverb: str = ""


def realize(sentence: Sentence, passive: bool, style: int) -> str:
    """The sentence as text, capitalised and punctuated; `style` numbers `STYLES`.

    Who acts is left out of a passive whose agent is `SOMEONE`; its negation is "no one" in the active.
    """
    kind, agent, verb, patient, tense, negated, manner, wh, openers, tails, marked, particle, after, adverb = sentence
    negation = (_NT if style == CASUAL else _NOT) if negated else _PLAIN
    if passive:
        subject, subject_agreement, is_pronoun = patient.subject, patient.agreement, patient.is_pronoun
        completion = "" if agent is SOMEONE else f" by {agent.object}"
        rest, completion = f"{particle}{after}", f"{particle}{after}{completion}"
    else:
        subject, subject_agreement, is_pronoun = agent.subject, agent.agreement, agent.is_pronoun
        rest = f"{particle}{after}"
        completion = f" {patient.object}{rest}" if patient.is_pronoun else f"{particle} {patient.object}{after}"
        if negated and agent is SOMEONE:
            subject, negation = "no one", _PLAIN
    if style == CASUAL and negation == _PLAIN and is_pronoun and marked:
        negation = _SHORT
    phrase = _PHRASES[passive][tense][subject_agreement][negation]
    if adverb:
        phrase = _with_adverb(phrase, adverb)
    in_order = f"{phrase.statement}{manner}{verb[phrase.statement_form]}"
    if kind == DECLARATIVE:
        body, mark = f"{subject}{in_order}{completion}", "."
    else:
        mark = "?"
        if kind == YES_NO:
            body = f"{phrase.auxiliary} {subject}{phrase.rest}{manner}{verb[phrase.form]}{completion}"
        elif kind == WH_ADVERB:
            body = f"{wh} {phrase.auxiliary} {subject}{phrase.rest}{manner}{verb[phrase.form]}{completion}"
        elif passive == (kind == WH_PATIENT):
            # What is asked for is the subject: no inversion.
            body = f"{subject}{in_order}{completion}"
        else:
            asked = agent if passive else patient
            formal = marked and style == FORMAL
            word = "whom" if formal and asked is WHO else asked.object
            question = f"{phrase.auxiliary} {subject}{phrase.rest}{manner}{verb[phrase.form]}"
            if not passive:
                body = f"{word} {question}{rest}"
            elif formal:
                body = f"by {word} {question}{rest}"
            else:
                body = f"{word} {question}{rest} by"
    text = f"{openers[style]}{body}{tails[style]}{mark}"
    return text[0].upper() + text[1:]


class _Phrase(NamedTuple):
    """The words between subject and main verb, in a statement and around the subject of a question."""

    statement: str
    statement_form: int
    auxiliary: str
    rest: str
    form: int


def _with_adverb(phrase: _Phrase, adverb: str) -> _Phrase:
    """With the adverb after the first auxiliary, or alone where there is none; and before the rest of a question."""
    start = " " if phrase.statement.startswith(" ") else ""
    finite, blank, words = phrase.statement.removeprefix(" ").partition(" ")
    return phrase._replace(statement=f"{start}{finite}{blank}{adverb}{words}", rest=f" {adverb}{phrase.rest[1:]}")


class Tense(NamedTuple):
    """A tense or modal: finite verb, words after it and form of the main verb, active and passive."""

    name: str
    time: str
    active: tuple[str, str, int]
    passive: tuple[str, str, int]


def _modal(modal: str, time: str) -> Tense:
    return Tense(modal, time, (modal, "", BASE), (modal, "be ", PARTICIPLE))


def _modal_perfect(modal: str) -> Tense:
    return Tense(f"{modal} have", "past", (modal, "have ", PARTICIPLE), (modal, "have been ", PARTICIPLE))


TENSES: Final = (
    Tense("present", "present", ("do", "", BASE), ("be", "", PARTICIPLE)),
    Tense("past", "past", ("did", "", BASE), ("was", "", PARTICIPLE)),
    Tense("present progressive", "now", ("be", "", GERUND), ("be", "being ", PARTICIPLE)),
    Tense("past progressive", "past", ("was", "", GERUND), ("was", "being ", PARTICIPLE)),
    Tense("present perfect", "perfect", ("have", "", PARTICIPLE), ("have", "been ", PARTICIPLE)),
    Tense("past perfect", "before", ("had", "", PARTICIPLE), ("had", "been ", PARTICIPLE)),
    Tense("future perfect", "future", ("will", "have ", PARTICIPLE), ("will", "have been ", PARTICIPLE)),
    Tense("future", "future", ("will", "", BASE), ("will", "be ", PARTICIPLE)),
    Tense("going to", "future", ("be", "going to ", BASE), ("be", "going to be ", PARTICIPLE)),
    *(_modal(modal, "future") for modal in ("can", "may", "must", "should", "might")),
    *(_modal(modal, "before") for modal in ("could", "would")),
    *(_modal_perfect(modal) for modal in ("should", "could", "might", "would", "must")),
    Tense("have to", "future", ("do", "have to ", BASE), ("do", "have to be ", PARTICIPLE)),
    Tense("had to", "past", ("did", "have to ", BASE), ("did", "have to be ", PARTICIPLE)),
    Tense("ought to", "future", ("ought", "to ", BASE), ("ought", "to be ", PARTICIPLE)),
)
TENSE: Final = {tense.name: number for number, tense in enumerate(TENSES)}

_FINITE: Final = {
    "be": ("am", "is", "are"),
    "was": ("was", "was", "were"),
    "have": ("have", "has", "have"),
    "do": ("do", "does", "do"),
}
_SHORT_FINITE: Final = {"am": "'m", "is": "'s", "are": "'re", "have": "'ve", "has": "'s", "will": "'ll"}
# "May" and "might" have no contraction in use, "am" has one in questions only.
_CONTRACTED: Final = {"will": "won't", "can": "can't", "may": "", "might": "", "am": "", "ought": ""}


def _phrase(finite_verb: str, words: str, form: int, agreement: int, negation: int) -> _Phrase:
    finite = _FINITE.get(finite_verb, (finite_verb,) * 3)[agreement]
    contracted = _CONTRACTED.get(finite, f"{finite}n't")
    auxiliary, rest = finite, f" {words}"
    statement, statement_form = f" {finite} {words}", form
    if negation in (_NOT, _NT):
        statement, rest = f" {finite} not {words}", f" not {words}"
        if finite == "can":
            statement = f" cannot {words}"
        if negation == _NT and contracted:
            statement, auxiliary, rest = f" {contracted} {words}", contracted, f" {words}"
        elif negation == _NT and finite == "am":
            statement, auxiliary, rest = f"'m not {words}", "aren't", f" {words}"
    elif finite_verb in ("do", "did"):
        # Statements need no "do": the next word takes its ending.
        if words:
            have = "had" if finite_verb == "did" else _FINITE["have"][agreement]
            statement = f" {have} {words.removeprefix('have ')}"
        else:
            statement = " "
            statement_form = PAST if finite_verb == "did" else THIRD if agreement == SINGULAR else BASE
    elif negation == _SHORT and finite in _SHORT_FINITE:
        statement = f"{_SHORT_FINITE[finite]} {words}"
    return _Phrase(statement, statement_form, auxiliary, rest, form)


# [passive][tense][agreement][negation]
_PHRASES: Final = tuple(
    tuple(
        tuple(
            tuple(_phrase(*(tense.passive if passive else tense.active), agreement, n) for n in range(4))
            for agreement in (I, SINGULAR, PLURAL)
        )
        for tense in TENSES
    )
    for passive in (False, True)
)
