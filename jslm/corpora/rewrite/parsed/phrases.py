"""Noun phrases from the sentences themselves, and invented ones: other people and things for the same frame."""

from __future__ import annotations

import random
from typing import Final

from jslm.corpora.rewrite.alphabet import letters
from jslm.corpora.rewrite.invent import invented_nouns
from jslm.corpora.rewrite.parsed.forms import as_object, as_subject, lower_first, person_and_number
from jslm.corpora.rewrite.parsed.group import agree, read_group
from jslm.corpora.rewrite.parsed.moves import finish, question_word, replace, starts
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word

_LONGEST: Final = 7
_MOST: Final = 20_000
_INVENTED_SHARE: Final = 1 / 7
# Of the invented ones.
_RARE_SHARE: Final = 0.25
_SCRIPTS: Final = ("LATIN", "GREEK", "CYRILLIC")
_PRONOUN_SHARE: Final = 0.12
_PRONOUNS: Final = ("I", "you", "he", "she", "it", "we", "they", "someone", "everyone", "nobody")
_PLAIN: Final = frozenset(
    ["det", "amod", "compound", "nmod:poss", "case", "nummod", "flat", "nmod", "conj", "cc", "punct"]
)


class Phrases:
    """Noun phrases as they stood, each a list of words without a head outside."""

    def __init__(self) -> None:
        self.agents: list[list[Word]] = []
        self.objects: list[list[Word]] = []
        self._seen: set[tuple[bool, str]] = set()

    def add(self, tree: Tree, verb: Word) -> None:
        """Takes the subject and the object of a verb, where they are short and plain."""
        for deprel, kept in (("nsubj", self.agents), ("obj", self.objects)):
            head = tree.child(verb, deprel)
            if head is None or len(kept) >= _MOST or not (phrase := _plain(tree, head)):
                continue
            text = " ".join(word.form for word in phrase)
            if (deprel == "nsubj", text) in self._seen:
                continue
            self._seen.add((deprel == "nsubj", text))
            copied = Tree.copies(phrase)
            lower_first(copied[0])
            kept.append(copied)

    def draw(self, agent: bool, rng: random.Random) -> list[Word]:
        """Words of their own: a phrase from the text, one with an invented noun, or (agents) a pronoun."""
        if agent and rng.random() < _PRONOUN_SHARE:
            form = rng.choice(_PRONOUNS)
            return [Word(form, form.lower(), "PRON", "PRP", {}, "nsubj")]
        kept = self.agents if agent else self.objects
        words = Tree.copies(kept[int(rng.random() * len(kept))])
        if rng.random() < _INVENTED_SHARE:
            _invent(words, rng)
        return words


def _plain(tree: Tree, head: Word) -> list[Word]:
    try:
        phrase = tree.phrase(head)
    except Unsure:
        return []
    own = {"his", "her", "its", "their", "my", "our", "your"}
    plain = all(word is head or word.deprel.removesuffix(":unmarked") in _PLAIN for word in phrase)
    letters = all(word.form.replace("-", "").replace("'", "").isalnum() for word in phrase)
    if len(phrase) > _LONGEST or not plain or not letters or head.upos not in ("NOUN", "PROPN"):
        return []
    if any(word.lower in own or (word.form.isupper() and len(word.form) > 4) for word in phrase):
        return []
    determined = any(word.relation in ("det", "nmod", "nummod") and word.head is head for word in phrase)
    bare = head.upos == "PROPN" or head.xpos == "NNS" or determined
    return phrase if bare and person_and_number(tree, head)[1] is not None else []


def _invent(words: list[Word], rng: random.Random) -> None:
    """Puts an invented noun in place of the head's."""
    nouns = invented_nouns(4000)
    head = next(word for word in words if word.head is None)
    noun = nouns[int(rng.random() * len(nouns))]
    if rng.random() < _RARE_SHARE:
        # Letters that no text of the training has are copied too, once they were copied anywhere.
        script = letters(_SCRIPTS[int(rng.random() * len(_SCRIPTS))])
        noun = "".join(rng.choice(script) for _ in range(3 + int(rng.random() * 6)))
    plural = head.xpos in ("NNS", "NNPS") or head.feats.get("Number") == "Plur"
    form = noun + ("es" if noun.endswith(("s", "x", "z", "ch", "sh")) else "s") if plural else noun
    before = words[words.index(head) - 1] if words.index(head) else None
    if before is not None and before.lower in ("a", "an"):
        before.form = "an" if form[0] in "aeiou" else "a"
    head.form, head.lemma = (form.capitalize(), noun.capitalize()) if head.upos == "PROPN" else (form, noun)


def with_other(
    tree: Tree, verb: Word, phrases: Phrases, rng: random.Random, *, other_object: bool
) -> tuple[Tree, Word]:
    """(the sentence with another subject of `verb` and, if asked for, another object, the verb there).

    Raises Unsure where subject or object is no plain phrase, and where agreement is not certain.
    """
    result = tree.copy()
    verb = result.words[tree.index(verb)]
    group = read_group(result, verb)
    if len(group.verbs) > 1 or result.children(verb, "conj"):
        raise Unsure("other words in a coordination")
    owner = group.subject_of
    subject = result.child(owner, "nsubj")
    _swap(result, subject, phrases.draw(True, rng), owner, "nsubj")
    subject = result.child(owner, "nsubj")
    assert subject is not None
    if group.finite:
        as_subject(result, subject)
    else:
        as_object(result, subject)
    agree(group, *person_and_number(result, subject))
    if other_object:
        target = result.child(verb, "iobj") or result.child(verb, "obj")
        deprel = "iobj" if result.child(verb, "iobj") else "obj"
        _swap(result, target, phrases.draw(False, rng), verb, deprel)
    return result, verb


def _swap(tree: Tree, old: Word | None, new: list[Word], head: Word, deprel: str) -> None:
    if old is None or question_word(tree, old) is not None:
        raise Unsure("a question word that is asked for")
    phrase = tree.phrase(old)
    before = starts(tree.words)
    order = replace(tree.words, phrase, new)
    top = next(word for word in new if word.head is None)
    top.head, top.deprel = head, deprel
    after = phrase[-1]
    place = next(i for i, word in enumerate(tree.words) if word is after)
    following = tree.words[place + 1] if place + 1 < len(tree.words) else None
    new[-1].space_after = not (following is not None and following.glued)
    finish(tree, order, before)
