"""Short sentences out of long ones: a clause with its subject, its object and little else, as a sentence of its own.

People ask about short sentences, and books have long ones: half of their clauses stand in coordinations, after
conjunctions or beside quotations.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from jslm.corpora.rewrite.parsed.forms import upper_first
from jslm.corpora.rewrite.parsed.group import read_group
from jslm.corpora.rewrite.parsed.moves import question_word
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, new_word

_LONGEST_PHRASE: Final = 10
_LONGEST_PLACE: Final = 6
_SUBJECTS: Final = ("nsubj", "nsubj:pass")
_OBJECTS: Final = ("obj", "iobj")
# A clause with one of these means something else without it.
_NEEDED: Final = frozenset(["ccomp", "xcomp", "csubj", "csubj:pass", "expl"])
_PLACES: Final = frozenset(["obl", "obl:unmarked", "obl:tmod", "obl:npmod", "advmod"])
_CLAUSES: Final = ("acl", "advcl", "ccomp", "csubj", "parataxis", "appos")


def short_clauses(tree: Tree) -> Iterator[Tree]:
    """The clauses of a sentence that can stand alone, each a sentence with a capital and a full stop.

    A clause is one with a tense, a subject (its own, or that of the verb which it is coordinated with), and an object
    or a passive. It keeps these, its auxiliaries, negation and particle, and the next phrase of place or time where
    that is short. What is the whole sentence already is left out; so is a question, and one about "who" or "that".
    """
    for verb in tree.words:
        if verb.upos != "VERB" or any(word.form == "?" for word in tree.words[-3:]):
            continue
        try:
            words = _kept(tree, verb)
        except Unsure:
            continue
        if sum(word.upos != "PUNCT" for word in tree.words) > len(words):
            yield _sentence(tree, verb, words)


def _kept(tree: Tree, verb: Word) -> list[Word]:
    """The clause's words in order, the subject's first. Raises Unsure where it cannot stand alone."""
    group = read_group(tree, verb)
    passive = group.passive
    if not group.finite or group.outer is not None or group.first.form[0] in "'’":
        raise Unsure("a clause without a tense of its own")
    if (not passive and tree.child(verb, "obj") is None) or tree.children(verb, *_NEEDED):
        raise Unsure("a clause without an object, or with a clause that it needs")
    subject = _subject(tree, verb, passive)
    if question_word(tree, subject) is not None or subject.lower in ("which", "who", "that", "what"):
        raise Unsure("a relative clause, or a question")
    start = tree.index(group.first)
    chain = [*group.words(), verb, *tree.children(verb, "compound:prt")]
    objects = [_phrase(tree, word, _LONGEST_PHRASE) for word in tree.children(verb, *_OBJECTS, "obl:agent")]
    if any(question_word(tree, words[0]) is not None or tree.index(words[0]) < start for words in objects):
        raise Unsure("an object in front")
    kept = {id(word) for words in objects for word in words} | {id(word) for word in chain}
    last = max(tree.index(word) for word in tree.words if id(word) in kept)
    for child in tree.children(verb, *_PLACES):
        # Before and between: adverbs. Behind: what follows at once.
        words = tree.subtree(child)
        between = child.relation == "advmod" and len(words) == 1 and start - 1 <= tree.index(child) <= last
        behind = tree.index(words[0]) == last + 1 and len(words) <= _LONGEST_PLACE
        if between or (behind and _plain(tree, words)):
            kept |= {id(word) for word in words}
            last = max(last, tree.index(words[-1]))
        elif tree.index(words[0]) <= last and tree.index(words[-1]) >= start:
            raise Unsure("a phrase within the clause")
    body = [word for word in tree.words if id(word) in kept]
    phrase = _phrase(tree, subject, _LONGEST_PHRASE)
    if any(word.relation == "cc" and word.head is verb for word in body):
        raise Unsure("half of a coordination")
    return [*phrase, *body]


def _subject(tree: Tree, verb: Word, passive: bool) -> Word:
    """The subject, or that of the verb before in a coordination of the same voice."""
    own = tree.children(verb, *_SUBJECTS)
    head = verb.head
    if not own and verb.relation == "conj" and head is not None and head.upos == "VERB":
        own = tree.children(head, *_SUBJECTS)
        if passive != (tree.child(head, "aux:pass") is not None):
            # "It was opened and took a while": whose subject it is, is less certain.
            raise Unsure("another voice")
    if len(own) != 1:
        raise Unsure("no subject, or two")
    if tree.index(own[0]) > tree.index(verb):
        raise Unsure("a subject behind its verb")
    return own[0]


def _phrase(tree: Tree, head: Word, longest: int) -> list[Word]:
    words = tree.phrase(head)
    if len(words) > longest or not _plain(tree, words):
        raise Unsure("a long phrase, or one with a clause or a comma")
    return words


def _plain(tree: Tree, words: list[Word]) -> bool:
    return not any(word.relation in _CLAUSES or word.upos == "PUNCT" for word in words)


def _sentence(tree: Tree, verb: Word, words: list[Word]) -> Tree:
    copied = Tree.copies(words)
    result = Tree(copied, tree.name)
    root = copied[next(place for place, word in enumerate(words) if word is verb)]
    for word, old in zip(copied, words, strict=True):
        if word.head is None and word is not root:
            word.head, word.deprel = root, ("nsubj:pass" if "pass" in old.deprel else "nsubj")
    for place, (before, word) in enumerate(pairwise(copied)):
        neighbours = tree.index(words[place]) + 1 == tree.index(words[place + 1])
        before.space_after = words[place].space_after if neighbours else not word.glued
    root.head, root.deprel = None, "root"
    root.upos = "VERB"
    copied[-1].space_after = False
    result.words.append(new_word(".", ".", "PUNCT", ".", "punct", root, glued=True))
    upper_first(copied[0])
    return result
