"""A verb with its auxiliaries: tense, aspect, modal, voice, negation; and the same in the other voice."""

from __future__ import annotations

from dataclasses import dataclass, field

from jslm.corpora.rewrite.parsed.forms import PERSONAL, auxiliary, contracted, fits, verb_form
from jslm.corpora.rewrite.parsed.trees import Tree, Unsure, Word, new_word
from jslm.corpora.rewrite.words import listed

_NEGATIONS = frozenset(["not", "n't"])
_LEMMAS = {"am": "be", "is": "be", "are": "be", "was": "be", "were": "be", "has": "have", "had": "have", "did": "do"}
# A verb with an infinitive whose subject is also that of the infinitive, and acts on neither: "has to", "seems to".
RAISING = frozenset(listed("have seem appear tend continue begin start use go ought need happen come fail"))


@dataclass(eq=False)
class Group:
    """What stands around a verb. `tag` is that of the first word (VBP for the present, VBD, VB after "to", VBG).

    `verbs` has the verb and those coordinated with it that share its auxiliaries ("designed and built"). `outer` is the
    group of a raising verb ("has to" be seen), whose auxiliaries and subject are the ones that show.
    """

    verb: Word
    verbs: list[Word]
    tag: str
    modal: Word | None = None
    do: bool = False
    perfect: bool = False
    progressive: bool = False
    passive: bool = False
    negation: Word | None = None
    auxiliaries: list[Word] = field(default_factory=list)
    outer: Group | None = None
    to: Word | None = None

    @property
    def first(self) -> Word:
        """The word that agrees with the subject."""
        if self.outer is not None:
            return self.outer.first
        return self.auxiliaries[0] if self.auxiliaries else self.verb

    @property
    def finite(self) -> bool:
        """Whether it has a tense or a modal."""
        return self.outer.finite if self.outer is not None else self.tag in ("VBP", "VBD", "MD")

    @property
    def subject_of(self) -> Word:
        """The verb that the subject hangs on."""
        return self.outer.subject_of if self.outer is not None else self.verb

    def words(self) -> list[Word]:
        """Auxiliaries and negation of this verb alone."""
        return [*self.auxiliaries, *([self.negation] if self.negation else [])]


def read_group(tree: Tree, verb: Word) -> Group:
    """The group of a verb. Raises Unsure for one whose words and forms do not make up a regular one."""
    place = tree.index(verb)
    auxiliaries = [child for child in tree.children(verb) if child.relation == "aux"]
    if any(tree.index(word) > place for word in auxiliaries):
        raise Unsure("an auxiliary after its verb")
    negations = [word for word in tree.children(verb, "advmod") if word.lower in _NEGATIONS]
    negations = [word for word in negations if tree.index(word) < place]
    if any(word.lower in ("nt", "not") and word not in negations for word in tree.children(verb, "advmod")):
        raise Unsure("a negation in an odd place")
    if negations and tree.words[tree.index(negations[0]) + 1].lower in ("only", "just", "even", "merely"):
        raise Unsure("a negation of another word")
    # "Not by him but by her" is no negation of the verb.
    if len(negations) > 1:
        raise Unsure("two negations")
    to = next((w for w in tree.children(verb, "mark") if w.lower == "to" and tree.index(w) < place), None)
    group = Group(verb, [verb], "", negation=next(iter(negations), None), auxiliaries=auxiliaries, to=to)
    tags = _read_auxiliaries(group)
    if not any(fits(verb.form, verb.lemma, tag) for tag in tags):
        raise Unsure("a verb form that its lemma does not have")
    if not auxiliaries:
        group.tag = _plain_tag(verb, to)
    _add_raising(tree, group)
    return group


def _plain_tag(verb: Word, to: Word | None) -> str:
    tag = verb.xpos
    if to is not None:
        if tag not in ("VB", "VBP"):
            raise Unsure("an infinitive of another form")
        return "VB"
    if tag in ("VBZ", "VBP"):
        return "VBP"
    if tag in ("VBD", "VBG"):
        return tag
    raise Unsure("a verb without a tense")


def lemma_of(word: Word) -> str:
    """An auxiliary's lemma, whatever the tagger says of a contracted one."""
    lower = word.lower
    if lower in ("'s", "'d"):
        known = word.lemma.lower()
        return (
            known
            if known in ("be", "have", "will", "would", "do")
            else {"MD": "would", "VBD": "have"}.get(word.xpos, "")
        )
    return (
        {"'m": "be", "'re": "be", "'ve": "have", "'ll": "will"}.get(lower) or _LEMMAS.get(lower) or word.lemma.lower()
    )


