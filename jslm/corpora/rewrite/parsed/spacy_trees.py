"""Sentences of plain text as trees, by any spaCy pipeline for English that has a parser, a tagger and a lemmatizer.

spaCy's English pipelines speak another dialect than Universal Dependencies (CLEAR, with prepositions as heads): here it
is turned into the words that the rules know.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from jslm.corpora.rewrite.parsed.trees import Tree, Word, glue
from jslm.corpora.rewrite.words import listed
from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.files import read_utf8

_RELATIONS: Final = {
    "ROOT": "root",
    "nsubjpass": "nsubj:pass",
    "csubjpass": "csubj:pass",
    "dobj": "obj",
    "dative": "iobj",
    "auxpass": "aux:pass",
    "neg": "advmod",
    "prt": "compound:prt",
    "relcl": "acl:relcl",
    "poss": "nmod:poss",
    "acomp": "xcomp",
    "oprd": "xcomp",
    "npadvmod": "obl:unmarked",
    "quantmod": "advmod",
    "predet": "det:predet",
    "preconj": "cc:preconj",
    "intj": "discourse",
    "nn": "compound",
    "pcomp": "advcl",
}
_CONTROL: Final = frozenset(
    listed(
        "ask tell order force allow enable persuade convince encourage invite expect teach urge warn advise permit "
        "require cause lead make help elect call name consider paint find keep leave declare appoint render"
    )
)
_NOUNS: Final = ("NOUN", "PROPN", "PRON", "NUM")
_GUTENBERG_START: Final = re.compile(r"\*\*\* ?START OF TH(E|IS) PROJECT GUTENBERG[^\n]*")
_GUTENBERG_END: Final = re.compile(r"\*\*\* ?END OF TH(E|IS) PROJECT GUTENBERG")
_BETWEEN_TEXTS: Final = "<|endoftext|>"
_STRAIGHT: Final = str.maketrans("’‘“”", "''\"\"")
_COPY: Final = re.compile(r"\s+")


def read_texts(paths: Iterable[str | Path]) -> Iterator[str]:
    """Paragraphs of text files: `.jsonl` with a key "text", anything else plain, its hard-wrapped lines joined.

    Project Gutenberg's header and licence are left out, and `<|endoftext|>` ends a paragraph. Raises JslmError for a
    file that is not there, not UTF-8, or whose lines are no such JSON.
    """
    for path in map(Path, paths):
        text = read_utf8(path)
        if path.suffix == ".jsonl":
            documents = [_document(path, number, line) for number, line in enumerate(text.split("\n"), 1) if line]
        else:
            documents = _book(text).split(_BETWEEN_TEXTS)
        for document in documents:
            for paragraph in re.split(r"\n\s*\n", document.replace("\r\n", "\n")):
                if joined := _COPY.sub(" ", unicodedata.normalize("NFC", paragraph)).strip():
                    yield joined


def _book(text: str) -> str:
    """The text without Project Gutenberg's header and licence, where it has them."""
    start, end = _GUTENBERG_START.search(text), _GUTENBERG_END.search(text)
    return text[start.end() if start else 0 : end.start() if end else None]


def _document(path: Path, number: int, line: str) -> str:
    try:
        found = json.loads(line)["text"]
    except (ValueError, KeyError, TypeError):
        found = None
    if not isinstance(found, str):
        raise JslmError(f'{path}: line {number}: expected an object with "text", as in {{"text": "..."}}')
    return found


def parse(paragraphs: Iterable[str], pipeline: str) -> Iterator[Tree]:
    """The sentences of the paragraphs as trees, by the spaCy pipeline of this name or in this folder.

    Raises JslmError where spaCy or the pipeline is not installed, and for a pipeline without a parser or a tagger.
    """
    nlp = _load(pipeline)
    # The small pipelines know "'ve" and not its curly sister; quotes vary when pairs are typed (`noise`).
    straight = (paragraph.translate(_STRAIGHT) for paragraph in paragraphs)
    for document in nlp.pipe(straight, batch_size=64):
        for sentence in document.sents:
            words = convert(sentence)
            if words:
                yield Tree(words)


