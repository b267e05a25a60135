"""From the passive to the active: every clause with an agent after "by", in whatever clause it stands."""

from __future__ import annotations

from typing import Final

from jslm.corpora.rewrite.parsed.forms import as_object, as_subject, lower_first, person_and_number
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
    replace,
    starts,
    without,
)
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, new_word
from jslm.corpora.rewrite.words import listed

# After "by" no agent, whatever a parser says: when, how and by what measure.
NO_AGENTS: Final = frozenset(
    listed(
        "monday tuesday wednesday thursday friday saturday sunday january february march april may june july august "
        "september october november december noon midnight morning evening night day week month year date deadline "
        "time end minute hour today tomorrow yesterday now then law default chance mistake accident mail e-mail email "
        "phone telephone fax post air sea land train bus car plane boat bike foot hand heart name word definition "
        "means way virtue reason far side dint order nature profession birth weight percent % mile foot inch margin"
    )
)
# Means rather than agents only where no article or the like stands with them ("by car", "by a car").
_ALLOWED_WITH: Final = ("det", "nmod:poss", "amod", "compound")
_VEHICLES: Final = frozenset(listed("car train bus plane boat bike van truck lorry taxi tram ferry ship helicopter"))
_FOCUS: Final = frozenset(listed("not only even also"))
_ANY: Final = {"anyone": "no one", "anybody": "nobody", "anything": "nothing"}
_OPEN: Final = frozenset(listed("any either all every both each much many ever yet everyone everybody everything"))
# With their infinitive bare in the active: "made him go".
_BARE: Final = frozenset(listed("make see hear"))
# "He hates being praised by her" -> "He hates her praising him".
_CONTROL_GERUND: Final = frozenset(listed("enjoy hate love like dislike mind remember resent fear appreciate"))
_CONTROL_INFINITIVE: Final = frozenset(listed("want like prefer expect"))
_LONG: Final = 20
_BREAKS: Final = frozenset([":", ";", "--", "—", "("])
# Participles that say how something is: nobody does it.
_STATES: Final = frozenset(
    listed(
        "locate situate bear know concern interest involve base relate dedicate mean suppose tire excite worry please "
        "surprise shock amaze marry engage divorce close open do finish go lose break dress sit name call title design "
        "expect oblige entitle accustom inclined associate compose make limit require allow schedule due disappoint"
    )
)
_GOT: Final = frozenset(listed("lost married dressed stuck divorced engaged"))
_SAME: Final = frozenset(listed("i you he she it we they"))


def to_active(tree: Tree) -> Tree:
    """A new tree of the sentence in which each passive with an agent is active; the given one stays as it is.

    Raises Unsure where there is none, and where one of them can't be turned with certainty.
    """
    result = tree.copy()
    # Each turns one clause; a sentence has few.
    for _ in range(8):
        verb = passive_with_agent(result)
        if verb is None:
            break
        _turn(result, verb)
    else:
        raise Unsure("too many passives")
    if result.text == tree.text:
        raise Unsure("no passive with an agent")
    return result


def passive_with_agent(tree: Tree) -> Word | None:
    """The first verb that has an auxiliary of the passive and an agent, itself or by a verb coordinated with it."""
    for verb in tree.words:
        if tree.child(verb, "aux:pass") is not None:
            if tree.child(verb, "obl:agent"):
                return verb
            if any(
                tree.child(other, "obl:agent") and not tree.child(other, "aux:pass", "nsubj:pass", "nsubj")
                for other in tree.children(verb, "conj")
                if other.xpos == "VBN"
            ):
                return verb
    return None