def _read_auxiliaries(group: Group) -> list[str]:
    """Sets the group's features; returns the tags that the verb may have."""
    left = list(group.auxiliaries)
    expected = [group.verb.xpos]
    for word in group.auxiliaries:
        if word.lower in ("'s", "'d") and not lemma_of(word):
            raise Unsure("an auxiliary that could be two")
    if left and left[0].xpos == "MD":
        group.modal, group.tag, expected = left.pop(0), "MD", ["VB"]
    elif left and lemma_of(left[0]) == "do":
        group.do, expected = True, ["VB"]
        group.tag = "VBD" if left.pop(0).lower == "did" else "VBP"
    elif left:
        group.tag = _auxiliary_tag(left[0], group.to)
    if left and (group.modal or group.do) and left[0].lower not in ("be", "have", "get", "'ve"):
        raise Unsure("auxiliaries that make no tense")
    if left and lemma_of(left[0]) == "have":
        group.perfect, expected = True, ["VBN"]
        left.pop(0)
    if left and left[0].deprel == "aux" and lemma_of(left[0]) == "be":
        group.progressive, expected = True, ["VBG"]
        left.pop(0)
    if left and left[0].deprel == "aux:pass" and lemma_of(left[0]) in ("be", "get"):
        group.passive, expected = True, ["VBN"]
        left.pop(0)
    if left:
        raise Unsure("auxiliaries that make no tense")
    if group.perfect + group.progressive + bool(group.modal) > 1 and group.progressive:
        raise Unsure("a tense that one voice hardly has")
    if group.auxiliaries and group.verb.xpos not in (*expected, *(["VBD"] if expected == ["VBN"] else [])):
        raise Unsure("a verb form that its auxiliary does not take")
    return expected


def _auxiliary_tag(word: Word, to: Word | None) -> str:
    lower = word.lower
    if to is not None:
        if lower not in ("be", "have", "get"):
            raise Unsure("an infinitive of another form")
        return "VB"
    if lower in ("being", "having", "getting"):
        return "VBG"
    if lower in ("was", "were", "had", "did", "'d", "got"):
        return "VBD"
    if lower in ("be", "been", "gotten"):
        raise Unsure("a subjunctive or an ellipsis")
    return "VBP"


def _add_raising(tree: Tree, group: Group) -> None:
    head = group.verb.head
    if group.to is None or group.verb.deprel != "xcomp" or head is None or head.upos not in ("VERB", "AUX"):
        return
    if head.lemma.lower() in RAISING and head.relation != "aux":
        outer = read_group(tree, head)
        if tree.child(head, "obj", "iobj", "obl"):
            raise Unsure("an infinitive beside an object")
        if outer.passive:
            raise Unsure("a passive verb with an infinitive")
        group.outer = outer


def coordinate(tree: Tree, group: Group, tags: tuple[str, ...]) -> list[Word]:
    """Adds to the group the verbs that follow the first and share all with it; returns the words up to the last.

    The words between the verbs ("and", ",") are among those returned. Raises Unsure where another verb shares the
    subject and does not belong to the group.
    """
    conjuncts = [word for word in tree.children(group.verb, "conj") if word.upos in ("VERB", "AUX", "ADJ", "NOUN")]
    place = tree.index(group.verb)
    run = [group.verb]
    for word in conjuncts:
        own = [c for c in tree.children(word) if c.relation not in ("cc", "punct", "obl", "obj", "advmod")]
        end = tree.index(word)
        between = tree.words[place + 1 : end]
        plain = all(w.head is word and w.relation in ("cc", "punct", "advmod") for w in between)
        if not own and plain and between and word.upos == "VERB" and word.xpos in tags:
            run += [*between, word]
            group.verbs.append(word)
            place = end
        elif not any(c.relation in ("nsubj", "csubj", "expl") for c in tree.children(word)):
            raise Unsure("another verb with the same subject")
    return run


