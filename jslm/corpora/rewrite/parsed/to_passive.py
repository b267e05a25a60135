"""From the active to the passive: a clause with subject and object, and the subject after "by"."""

from __future__ import annotations

from typing import Final

from jslm.corpora.rewrite.parsed.forms import (
    REFLEXIVE,
    as_object,
    as_subject,
    fits,
    person_and_number,
    verb_form,
)
from jslm.corpora.rewrite.parsed.group import Group, conjugate, coordinate, read_group
from jslm.corpora.rewrite.parsed.moves import (
    asks,
    check_modifiers,
    check_phrase,
    closed,
    finish,
    insert,
    is_relative,
    place_of,
    put_auxiliaries,
    question_word,
    starts,
    without,
)
from jslm.corpora.rewrite.parsed.to_active import NO_AGENTS
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, new_word
from jslm.corpora.rewrite.words import listed

# Verbs that have no passive, or one that people don't say.
_NO_PASSIVE: Final = frozenset(
    listed(
        "have be become resemble cost weigh lack fit mean want like suit contain equal let get belong last seem appear "
        "remain stay cross-dress dislike wish prefer marry join thank excuse die do go come say think guess hope need "
        "fail try hate love enjoy have possess comprise exceed total number measure reach"
    )
)
# Nouns that make one word with their verb ("take place").
_LIGHT: Final = frozenset(
    listed(
        "place part care advantage sense use way fun sure note time look turn step shape effect root heart hope fault "
        "aim issue matter sight hold charge attention thanks luck lot bit kind something thing minute second break "
        "breath"
    )
)
_OBJECT_CONTROL: Final = frozenset(
    listed(
        "ask tell order force allow enable persuade convince encourage invite expect teach urge warn advise permit "
        "require cause lead make elect call name consider paint find keep leave declare appoint render turn catch drive"
    )
)
_UNSAID: Final = frozenset(listed("there it that this which"))
_QUANTITIES: Final = frozenset(
    listed("any anyone anybody anything either much every everyone everybody everything all each both many few ever")
)
# Adverbs that belong to their verb as a particle does.
_NEAR: Final = frozenset(
    listed("back together away along home up down out off over in around apart aside forward here there")
)
# Verbs that say where to: the place comes before the agent.
_PLACING: Final = frozenset(listed("put place set lay"))
_TIMES: Final = NO_AGENTS


def candidates(tree: Tree) -> list[Word]:
    """The verbs that have a subject and an object, and no passive auxiliary."""
    return [
        word
        for word in tree.words
        if word.upos == "VERB" and tree.child(word, "obj") is not None and tree.child(word, "aux:pass") is None
    ]


def to_passive(tree: Tree, verb: Word, *, late: bool = False, formal: bool = False) -> Tree:
    """A new tree of the sentence with the clause of `verb`, a word of `tree`, in the passive.

    `late` puts the agent behind one more phrase, where there is one; `formal` asks "By whom ...?" for "Who ... by?".
    Raises Unsure where that can't be done with certainty.
    """
    result = tree.copy()
    _turn(result, result.words[tree.index(verb)], late, formal)
    return result


def _turn(tree: Tree, verb: Word, late: bool, formal: bool) -> None:
    if verb.lemma.lower() in _NO_PASSIVE:
        raise Unsure("a verb that hardly has a passive")
    group = read_group(tree, verb)
    if group.passive:
        raise Unsure("no active clause")
    tag = verb.xpos
    run = coordinate(tree, group, ("VBD", "VBN") if tag in ("VBD", "VBN") else (tag, "VBP") if tag == "VB" else (tag,))
    subject, target = _arguments(tree, group)
    before = starts(tree.words)
    agent, patient = tree.phrase(subject), tree.phrase(target)
    _check(tree, group, subject, agent, target, patient)
    asked, fronted = question_word(tree, subject), question_word(tree, target)
    end = _end(tree, group, run, target, late)
    order = list(tree.words)
    first = min(place_of(order, word) for word in [group.first, *group.auxiliaries, run[0]])
    inverted = first < place_of(order, agent[0])
    check_phrase(agent)
    check_phrase(patient)
    if group.finite:
        as_subject(tree, target)
    person, plural = person_and_number(tree, target)
    as_object(tree, subject)
    by = new_word("by", "by", "ADP", "IN", "case", subject)
    if asked is not None:
        order, inverted = _asked(tree, group, order, subject, agent, patient, by, end, asked, formal)
    else:
        if place_of(order, agent[0]) > place_of(order, end):
            raise Unsure("a subject behind its verb")
        order = insert(order, place_of(order, end) + 1, [by, *agent]) if end not in agent else order
        order = _moved(tree, group, order, agent, patient, by, fronted is not None, inverted)
    if fronted is not None:
        inverted = asks(tree, group)
        if fronted.lower == "whom":
            fronted.form = "Who" if fronted.form[0].isupper() else "who"
    old = [word for word in order if word in group.auxiliaries]
    if group.do and old:
        group.do = False
        group.auxiliaries = []
        new = conjugate(tree, group, passive=True, person=person, plural=plural, inverted=True, subject=patient)
    else:
        new = conjugate(tree, group, passive=True, person=person, plural=plural, inverted=inverted, subject=patient)
    order = _with_be(tree, group, order, old, new, run, patient, asked is not None)
    for word in new:
        word.head = verb
    _full_infinitive(tree, verb, order)
    subject.deprel, subject.head = "obl:agent", verb
    target.deprel, target.head = "nsubj:pass", group.subject_of
    finish(tree, order, before)


