"""Forms of English words: verbs by lemminflect, checked against their lemma; pronouns, person, number, capitals."""

from __future__ import annotations

import functools
from typing import Any, Final

from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word
from jslm.corpora.rewrite.words import listed
from jslm.extras import load_extra

_OBJECTS: Final = {
    "i": "me",
    "he": "him",
    "she": "her",
    "we": "us",
    "they": "them",
    "who": "whom",
    "whoever": "whomever",
}
_SUBJECTS: Final = {"me": "I", "him": "he", "her": "she", "us": "we", "them": "they", "whom": "who"}
PERSONAL: Final = frozenset(listed("i you he she it we they me him her us them"))
REFLEXIVE: Final = frozenset(listed("myself yourself himself herself itself oneself ourselves yourselves themselves"))
WH: Final = frozenset(listed("who whom whose which what whatever whichever whoever"))
# Head of a noun phrase that counts what comes after "of".
_COUNTING: Final = frozenset(
    listed("lot number majority most some all half rest plenty couple percent % minority third variety range")
)
_SINGULAR: Final = frozenset(
    listed(
        "it he she this that everyone everybody everything someone somebody something anyone anybody anything "
        "nobody nothing one each what who another either neither him her"
    )
)
_OPEN: Final = frozenset(["none", "all"])
_PLURAL: Final = frozenset(listed("we they these those us them both many few several you some most others"))
# Singular and plural alike; a tagger says the former of both.
_SAME_NUMBER: Final = frozenset(listed("fish sheep deer species series means offspring aircraft headquarters salmon"))
_ALWAYS_PLURAL: Final = frozenset(listed("police people cattle clergy men women children gentlemen feet teeth mice"))
# Spelled with a capital in any place; a tagger's lemma does not always say so.
_CAPITALISED: Final = frozenset(
    listed(
        "monday tuesday wednesday thursday friday saturday sunday january february april june july august september "
        "october november december english french german italian spanish russian chinese japanese american british "
        "canadian european african asian indian irish scottish welsh dutch greek roman latin jewish christian muslim "
        "catholic mexican australian iraqi iranian israeli palestinian arab polish turkish swedish danish norwegian "
        "finnish portuguese victorian"
    )
)
_BE: Final = {"VB": "be", "VBG": "being", "VBN": "been"}
_CONTRACTED: Final = {
    "am": "'m",
    "is": "'s",
    "are": "'re",
    "has": "'s",
    "have": "'ve",
    "had": "'d",
    "will": "'ll",
    "would": "'d",
}


@functools.cache
def _lemminflect() -> Any:
    return load_extra("lemminflect", "rewrite", "what finds the forms of words")


@functools.cache
def inflections(lemma: str, tag: str) -> tuple[str, ...]:
    """The forms of a verb under a Penn tag (VB, VBZ, VBP, VBD, VBG, VBN), the usual one first; none where unknown.

    Raises JslmError where lemminflect is not installed.
    """
    return tuple(_lemminflect().getInflection(lemma, tag, inflect_oov=False))


def fits(form: str, lemma: str, tag: str) -> bool:
    """Whether `form` is the form of `lemma` that `tag` says: what a bad parse mostly is not."""
    return form.lower() in inflections(lemma.lower(), tag)


def verb_form(lemma: str, tag: str, near: str = "") -> str:
    """A verb's form; of several spellings the one that `near`, another form of it in the sentence, has.

    Raises Unsure for a verb that lemminflect does not know.
    """
    if near.lower() == f"{lemma}led" and inflections(f"{lemma}l", tag):
        # A lemmatizer's "instal" of "installed".
        lemma += "l"
    found = inflections(lemma, tag)
    if not found:
        raise Unsure("a verb of unknown forms")
    if near.lower() in found:
        return near.lower()
    base = next((form for form in found if form + "ed" == near.lower()), "")
    if tag in ("VB", "VBP") and base:
        return base
    # Of "instal" and "install", both of which dictionaries have, the one that the lemma is.
    if tag in ("VB", "VBP") and lemma in found:
        return lemma
    # "travelling" for "travelled": the same stem.
    stem = near.lower().removesuffix("ed").removesuffix("ing")
    same = [form for form in found if form.removesuffix("ed").removesuffix("ing") == stem]
    return same[0] if same else found[0]


def auxiliary(lemma: str, tag: str, person: int, plural: bool) -> str:
    """A form of be, have or do. `tag` VBP stands for the present, VBD for the past, of this person and number."""
    if lemma == "be" and tag in _BE:
        return _BE[tag]
    third = person == 3 and not plural
    if lemma == "be":
        if tag == "VBD":
            return "was" if third or (person == 1 and not plural) else "were"
        return "is" if third else "am" if person == 1 and not plural else "are"
    if tag == "VBP" and third:
        return {"have": "has", "do": "does"}[lemma]
    return {"VBP": lemma, "VB": lemma, "VBD": {"have": "had", "do": "did"}.get(lemma, ""), "VBG": "having"}[tag]


