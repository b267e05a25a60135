"""What both directions share: phrases with question words, places in the order of words, capitals and commas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from jslm.corpora.rewrite.parsed.forms import WH, lower_first, upper_first
from jslm.corpora.rewrite.parsed.group import Group
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, new_word
from jslm.corpora.rewrite.words import listed

_CLAUSES = ("acl", "advcl", "ccomp", "csubj", "parataxis")
_END = frozenset(listed(". ? ! ; : , … )"))
_QUOTES_OPEN = frozenset(listed("\" “ ‘ ' ("))


def question_word(tree: Tree, head: Word) -> Word | None:
    """The interrogative or relative pronoun that begins a phrase ("which books"), none from a clause in it."""
    for word in tree.subtree(head)[:3]:
        related = word.feats.get("PronType") in ("Rel", "Int") or word.xpos in ("WP", "WP$", "WDT")
        if related and (word.lower in WH or word.lower == "that"):
            if tree.child(word, "acl:relcl") is not None:
                return None
            up = word
            while up is not head and up.head is not None and up.relation not in _CLAUSES:
                up = up.head
            return word if up is head else None
        if word.relation not in ("case", "det") and word.lower not in ("all", "some", "both", "none", "most", "many"):
            return None
    return None


def is_relative(tree: Tree, group: Group) -> bool:
    """Whether the clause says something of a noun before it."""
    verb = group.subject_of
    while verb.deprel == "conj" and verb.head is not None:
        verb = verb.head
    return verb.deprel in ("acl:relcl", "advcl:relcl")


def asks(tree: Tree, group: Group) -> bool:
    """Whether the clause is a question of its own, not one inside another clause."""
    return group.subject_of.relation in ("root", "parataxis") and any(w.form == "?" for w in tree.words[-3:])


def check_phrase(words: Sequence[Word]) -> None:
    """Raises Unsure for a phrase with the end of a sentence in it, half of a quotation, or a stray comma."""
    forms = [word.form for word in words]
    if forms[0] in _QUOTES_OPEN and words[0].upos == "PUNCT":
        raise Unsure("a quotation, or a note in brackets")
    if len(forms) == 2 and forms[1] == ",":
        raise Unsure("a comma behind one word")
    if any(form[0] in ".?!…" for form in forms):
        raise Unsure("a phrase with the end of a sentence")
    pairs = (("(", ")"), ("“", "”"), ("[", "]"), ("``", "''"))
    if forms.count('"') % 2 or any(forms.count(a) != forms.count(b) for a, b in pairs):
        raise Unsure("a phrase with half of a quotation")


def place_of(words: Sequence[Word], word: Word) -> int:
    """Index of this very word."""
    return next(place for place, other in enumerate(words) if other is word)


def without(words: Iterable[Word], gone: Iterable[Word]) -> list[Word]:
    """The words but for these."""
    ids = {id(word) for word in gone}
    return [word for word in words if id(word) not in ids]


def replace(words: Sequence[Word], old: Sequence[Word], new: Sequence[Word]) -> list[Word]:
    """The words with `new` where `old`, a run, stood."""
    place = place_of(words, old[0])
    return [*words[:place], *new, *words[place + len(old) :]]


def insert(words: Sequence[Word], place: int, new: Sequence[Word]) -> list[Word]:
    """The words with `new` before the one at `place`."""
    return [*words[:place], *new, *words[place:]]


class Start(NamedTuple):
    """A word that begins a sentence, and whether it had a capital there."""

    word: Word
    capital: bool


def starts(words: Sequence[Word]) -> dict[int, Start]:
    """The words that begin a sentence: the first one (key 0), and those after an opening quote or a colon (its id)."""
    found: dict[int, Start] = {}
    key: int | None = 0
    for word in words:
        if word.upos in ("PUNCT", "SYM") and not word.form[-1].isalnum():
            if (word.form in _QUOTES_OPEN and not word.space_after) or word.form == ":":
                key = 0 if key == 0 else id(word)
            continue
        if key is not None:
            found[key] = Start(word, word.form[:1].isupper())
            key = None
    return found


def finish(tree: Tree, order: Sequence[Word], before: dict[int, Start]) -> None:
    """Puts the words in order, with capitals and commas where they belong now. `before`: `starts` of the old order.

    Raises Unsure where a word lost its head.
    """
    # "Dorian Gray": a tagger may take the first of two capitals for the sentence's own.
    names = {
        id(a)
        for a, b in pairwise(tree.words)
        if a.form[:1].isupper() and b.form[:1].isupper() and b.upos == "PROPN" and a.upos not in ("DET", "ADP", "PRON")
    }
    tree.reorder(order)
    _close(tree)
    now = starts(tree.words)
    beginning = {id(start.word) for start in now.values()}
    for key, (word, capital) in before.items():
        new = now.get(key)
        if new is None:
            raise Unsure("a quotation that moved")
        if new.word is word:
            continue
        if capital:
            upper_first(new.word)
            if id(word) not in beginning and id(word) not in names:
                lower_first(word)


def _close(tree: Tree) -> None:
    """No comma before other punctuation, and none at the end of a phrase that is followed by nothing."""
    kept: list[Word] = []
    for place, word in enumerate(tree.words):
        following = tree.words[place + 1] if place + 1 < len(tree.words) else None
        if word.form == "," and (following is None or following.form in _END):
            if any(other.head is word for other in tree.words):
                raise Unsure("a comma with words under it")
            if kept:
                kept[-1].space_after = word.space_after if following is None else not following.glued
            continue
        kept.append(word)
    tree.words = kept


def closed(tree: Tree, phrase: list[Word]) -> list[Word]:
    """The phrase, with a comma behind it where it ends in a part that begins with one ("Ann, who sings")."""
    if phrase[-1].form == ",":
        return phrase
    head = next(word for word in phrase if word.head is None or all(word.head is not other for other in phrase))
    for child in tree.children(head, "acl:relcl", "appos", "acl", "nmod"):
        words = [word for word in tree.subtree(child) if word in phrase]
        if words and words[0].form == "," and words[-1] is phrase[-1]:
            phrase[-1].space_after = False
            return [*phrase, new_word(",", ",", "PUNCT", ",", "punct", child, glued=True)]
    return phrase


def check_modifiers(tree: Tree, verb: Word, subject: Sequence[Word]) -> None:
    """Raises Unsure where a participle clause without a subject leans on the one that is about to move."""
    first = tree.index(verb)
    for clause in tree.children(verb, "advcl"):
        free = not tree.children(clause, "nsubj", "nsubj:pass", "csubj", "expl")
        finite = clause.xpos in ("VBD", "VBZ", "VBP") or any(
            w.xpos in ("VBD", "VBZ", "VBP", "MD") for w in tree.children(clause, "aux", "aux:pass", "cop")
        )
        infinitive = any(w.lower == "to" for w in tree.children(clause, "mark"))
        if free and not finite and (not infinitive or tree.index(clause) < first):
            raise Unsure("a participle that leans on the subject")


def put_auxiliaries(order: list[Word], old: Sequence[Word], new: Sequence[Word]) -> list[Word]:
    """The order with the i-th new auxiliary in the place of the i-th old one; those left over are taken out."""
    result: list[Word] = []
    ids = {id(word): place for place, word in enumerate(old)}
    for word in order:
        place = ids.get(id(word))
        if place is None:
            result.append(word)
        elif place < len(new):
            result.append(new[place])
    return result
