"""Noun phrases from the sentences themselves, and invented ones: other people and things for the same frame."""

from __future__ import annotations

import random
from typing import Final

from jslm.corpora.rewrite.alphabet import letters
from jslm.corpora.rewrite.invent import invented_nouns
from jslm.corpora.rewrite.parsed.forms import as_object, as_subject, lower_first, person_and_number
from jslm.corpora.rewrite.parsed.group import agree, read_group
from jslm.corpora.rewrite.parsed.moves import finish, question_word, replace, starts
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, new_word

_MOST: Final = 20_000
# Of a hundred agents of passives that people wrote, how many have so many words; subjects of actives are shorter.
_LENGTHS: Final = {1: 19, 2: 27, 3: 16, 4: 10, 5: 9, 6: 5, 7: 3, 8: 3, 9: 3, 10: 2, 11: 2, 12: 1}
_LONGEST: Final = max(_LENGTHS)
_LONGEST_OBJECT: Final = 7
_INVENTED_SHARE: Final = 1 / 7
# Of the invented ones.
_RARE_SHARE: Final = 0.25
_SCRIPTS: Final = ("LATIN", "GREEK", "CYRILLIC")
_PRONOUN_SHARE: Final = 0.12
_PRONOUNS: Final = ("I", "you", "he", "she", "it", "we", "they", "someone", "everyone", "nobody")
# Agents that are listed: "the cook, her boys and a fox".
_LISTED_SHARE: Final = 0.05
_LONGEST_LISTED: Final = 3
_AND_SHARE: Final = 0.85
_PLAIN: Final = frozenset(
    ["det", "amod", "compound", "nmod:poss", "case", "nummod", "flat", "nmod", "conj", "cc", "punct", "advmod"]
)
# Heads of a clause of their own: "everyone who knew her".
_OPEN_HEADS: Final = frozenset(["those", "everyone", "everybody", "someone", "somebody"])
_ASKING: Final = frozenset(["which", "what", "whose", "whatever", "whichever"])
# With these a parser may have joined what belongs to the verb: "saw the man in the park".
LOOSE: Final = frozenset(["in", "at", "on", "from", "for", "with", "during", "after", "before", "into", "to", "but"])


class Phrases:
    """Noun phrases as they stood, each a list of words without a head outside, by their number of words."""

    def __init__(self) -> None:
        self.agents: dict[int, list[list[Word]]] = {}
        self.objects: dict[int, list[list[Word]]] = {}
        self._seen: set[tuple[bool, str]] = set()

    def add(self, tree: Tree) -> None:
        """Takes a sentence's subjects and objects, where they are plain: all as agents, objects as objects too."""
        for head in tree.words:
            if head.deprel in ("nsubj", "nsubj:pass", "obj"):
                phrase = _plain(tree, head)
                if head.relation == "nsubj" or not _is_loose(phrase):
                    self._keep(phrase, agent=True)
                if head.deprel == "obj" and len(phrase) <= _LONGEST_OBJECT and not _has_clause(phrase):
                    self._keep(phrase, agent=False)

    def _keep(self, phrase: list[Word], *, agent: bool) -> None:
        if not phrase:
            return
        kept = (self.agents if agent else self.objects).setdefault(len(phrase), [])
        text = " ".join(word.form for word in phrase)
        if len(kept) >= _MOST or (agent, text) in self._seen:
            return
        self._seen.add((agent, text))
        copied = Tree.copies(phrase)
        lower_first(copied[0])
        copied[-1].space_after = True
        kept.append(copied)

    def draw(self, agent: bool, rng: random.Random) -> list[Word]:
        """Words of their own: a phrase from the text, one with an invented noun, or (agents) a pronoun or several."""
        if agent and rng.random() < _PRONOUN_SHARE:
            form = rng.choice(_PRONOUNS)
            return [Word(form, form.lower(), "PRON", "PRP", {}, "nsubj")]
        if agent and rng.random() < _LISTED_SHARE:
            return _listed([self._draw(True, rng, _LONGEST_LISTED) for _ in range(rng.choice((2, 3, 3)))], rng)
        return self._draw(agent, rng, _LONGEST)

    def _draw(self, agent: bool, rng: random.Random, longest: int) -> list[Word]:
        kept = self.agents if agent else self.objects
        # A text may have no phrase that is short enough.
        lengths = [length for length in sorted(kept) if length <= longest] or [min(kept)]
        length = rng.choices(lengths, [_LENGTHS[each] for each in lengths])[0]
        words = Tree.copies(kept[length][int(rng.random() * len(kept[length]))])
        if rng.random() < _INVENTED_SHARE:
            _invent(words, rng)
        return words

    def __bool__(self) -> bool:
        """Whether there are agents and objects."""
        return bool(self.agents and self.objects)


def _plain(tree: Tree, head: Word) -> list[Word]:
    """The phrase of a noun with plain words alone, or with a clause of its own at the end; empty where it is none."""
    try:
        phrase = tree.phrase(head)
    except Unsure:
        return []
    clause = tree.subtree(verb) if (verb := tree.child(head, "acl:relcl")) else []
    before = phrase[: len(phrase) - len(clause)]
    at_the_end = all(a is b for a, b in zip(phrase[len(before) :], clause, strict=True))
    if len(phrase) > _LONGEST or not before or not at_the_end:
        return []
    plain = all(word is head or word.deprel.removesuffix(":unmarked") in _PLAIN for word in before)
    letters = all(_is_word(word) or (word in before[1:-1] and _lists(word)) for word in phrase)
    if not plain or not letters or any(word.form.isupper() and len(word.form) > 4 for word in phrase):
        return []
    asks = any(word.lower in _ASKING for word in before)
    if asks or before[0].deprel == "cc" or any(word.lower == "by" for word in phrase):
        return []
    if head.upos not in ("NOUN", "PROPN") and not (clause and head.lower in _OPEN_HEADS):
        return []
    determined = any(word.relation in ("det", "nmod", "nummod") and word.head is head for word in before)
    bare = head.upos in ("PROPN", "PRON") or head.xpos == "NNS" or determined
    return phrase if bare and person_and_number(tree, head)[1] is not None else []


def _is_word(word: Word) -> bool:
    return word.form.replace("-", "").replace("'", "").replace("’", "").isalnum()


def _lists(word: Word) -> bool:
    """Whether a word is the comma of a list."""
    return word.form == "," and word.head is not None and word.head.relation == "conj"


def _is_loose(phrase: list[Word]) -> bool:
    return any(word.deprel == "case" and word.lower in LOOSE for word in phrase)


def _has_clause(phrase: list[Word]) -> bool:
    return any(word.deprel == "acl:relcl" for word in phrase)


def _listed(phrases: list[list[Word]], rng: random.Random) -> list[Word]:
    """Several phrases as one: "a, b and c"."""
    words = list(phrases[0])
    top = next(word for word in words if word.head is None)
    for place, phrase in enumerate(phrases[1:], 2):
        head = next(word for word in phrase if word.head is None)
        head.head, head.deprel = top, "conj"
        if place < len(phrases):
            words[-1].space_after = False
            words.append(new_word(",", ",", "PUNCT", ",", "punct", head, glued=True))
        else:
            form = "and" if rng.random() < _AND_SHARE else "or"
            words.append(new_word(form, form, "CCONJ", "CC", "cc", head))
        words += phrase
    return words


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