def contracted(form: str, apostrophe: str) -> str | None:
    """The short form of an auxiliary, such as 've; None where it has none."""
    return found.replace("'", apostrophe) if (found := _CONTRACTED.get(form)) else None


def person_and_number(tree: Tree, word: Word) -> tuple[int, bool | None]:
    """(person, whether plural) of a noun phrase by its head; None where the phrase leaves it open."""
    conjuncts = tree.children(word, "conj")
    if conjuncts:
        ccs = {cc.lower for conjunct in conjuncts for cc in tree.children(conjunct, "cc")}
        if ccs <= {"and", "&"} and ccs:
            return (1 if any(part.lower in ("i", "we", "me", "us") for part in [word, *conjuncts]) else 3), True
        last = person_and_number(tree, conjuncts[-1])
        if "but" in ccs or last == person_and_number_alone(tree, word):
            return last
        return 3, None
    return person_and_number_alone(tree, word)


def person_and_number_alone(tree: Tree, word: Word) -> tuple[int, bool | None]:
    """As `person_and_number`, without what is coordinated with the head."""
    lower = word.lower
    if lower in ("i", "me"):
        return 1, False
    if lower in ("we", "us"):
        return 1, True
    if lower == "you":
        return 2, True
    if word.feats.get("PronType") == "Rel" and lower in ("who", "which", "that", "whom"):
        clause = word.head
        while clause is not None and clause.relation != "acl":
            clause = clause.head
        if clause is None or clause.head is None or clause.head.upos not in ("NOUN", "PROPN", "PRON"):
            return 3, None
        return person_and_number(tree, clause.head)
    if lower in _COUNTING:
        counted = [child for child in tree.children(word, "nmod") if any(c.lower == "of" for c in tree.children(child))]
        if counted:
            return person_and_number(tree, counted[0])
    if lower in _OPEN:
        return 3, None
    if lower in _ALWAYS_PLURAL or lower in _PLURAL:
        return 3, True
    if lower in _SINGULAR:
        return 3, False
    if word.upos == "NUM":
        return 3, (lower not in ("1", "one")) if word.xpos == "CD" and lower.isalpha() else None
    if lower in _SAME_NUMBER:
        return 3, None
    number = word.feats.get("Number", "")
    if not number and word.xpos:
        number = {"NN": "Sing", "NNP": "Sing", "NNS": "Plur", "NNPS": "Plur"}.get(word.xpos, "")
    if word.upos == "ADJ" and any(child.lower == "the" for child in tree.children(word, "det")):
        return 3, True
    return 3, {"Sing": False, "Plur": True, "Ptan": True, "Coll": False}.get(number)


def as_object(tree: Tree, word: Word) -> None:
    """Gives a phrase's pronouns the case of an object. Raises Unsure for what has none."""
    _change_case(tree, word, _OBJECTS, "Acc")


def as_subject(tree: Tree, word: Word) -> None:
    """Gives a phrase's pronouns the case of a subject. Raises Unsure for what has none."""
    if word.lower in REFLEXIVE or (word.lower in ("each", "other") and word.upos == "PRON"):
        raise Unsure("a reflexive pronoun")
    _change_case(tree, word, _SUBJECTS, "Nom")


def _change_case(tree: Tree, word: Word, table: dict[str, str], case: str) -> None:
    for part in [word, *tree.children(word, "conj")]:
        if part.lower in REFLEXIVE:
            raise Unsure("a reflexive pronoun")
        if part.upos == "PRON" and part.lower in table:
            changed = table[part.lower]
            part.form = changed.capitalize() if part.form[0].isupper() and part.form != "I" else changed
            part.feats["Case"] = case


def proper_case(word: Word) -> bool:
    """Whether a word has its capital in the middle of a sentence too."""
    if word.form == "I" or word.form.startswith(("I'", "I’")) or word.upos == "PROPN" or word.xpos in ("NNP", "NNPS"):
        return True
    if any(char.isupper() for char in word.form[1:]):
        return True
    return word.lower in _CAPITALISED or (word.lemma[:1].isupper() and word.lemma.lower() == word.lower)


def lower_first(word: Word) -> None:
    """Takes a word's capital, unless it is its own."""
    if not proper_case(word):
        word.form = word.form[:1].lower() + word.form[1:]


def upper_first(word: Word) -> None:
    """Gives a word a capital."""
    word.form = word.form[:1].upper() + word.form[1:]