def _load(pipeline: str) -> Any:
    spacy = load_extra("spacy", "rewrite", "--parser spacy")
    try:
        nlp = spacy.load(pipeline, exclude=["ner"])
    except (OSError, ValueError) as error:
        first = str(error).split("\n")[0]
        raise JslmError(
            f"--pipeline {pipeline}: spaCy cannot open it ({first}); install one for English, as in "
            "`python -m spacy download en_core_web_sm`, or give the folder of one"
        ) from None
    missing = {"parser", "tagger", "lemmatizer"} - set(nlp.pipe_names)
    if missing:
        raise JslmError(
            f"--pipeline {pipeline}: has no {', '.join(sorted(missing))}; expected a pipeline with parser, tagger and "
            "lemmatizer, such as en_core_web_sm"
        )
    nlp.max_length = 10**7
    return nlp


def convert(sentence: Any) -> list[Word]:
    """The words of a spaCy span in the terms of Universal Dependencies, as far as the rules ask for them."""
    tokens = [token for token in sentence if not token.is_space]
    words = {}
    for token in tokens:
        feats = {key: value for key, value in token.morph.to_dict().items() if isinstance(value, str)}
        # The pipelines see every "'s" as a word of its own kind, and "that" and "who" by their tag.
        words[token.i] = Word(
            token.text, token.lemma_, token.pos_, token.tag_, feats, token.dep_, None, bool(token.whitespace_)
        )
    for token in tokens:
        word = words[token.i]
        if token.dep_ != "ROOT":
            word.head = words.get(token.head.i)
        word.deprel = _RELATIONS.get(token.dep_, token.dep_)
    result = list(words.values())
    for word in result:
        _preposition(result, word)
    for word in result:
        _joined_preposition(result, word)
    for word in result:
        _inverted(result, word)
    for word in result:
        _small_things(result, word)
    _coordination(result)
    _commas(result)
    glue(result)
    return result


def _children(words: list[Word], word: Word) -> list[Word]:
    return [other for other in words if other.head is word]


def _preposition(words: list[Word], word: Word) -> None:
    """Prepositions become `case` of their noun, which hangs on what they hung on."""
    if word.deprel not in ("prep", "agent", "iobj") or word.upos not in ("ADP", "SCONJ"):
        return
    head = word.head
    nouns = [child for child in _children(words, word) if child.deprel == "pobj"]
    if not nouns:
        clauses = [child for child in _children(words, word) if child.deprel in ("advcl", "ccomp")]
        if clauses:
            clauses[0].head, clauses[0].deprel = head, "advcl"
            word.head, word.deprel = clauses[0], "mark"
        else:
            word.deprel = "advmod" if word.deprel != "agent" else "stranded"
        return
    noun = nouns[0]
    agent = word.deprel == "agent"
    noun.head = head
    of_noun = head is not None and head.upos in _NOUNS and not agent
    noun.deprel = "obl:agent" if agent else "nmod" if of_noun else "obl"
    for other in _children(words, word):
        other.head = noun
    word.head, word.deprel = noun, "case"


def _joined_preposition(words: list[Word], word: Word) -> None:
    """Of "by him but by her" the second noun hangs on the first."""
    if word.deprel != "conj" or word.upos != "ADP" or word.head is None or word.head.deprel != "case":
        return
    nouns = [child for child in _children(words, word) if child.deprel == "pobj"]
    if nouns:
        nouns[0].head, nouns[0].deprel = word.head.head, "conj"
        for other in _children(words, word):
            other.head = nouns[0]
        for other in _children(words, word.head):
            if other.deprel == "cc":
                other.head = nouns[0]
        word.head, word.deprel = nouns[0], "case"