def _turn(tree: Tree, verb: Word) -> None:
    group = read_group(tree, verb)
    if not group.passive:
        raise Unsure("no passive")
    if verb.lower in _GOT and any(word.lower in ("get", "gets", "got", "getting") for word in group.auxiliaries):
        raise Unsure("a state that somebody got into")
    run = coordinate(tree, group, ("VBN", "VBD"))
    agents = [agent for one in group.verbs for agent in tree.children(one, "obl:agent")]
    if len(agents) != 1:
        raise Unsure("two agents")
    agent = agents[0]
    before = starts(tree.words)
    place = tree.index(verb)
    if any(w.lower == "only" and tree.index(w) < place for w in tree.children(verb, "advmod")):
        raise Unsure("'only', which may belong to the agent")
    inside = {id(word) for word in tree.subtree(agent)}
    if any(w.lower == "by" and w.relation == "case" and id(w) not in inside for w in tree.subtree(verb)):
        raise Unsure("'by' twice")
    if agent.head not in group.verbs:
        raise Unsure("an agent far from its verb")
    asked = question_word(tree, agent) is not None
    words = tree.subtree(agent) if asked else tree.phrase(agent)
    agent_words, bys = _agent_words(tree, agent, words)
    _no_negation(tree, group, agent, agent_words)
    if len(tree.children(group.subject_of, "nsubj:pass", "nsubj")) > 1:
        raise Unsure("two subjects")
    subject = tree.child(group.subject_of, "nsubj:pass", "nsubj") or _shared(tree, group)
    if subject.upos not in ("NOUN", "PROPN", "PRON", "DET", "NUM", "ADJ", "SYM"):
        raise Unsure("a subject that is no noun")
    patient = tree.phrase(subject) if subject in tree.words else [subject]
    check_modifiers(tree, verb, patient)
    check_phrase(patient)
    check_phrase(agent_words)
    if group.finite:
        as_subject(tree, agent)
    else:
        # "For it to be done by him": "for him to do it".
        as_object(tree, agent)
    person, plural = person_and_number(tree, agent)
    order = without(tree.words, bys)
    first = _first(order, group, run)
    inverted, order = _arrange(tree, group, run, order, subject, patient, agent, agent_words, asked, first)
    old = [word for word in order if word in group.auxiliaries]
    new = conjugate(tree, group, passive=False, person=person, plural=plural, inverted=inverted, subject=agent_words)
    order = put_auxiliaries(order, old, new)
    _bare(tree, group, order)
    for word in [agent, subject]:
        word.head = verb
    agent.head, agent.deprel = group.subject_of, "nsubj"
    subject.deprel = "iobj" if any(child is not subject for child in tree.children(verb, "obj")) else "obj"
    finish(tree, order, before)


def _first(order: list[Word], group: Group, run: list[Word]) -> int:
    return min(place_of(order, word) for word in [*group.auxiliaries, run[0], group.first])


def _arrange(
    tree: Tree,
    group: Group,
    run: list[Word],
    order: list[Word],
    subject: Word,
    patient: list[Word],
    agent: Word,
    agent_words: list[Word],
    asked: bool,
    first: int,
) -> tuple[bool, list[Word]]:
    """(whether the auxiliary comes before the new subject, the order with both phrases in their new places)."""
    if subject not in tree.words:
        order = insert(without(order, agent_words), _chain_start(order, group, run), closed(tree, agent_words))
        return False, _after_verb(tree, order, run, [subject], group)
    if subject.lower == "it" and tree.child(group.verb, "ccomp", "csubj", "csubj:pass") and not asked:
        # "It has been suggested by them that ...": the clause is the object.
        if first < place_of(order, subject):
            raise Unsure("a question with a clause")
        order = replace(without(order, agent_words), [subject], closed(tree, agent_words))
        return False, order
    fronted = question_word(tree, subject)
    inverted = first < place_of(order, patient[0])
    if asked:
        if place_of(order, agent_words[0]) > first:
            raise Unsure("a question word behind the verb")
        order = without(order, patient)
        if inverted:
            # "Who was it written by?": the auxiliary goes back behind the new subject, where it stands already.
            between = order[place_of(order, agent_words[-1]) + 1 : place_of(order, group.first)]
            if between:
                raise Unsure("words between question word and auxiliary")
        as_object(tree, subject)
        return False, _after_verb(tree, order, run, patient, group)
    order = without(order, agent_words)
    moved = closed(tree, agent_words)
    if fronted is not None:
        if fronted.lower == "who":
            _whom(fronted, tree, group)
        if asks(tree, group):
            place = place_of(order, group.first) + 1
            place += group.negation is not None and group.negation.lower == "n't"
            if group.outer is not None:
                raise Unsure("a question with a raising verb")
            return True, insert(order, place, moved)
        return False, insert(order, place_of(order, patient[-1]) + 1, moved)
    order = replace(order, patient, moved)
    as_object(tree, subject)
    return inverted, _after_verb(tree, order, run, patient, group)