def _arguments(tree: Tree, group: Group) -> tuple[Word, Word]:
    verb = group.verb
    subjects = tree.children(group.subject_of, "nsubj")
    if group.outer is not None and tree.children(verb, "nsubj"):
        raise Unsure("two subjects")
    if len(subjects) != 1 or tree.children(group.subject_of, "expl", "csubj"):
        raise Unsure("no subject, or two")
    if not group.finite and not any(w.lower == "for" for w in tree.children(group.verb, "mark")):
        raise Unsure("a clause without a tense")
    tenses = [fits(verb.form, verb.lemma, tag) for tag in ("VBD", "VBP")]
    third = person_and_number(tree, subjects[0]) == (3, False)
    if group.tag in ("VBD", "VBP") and all(tenses) and verb is group.first and not third:
        raise Unsure("a verb form of two tenses")
    objects = tree.children(verb, "obj")
    if len(objects) != 1 or tree.children(verb, "ccomp", "csubj", "obl:agent"):
        raise Unsure("no object, two, or a clause")
    if tree.child(verb, "iobj") and tree.index(objects[0]) < tree.index(verb):
        raise Unsure("an object in front and another behind")
    return subjects[0], (tree.child(verb, "iobj") or objects[0])


def _check(tree: Tree, group: Group, subject: Word, agent: list[Word], target: Word, patient: list[Word]) -> None:
    """Raises Unsure where the passive would be wrong, or would not be said."""
    verb = group.verb
    if target.lower in REFLEXIVE or {word.lower for word in patient} & (REFLEXIVE | {"own"}):
        raise Unsure("a reflexive pronoun")
    if target.lower in ("each", "other", "another") and target.upos == "PRON":
        raise Unsure("a reciprocal pronoun")
    if subject.lower in _UNSAID and subject.upos in ("PRON", "DET") and question_word(tree, subject) is None:
        raise Unsure("a subject that is no agent")
    if subject.upos not in ("NOUN", "PROPN", "PRON") or target.upos not in ("NOUN", "PROPN", "PRON"):
        raise Unsure("a subject or object that is no noun")
    if agent[0].lower == "not":
        raise Unsure("a subject with a negation")
    if subject.lemma.lower() in _TIMES:
        raise Unsure("a subject that after 'by' would be no agent")
    if target.lemma.lower() in _LIGHT:
        raise Unsure("a noun that is one with its verb")
    owners = {word.lower for word in patient if word.deprel == "nmod:poss" and word.upos == "PRON"}
    pronoun = subject.lower
    if owners & {"his", "her", "its", "their"} and pronoun not in ("i", "we", "you"):
        raise Unsure("an object that belongs to the subject")
    if (owners & {"my", "our"} and pronoun in ("i", "we")) or ("your" in owners and pronoun == "you"):
        raise Unsure("an object that belongs to the subject")
    negated = group.negation is not None or any(w.lower in ("never", "hardly") for w in tree.children(verb, "advmod"))
    quantities = {word.lower for word in [*agent, *patient]} & _QUANTITIES
    if quantities and (negated or {word.lower for word in patient} & {"any", "anything", "anyone", "anybody"}):
        raise Unsure("a quantity under a negation")
    if any(
        w.lower == "by" for child in tree.children(verb, "obl", "advcl") for w in tree.children(child, "case", "mark")
    ):
        raise Unsure("'by' twice")
    for clause in tree.children(verb, "xcomp"):
        if verb.lemma.lower() not in _OBJECT_CONTROL:
            raise Unsure("an infinitive that leans on the subject")
        bare = clause.xpos == "VB" and not any(w.lower == "to" for w in tree.children(clause, "mark"))
        if bare and verb.lemma.lower() != "make":
            raise Unsure("a bare infinitive")
    check_modifiers(tree, verb, agent)
    if tree.child(verb, "parataxis", "vocative", "discourse", "dislocated"):
        raise Unsure("an interjection, or a sentence in the sentence")


