"""Whether a rewrite says what its sentence says: every word of the one is a word of the other, by lemma.

For rewrites that keep all words, such as from the passive to the active. A verb may change its form where one of the
two forms is a participle, or where it agrees with another subject; pronouns may change their case; "by" and auxiliaries
come and go. Names inside a sentence, numbers, quotation marks, brackets and signs (hyphens, %, #, @, emojis) stay to
the letter, a sentence stays as negative as it was.

Readers in other languages do the same, word for word: docs/portable-format.md has the steps, and the vectors compare.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from jslm.prompts.rewrite_words import REWRITE_WORDS

_WORD: Final = re.compile(r"[0-9][0-9.,:/–-]*[0-9]|[0-9]|[^\W0-9_]+(?:'[^\W0-9_]+)*|[^\w\s]")
_LETTERS: Final = re.compile(r"[^\W0-9_]+")
_CLITICS: Final = ("n't", "'s", "'re", "'ve", "'ll", "'d", "'m")
_ENDINGS: Final = ("s", "es", "ed", "d", "ing")
# A capital behind one of these and a blank begins a sentence.
_OPENING: Final = frozenset(".?!:“\"'(")
# Come and go with the voice.
_AUXILIARIES: Final = frozenset(REWRITE_WORDS["auxiliaries"])
_SAME: Final[dict[str, str]] = REWRITE_WORDS["same"]
_NEGATIVE: Final = frozenset(REWRITE_WORDS["negative"])
_INDEFINITE: Final[dict[str, str]] = REWRITE_WORDS["indefinite"]
# Join clauses, or stand for one, and come and go with it.
_LIGHT: Final = frozenset(REWRITE_WORDS["light"])
# These may come twice in the one and once in the other: "he fell and was helped by her".
_REPEATED: Final = frozenset(REWRITE_WORDS["repeated"])
_ADDED: Final[list[str]] = REWRITE_WORDS["added"]
# They agree with the subject, and no participle is near: "needs to be fixed by us", "we need to fix".
_RAISING: Final = frozenset(REWRITE_WORDS["raising"])
_KEPT_MARKS: Final[list[str]] = REWRITE_WORDS["marks"]
# Punctuation that may change with the clauses; of all other signs there are as many.
_FREE_MARKS: Final = frozenset(REWRITE_WORDS["free"])
# Prefixes of verbs that keep the forms of the one behind: rewrite, outgrow, misread, undersell.
_PREFIXES: Final[list[str]] = REWRITE_WORDS["prefixes"]
# Before -ed and -ing these are doubled ("humming"), so "humm" and "humme" are no verbs; but see `doubled`.
_DOUBLING: Final = "bdgkmnprtv"
_DOUBLED: Final = frozenset(REWRITE_WORDS["doubled"])
# Of irregular verbs: each form's bases, and the participles. Other verbs are regular.
_BASES: Final[dict[str, set[str]]] = {}
_PARTICIPLES: Final[set[str]] = set()

for _base, _past, _participle in (verb.split(" ") for verb in REWRITE_WORDS["verbs"]):
    for _form in {_base, *_past.split("/"), *_participle.split("/")}:
        _BASES.setdefault(_form, set()).add(_base)
    _PARTICIPLES.update(_participle.split("/"))


def unfaithful(source: str, output: str, *, may_add: bool = False) -> str:
    """What `output` says otherwise than `source`, for people; empty where it says the same. Both are in Unicode NFC.

    `may_add`: a subject "someone" may be new, as in rewrites of passives without an agent.
    """
    for mark in _KEPT_MARKS:
        if source.count(mark) != output.count(mark):
            return f"{mark} is there {output.count(mark)} times, and was {source.count(mark)}"
    before, after = _words(source), _words(output)
    if reason := _negations(before, after):
        return reason
    old, new = _content(before), _content(after)
    if may_add:
        new -= Counter({word: 1 for word in _ADDED if not old[word]})
    missing, added = old - new, new - old
    for word in [*missing, *added]:
        if word in _REPEATED and old[word] and new[word]:
            missing.pop(word, None)
            added.pop(word, None)
    for word in list(missing):
        for other in list(added):
            if missing[word] and added[other] and _forms_of_one(word, other):
                both = min(missing[word], added[other])
                missing -= Counter({word: both})
                added -= Counter({other: both})
    if missing:
        return f"'{next(iter(missing))}' is lost"
    if added:
        return f"'{next(iter(added))}' is not in the sentence"
    return _names(source, output)


def _words(text: str) -> list[str]:
    found = []
    for token in _WORD.findall(text.replace("’", "'").lower()):
        clitic = next((each for each in _CLITICS if token.endswith(each)), "")
        if token in ("cannot", "can't"):
            found += ["can", "not"]
        elif clitic and token != clitic:
            found += [token.removesuffix(clitic), clitic]
        else:
            found.append(token)
    return found


def _content(words: list[str]) -> Counter[str]:
    kept = []
    for place, word in enumerate(words):
        # "No one" and "not ... anyone" are the same word here.
        if word == "one" and place and words[place - 1] == "no":
            kept.append("one")
        elif word in _INDEFINITE:
            kept.append(_INDEFINITE[word])
        elif word not in _AUXILIARIES | _NEGATIVE | _LIGHT | _FREE_MARKS:
            kept.append(_SAME.get(word, word))
    return Counter(kept)


def _negations(before: list[str], after: list[str]) -> str:
    old, new = (sum(word in _NEGATIVE for word in words) for words in (before, after))
    if old == new:
        return ""
    return "a negation is lost" if old > new else "a negation is not in the sentence"


def _names(source: str, output: str) -> str:
    """Words with a capital inside a sentence, or inside themselves, are written as they were."""
    for text, other in ((source, output), (output, source)):
        spelled = set(_LETTERS.findall(other))
        for name in _capitalised(text):
            forms = {name, name[:1].upper() + name[1:].lower()}
            if not spelled & forms and name.lower() not in {*_SAME, *_SAME.values()}:
                return f"'{name}' is spelled otherwise"
    return ""


def _capitalised(text: str) -> Iterator[str]:
    for match in _LETTERS.finditer(text):
        word, start = match.group(), match.start()
        inside = start > 1 and text[start - 1] == " " and not (text[start - 2].isspace() or text[start - 2] in _OPENING)
        if (inside and word[0].isupper()) or any(char.isupper() for char in word[1:]):
            yield word


def _forms_of_one(word: str, other: str) -> bool:
    common = bases(word) & bases(other)
    return bool(common) and (is_participle(word) or is_participle(other) or bool(common & _RAISING))


def is_participle(word: str) -> bool:
    """Whether a word can be the participle of a passive."""
    return word.endswith(("ed", "'d")) or _bare(word) in _PARTICIPLES


def _bare(word: str) -> str:
    """An irregular form behind its prefix: "written" of "rewritten"."""
    if word in _BASES:
        return word
    behind = (word[len(prefix) :] for prefix in _PREFIXES if word.startswith(prefix))
    return next((rest for rest in behind if rest in _BASES), word)


def bases(word: str) -> set[str]:
    """What a form may be a form of: the word itself, its irregular base, and what regular endings leave."""
    found = {word}
    bare = _bare(word)
    found |= {word.removesuffix(bare) + base for base in _BASES.get(bare, ())}
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 2 and not (bare in _BASES and ending in ("ed", "d")):
            stem = word.removesuffix(ending)
            if _is_doubled(stem.removesuffix("e")):
                if ending in ("ed", "ing") and not stem.endswith("e"):
                    found.add(stem[:-1])
                continue
            found |= {stem, stem + "e"}
            if stem.endswith("i"):
                found.add(stem[:-1] + "y")
            # "picnicked" too
            if stem.endswith("ck") or (len(stem) > 2 and stem[-1] == stem[-2]):
                found.add(stem[:-1])
    return found


def _is_doubled(stem: str) -> bool:
    """Whether the last letter stands twice for the sake of an ending."""
    return len(stem) > 2 and stem[-1] == stem[-2] and stem[-1] in _DOUBLING and stem not in _DOUBLED