def conjugate(
    tree: Tree,
    group: Group,
    *,
    passive: bool,
    person: int,
    plural: bool | None,
    inverted: bool,
    subject: list[Word],
) -> list[Word]:
    """The auxiliaries of the group in a voice; the verbs get their forms, and a raising verb agrees.

    Raises Unsure where the subject's number is not known and matters, and for a verb of unknown forms.
    """
    if group.outer is not None:
        agree(group.outer, person, plural)
    kinds = ["have"] * group.perfect + ["be"] * group.progressive + ["be"] * passive
    asks_do = inverted or group.negation is not None
    if group.do and not asks_do:
        raise Unsure("an emphatic 'do'")
    if not group.modal and not kinds and asks_do and group.tag in ("VBP", "VBD") and group.outer is None:
        kinds = ["do"]
    made, tag = [], group.tag
    if group.modal is not None:
        made.append(_modal(group.modal, subject, inverted, group))
        tag = "VB"
    for place, kind in enumerate(kinds):
        last_passive = passive and place == len(kinds) - 1
        finite = tag in ("VBP", "VBD") and not made
        if finite and plural is None and not (tag == "VBD" and kind != "be") and person == 3:
            raise Unsure("a subject of unknown number")
        form = auxiliary(kind, tag, person, bool(plural)) if tag != "VBN" or kind == "be" else ""
        if finite and group.outer is None:
            form = _short(form, group, subject, inverted, passive)
        word = new_word(form, kind, "AUX", _tag(form, tag), "aux:pass" if last_passive else "aux", group.verb)
        word.glued = form[0] in "'’"
        made.append(word)
        tag = {"have": "VBN", "do": "VB"}.get(kind, "VBN" if last_passive else "VBG")
    for verb in group.verbs:
        lemma = verb.lemma.lower()
        exact = tag
        if tag == "VBP":
            if plural is None and person == 3:
                raise Unsure("a subject of unknown number")
            exact = "VBZ" if person == 3 and not plural else "VBP"
        verb.form = _same_case(verb.form, verb_form(lemma, exact, verb.form))
        verb.xpos = exact
    _negate(group, made)
    return made


def _tag(form: str, tag: str) -> str:
    return "VBZ" if tag == "VBP" and form in ("is", "has", "does", "'s", "’s") else tag


def _same_case(old: str, new: str) -> str:
    return new.upper() if old.isupper() and len(old) > 1 else new


def _apostrophe(group: Group) -> str:
    return next((word.form[0] for word in group.auxiliaries if word.form[0] in "'’"), "")


def _short(form: str, group: Group, subject: list[Word], inverted: bool, passive: bool) -> str:
    """The auxiliary as short as it was, where the new subject allows it."""
    mark = _apostrophe(group)
    if not mark or inverted or not subject:
        return form
    last = subject[-1]
    if len(subject) == 1 and last.lower in PERSONAL:
        return contracted(form, mark) or form
    noun = last.form[-1].isalpha() and last.upos in ("NOUN", "PROPN", "PRON")
    if passive and form in ("is", "has") and noun and not last.lower.endswith(("s", "x", "z", "ch", "sh")):
        return contracted(form, mark) or form
    return form


def _modal(modal: Word, subject: list[Word], inverted: bool, group: Group) -> Word:
    full = {"'ll": "will", "'d": "would"}.get(modal.lower)
    if full is None:
        return modal
    form = full
    if len(subject) == 1 and subject[0].lower in PERSONAL and not inverted:
        form = modal.form
    word = new_word(form, full, "AUX", "MD", "aux", group.verb)
    word.glued = form[0] in "'’"
    return word


def _negate(group: Group, made: list[Word]) -> None:
    if group.negation is None or group.negation.lower != "n't":
        return
    if not made or made[0].lower in ("am", "'m", "may") or made[0].form[0] in "'’":
        raise Unsure("a negation that has no short form here")
    if made[0].lower in ("be", "have") and made[0].xpos == "VB":
        raise Unsure("a negation of an infinitive")
    group.negation.glued = True


def agree(group: Group, person: int, plural: bool | None) -> None:
    """Gives the first word of a group that stays in its voice the form that a subject asks for.

    Raises Unsure where the subject's number is not known, and for a verb of unknown forms.
    """
    if group.outer is not None:
        agree(group.outer, person, plural)
        return
    first = group.first
    if group.modal is not None or group.tag not in ("VBP", "VBD"):
        return
    lemma = lemma_of(first) if group.auxiliaries else first.lemma.lower()
    if group.tag == "VBD" and lemma != "be":
        return
    if plural is None and person == 3:
        raise Unsure("a subject of unknown number")
    if first.form[0] in "'’":
        raise Unsure("a short auxiliary of a raising verb")
    if lemma in ("be", "have", "do"):
        first.form = auxiliary(lemma, group.tag, person, bool(plural))
        first.xpos = _tag(first.form, group.tag)
    else:
        exact = "VBZ" if person == 3 and not plural else "VBP"
        first.form, first.xpos = verb_form(lemma, exact, first.form), exact