def _whom(word: Word, tree: Tree, group: Group) -> None:
    # In a relative clause the object's form; questions begin with "Who" as people ask.
    if is_relative(tree, group):
        word.form = "Whom" if word.form[0].isupper() else "whom"


def _chain_start(order: list[Word], group: Group, run: list[Word]) -> int:
    place = min(place_of(order, word) for word in [*group.auxiliaries, *([group.to] if group.to else []), run[0]])
    while place and order[place - 1].head is group.verb and order[place - 1].relation == "advmod":
        place -= 1
    return place


def _after_verb(tree: Tree, order: list[Word], run: list[Word], patient: list[Word], group: Group) -> list[Word]:
    """The order with the new object behind verb and particle, a pronoun between the two."""
    place = place_of(order, run[-1]) + 1
    pronoun = len(patient) == 1 and patient[0].upos == "PRON"
    if not pronoun and place < len(order):
        following = order[place]
        if following.deprel == "compound:prt" and following.head in group.verbs:
            place += 1
    if patient[-1].form == "," and place < len(order) and order[place].upos != "PUNCT" and len(patient) > 1:
        raise Unsure("a phrase with a comma before other words")
    return insert(order, place, patient)


def _agent_words(tree: Tree, agent: Word, words: list[Word]) -> tuple[list[Word], list[Word]]:
    """(the agent's words without "by", its "by"s). Raises Unsure for what is no agent."""
    lemma = agent.lemma.lower()
    known = lemma in NO_AGENTS or lemma in _VEHICLES or agent.lower in NO_AGENTS
    if known and (lemma not in _VEHICLES or not tree.children(agent, *_ALLOWED_WITH)):
        raise Unsure("'by' with no agent")
    if agent.upos not in ("NOUN", "PROPN", "PRON", "DET", "ADJ", "NUM"):
        raise Unsure("an agent that is no noun")
    if agent.upos == "NUM" and agent.lower not in ("one", "two", "three", "some"):
        raise Unsure("'by' with a number")
    bys = [w for part in [agent, *tree.children(agent, "conj")] for w in tree.children(part, "case") if w.lower == "by"]
    others = [w for part in [agent] for w in tree.children(part, "case") if w.lower != "by"]
    if not bys or others:
        raise Unsure("an agent without 'by'")
    if (
        words[0] not in bys
        and words[0].lower not in _FOCUS | {"both", "either", "neither"}
        and words[0].xpos[:1] != "W"
    ):
        raise Unsure("words before 'by'")
    if len(words) > _LONG or any(w.form in _BREAKS for w in words):
        raise Unsure("a long agent")
    adverbs = [w for w in tree.children(agent, "advmod") if tree.index(w) < tree.index(bys[0])]
    if any(w.lower not in _FOCUS for w in adverbs):
        raise Unsure("an adverb before 'by'")
    kept = without(words, bys)
    joined = ("appos", "dep", "conj")
    if any(w.lower == "by" for part in tree.children(agent, "nmod") for w in tree.children(part, "case")):
        raise Unsure("'by' twice")
    if any(w.lower == "by" and w.head is not None and (w.head is agent or w.head.deprel in joined) for w in kept):
        raise Unsure("'by' twice")
    return kept, bys