def _inverted(words: list[Word], be: Word) -> None:
    """ "Was the cake eaten?": the small pipelines see a noun with a participle behind a verb "be"."""
    if be.lemma.lower() != "be" or be.deprel != "root" or words[-1].form != "?":
        return
    place = words.index(be)
    subject = next((c for c in _children(words, be) if c.deprel == "nsubj" and words.index(c) > place), None)
    if subject is None:
        return
    verb = next((c for c in _children(words, subject) if c.deprel == "acl" and c.xpos == "VBN"), None)
    behind = [c for c in _children(words, be) if words.index(c) > place and c is not subject and c.deprel != "punct"]
    if verb is None or any(c.deprel in ("attr", "xcomp", "obl") for c in behind):
        return
    for child in _children(words, be):
        child.head = verb
        if child.deprel == "attr":
            child.deprel = "obl"
    verb.head, verb.deprel = None, "root"
    be.head, be.deprel, subject.head, subject.deprel = verb, "aux:pass", verb, "nsubj:pass"
    be.upos = "AUX"
    for stranded in _children(words, verb):
        # "Who was it written by?", "By whom was it written?"
        who = next((c for c in _children(words, verb) if c.xpos in ("WP", "WDT")), None)
        if stranded.deprel == "stranded" and stranded.lower == "by" and who is not None:
            who.deprel, stranded.head, stranded.deprel = "obl:agent", who, "case"
    for child in _children(words, verb):
        if child.deprel == "obl" and any(c.lower == "by" for c in _children(words, child)):
            child.deprel = "obl:agent"


def _small_things(words: list[Word], word: Word) -> None:
    if word.deprel == "aux" and word.lower == "to":
        word.deprel = "mark"
    if word.relation == "aux" and word.lower in ("'s", "'d") and word.head is not None:
        word.lemma = _short_lemma(words, word)
    small = word.deprel == "ccomp" and word.head is not None and word.head.lemma.lower() in _CONTROL
    if small and word.head is not None:
        subject = next((c for c in _children(words, word) if c.deprel == "nsubj"), None)
        helpers = [c for c in _children(words, word) if c.relation == "aux" or c.deprel == "mark"]
        bare = word.xpos == "VB" and all(c.lower == "to" for c in helpers)
        if subject is not None and (bare or (word.upos == "ADJ" and not helpers)):
            subject.head, subject.deprel, word.deprel = word.head, "obj", "xcomp"


def _short_lemma(words: list[Word], word: Word) -> str:
    if word.lower == "'d":
        return "would" if word.xpos == "MD" else "have"
    assert word.head is not None
    siblings = [other.lower for other in _children(words, word.head) if other.relation == "aux"]
    if "been" in siblings:
        word.deprel = "aux"
    elif word.deprel == "aux:pass":
        return "be"
    return "have" if word.head.xpos == "VBN" or "been" in siblings else "be"


def _coordination(words: list[Word]) -> None:
    """All conjuncts hang on the first one, and each "and" on what follows it."""
    for word in words:
        while word.deprel == "conj" and word.head is not None and word.head.deprel == "conj":
            word.head = word.head.head
    for place, word in enumerate(words):
        if word.deprel == "cc":
            later = [o for o in words[place + 1 :] if o.deprel == "conj"]
            mine = [o for o in later if o.head is word.head or (word.head is not None and o.head is word.head.head)]
            if mine:
                word.head = mine[0]


def _commas(words: list[Word]) -> None:
    """A comma before a relative clause, an apposition or a conjunct belongs to it, and so does the closing one."""
    for place, word in enumerate(words):
        if word.form != "," or word.head is None or place + 1 == len(words):
            continue
        for owner in words:
            if owner.head is word.head and owner.deprel in ("acl:relcl", "appos", "acl", "conj"):
                under = _under(words, owner)
                opens = under[0] is words[place + 1]
                closes = under[-1] is words[place - 1] and under[0].form == ","
                if opens or (closes and owner.deprel != "conj"):
                    word.head = owner
                    break


def _under(words: list[Word], word: Word) -> list[Word]:
    return Tree(words).subtree(word)