def _end(tree: Tree, group: Group, run: list[Word], target: Word, late: bool) -> Word:
    """The word behind which the agent goes: the verb, or the last of what belongs to it most closely."""
    end = run[-1]
    patient = tree.subtree(target)
    close: list[Word] = []
    for child in [c for one in group.verbs for c in tree.children(one)]:
        near = (
            child.deprel == "compound:prt"
            or (child.deprel == "advmod" and child.lower in _NEAR)
            or (child.deprel in ("obj", "iobj") and child is not target)
        )
        complement = child.deprel == "xcomp" and child.upos in ("ADJ", "NOUN") and len(tree.subtree(child)) <= 5
        if (near or complement) and tree.index(child) > tree.index(run[-1]):
            close += tree.subtree(child)
    place = tree.index(end)
    words = tree.words
    while place + 1 < len(words) and (words[place + 1] in close or words[place + 1] in patient):
        place += 1
        if words[place] not in patient:
            end = words[place]
    if close and any(tree.index(word) > place for word in close):
        raise Unsure("an object far from its verb")
    if (late or group.verb.lemma.lower() in _PLACING) and place + 1 < len(words):
        following = words[place + 1]
        for child in tree.children(group.verb, "obl", "advmod"):
            phrase = tree.subtree(child)
            plain = all(w.relation not in ("acl", "punct") for w in phrase)
            if phrase[0] is following and len(phrase) <= 5 and plain:
                return phrase[-1]
    return end


def _asked(
    tree: Tree,
    group: Group,
    order: list[Word],
    subject: Word,
    agent: list[Word],
    patient: list[Word],
    by: Word,
    end: Word,
    asked: Word,
    formal: bool,
) -> tuple[list[Word], bool]:
    """The order of a clause that asks for its subject, or whose subject is a relative pronoun."""
    if asked.lower == "that" or group.outer is not None:
        raise Unsure("a relative pronoun that takes no 'by'")
    relative, direct = is_relative(tree, group), asks(tree, group)
    order = without(order, patient)
    stranded = not (relative or formal)
    if stranded:
        order = insert(order, place_of(order, end) + 1, [by])
        if asked.lower == "whom":
            asked.form = "Who" if asked.form[0].isupper() else "who"
    else:
        order = insert(order, place_of(order, agent[0]), [by])
        if asked is agent[0]:
            by.form = "By" if agent[0].form[0].isupper() else "by"
            agent[0].form = agent[0].form[0].lower() + agent[0].form[1:]
    after = place_of(order, agent[-1]) + 1
    if direct:
        # The auxiliary is put there later, before the new subject.
        if group.auxiliaries:
            after = place_of(order, group.auxiliaries[0]) + 1
        return insert(order, after, patient), True
    return insert(order, after, patient), False


def _moved(
    tree: Tree,
    group: Group,
    order: list[Word],
    agent: list[Word],
    patient: list[Word],
    by: Word,
    fronted: bool,
    inverted: bool,
) -> list[Word]:
    """The order without the subject in its old place, and with the object there, unless that is fronted."""
    new_place = place_of(order, by)
    old_place = next(place for place, word in enumerate(order) if word is agent[0])
    if old_place > new_place:
        raise Unsure("a subject behind its verb")
    del order[old_place : old_place + len(agent)]
    if fronted:
        return order
    place = place_of(order, patient[0])
    if place < old_place:
        raise Unsure("an object before its subject")
    order = without(order, patient)
    return insert(order, old_place, closed(tree, patient))


def _with_be(
    tree: Tree,
    group: Group,
    order: list[Word],
    old: list[Word],
    new: list[Word],
    run: list[Word],
    patient: list[Word],
    asked: bool,
) -> list[Word]:
    """The order with the new auxiliaries: in the places of the old, and the one that is left over before the verb."""
    order = put_auxiliaries(order, old, new[: len(old)])
    extra = new[len(old) :]
    if not extra:
        return order
    place = place_of(order, run[0])
    adverbs = []
    while place and order[place - 1].head is group.verb and order[place - 1].relation == "advmod":
        if tree.children(order[place - 1]):
            break
        if order[place - 1].lower in ("not", "n't") or (old and not order[place - 1].lower.endswith("ly")):
            break
        place -= 1
        adverbs.append(order[place])
    if not old and asked and asks(tree, group):
        # "Who wrote it?": the auxiliary goes before the new subject.
        place = place_of(order, patient[0])
    return insert(order, place, extra)


def _full_infinitive(tree: Tree, verb: Word, order: list[Word]) -> None:
    """ "They made him go": "he was made to go"."""
    for clause in tree.children(verb, "xcomp"):
        if clause.xpos == "VB" and verb.lemma.lower() == "make" and not tree.children(clause, "mark"):
            to = new_word("to", "to", "PART", "TO", "mark", clause)
            words = [word for word in order if word in tree.subtree(clause)]
            order[:] = insert(order, place_of(order, words[0]), [to])
            verb_form(clause.lemma.lower(), "VB")