def _no_negation(tree: Tree, group: Group, agent: Word, words: list[Word]) -> None:
    """ "Not by anyone" becomes "no one"; other quantities under a negation are left alone."""
    never = any(word.lower == "never" for word in tree.children(group.verb, "advmod"))
    if group.negation is None and not never:
        return
    found = {word.lower for word in words}
    if len(words) == 1 and agent.lower in _ANY and group.negation is not None:
        agent.form = agent.lemma = _ANY[agent.lower]
        _drop(tree, group)
    elif words[0].lower == "any" and words[0].relation == "det" and group.negation is not None:
        words[0].form = words[0].lemma = "no"
        _drop(tree, group)
    elif found & (_OPEN | set(_ANY)):
        raise Unsure("a quantity under a negation")


def _drop(tree: Tree, group: Group) -> None:
    assert group.negation is not None
    place = tree.index(group.negation)
    tree.words[place - 1].space_after = tree.words[place].space_after
    if group.modal is not None and group.modal.lower in ("ca", "wo", "sha"):
        group.modal.form = {"ca": "can", "wo": "will", "sha": "shall"}[group.modal.lower]
    tree.words = without(tree.words, [group.negation])
    group.negation = None


def _bare(tree: Tree, group: Group, order: list[Word]) -> None:
    if group.verb.lemma.lower() in _BARE:
        for clause in tree.children(group.verb, "xcomp"):
            for mark in tree.children(clause, "mark"):
                if mark.lower == "to" and clause.xpos == "VB":
                    order[:] = without(order, [mark])


def _shared(tree: Tree, group: Group) -> Word:
    """A pronoun for a subject that stands with another verb. Raises Unsure where that is none."""
    verb = group.subject_of
    if verb.relation == "conj" and verb.head is not None and verb.xpos == "VBN":
        if tree.child(verb, "aux", "aux:pass") is None:
            raise Unsure("a passive without an auxiliary of its own")
        owner = verb.head
        found = tree.child(owner, "nsubj", "nsubj:pass")
    elif (
        verb.deprel in ("xcomp", "ccomp") and verb.head is not None and verb.head.relation in ("root", "ccomp", "conj")
    ):
        owner = verb.head
        wants = _CONTROL_GERUND if group.tag == "VBG" else _CONTROL_INFINITIVE if group.to is not None else frozenset()
        if owner.lemma.lower() not in wants or owner.relation == "xcomp" or tree.child(owner, "obj", "iobj"):
            raise Unsure("a passive without a subject")
        found = tree.child(owner, "nsubj")
    else:
        raise Unsure("a passive without a subject")
    if found is None or found.lower not in _SAME or found.upos != "PRON" or tree.children(found, "conj"):
        raise Unsure("a subject that would have to be said twice")
    word = new_word(found.form, found.lemma, "PRON", "PRP", "obj", group.verb)
    lower_first(word)
    as_object(tree, word)
    return word


def with_someone(tree: Tree) -> Tree:
    """A new tree in which each passive without an agent has "by someone" ("by anyone" where it is negated).

    Raises Unsure where a passive says a state rather than what somebody does ("is located"), or is no plain clause.
    """
    result = tree.copy()
    verbs = [verb for verb in result.words if result.child(verb, "aux:pass") and not result.child(verb, "obl:agent")]
    for verb in verbs:
        group = read_group(result, verb)
        subject = result.child(verb, "nsubj:pass")
        if not group.finite or subject is None or group.outer is not None:
            raise Unsure("a passive without a subject or a tense")
        if verb.lemma.lower() in _STATES or result.children(verb, "ccomp", "csubj", "expl", "conj"):
            raise Unsure("a passive that says a state")
        form = "anyone" if group.negation is not None else "someone"
        agent = new_word(form, form, "PRON", "NN", "obl:agent", verb)
        by = new_word("by", "by", "ADP", "IN", "case", agent)
        place = result.index(verb) + 1
        following = result.words[place] if place < len(result.words) else None
        agent.space_after = not (following is not None and following.glued)
        result.reorder(insert(result.words, place, [by, agent]))
    return result
