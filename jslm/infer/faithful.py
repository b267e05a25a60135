"""Whether a rewrite says what its sentence says: every word of the one is a word of the other, by lemma.

For rewrites that keep all words, such as from the passive to the active. A verb may change its form where one of the
two forms is a participle, or where it agrees with another subject; pronouns may change their case; "by" and auxiliaries
come and go. Names, numbers, quotation marks and brackets stay to the letter, a sentence stays as negative as it was.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from jslm.infer.irregular import BASES, PARTICIPLES, PREFIXES

_WORD: Final = re.compile(r"\d[\d.,:/–-]*\d|\d|[^\W\d_]+(?:['’][^\W\d_]+)*|[^\w\s]", re.UNICODE)
_CLITIC: Final = re.compile(r"(n't|'(?:s|re|ve|ll|d|m))$")
# Come and go with the voice.
_AUXILIARIES: Final = frozenset(
    {"am", "is", "are", "was", "were", "be", "been", "being", "has", "have", "had", "having", "do", "does", "did"}
    | {"get", "gets", "got", "getting", "gotten", "by", "'s", "'re", "'ve", "'m", "'d"}
)
_SAME: Final = {
    "me": "i",
    "him": "he",
    "her": "she",
    "us": "we",
    "them": "they",
    "whom": "who",
    "an": "a",
    "'ll": "will",
    "cannot": "can",
    "ca": "can",
    "wo": "will",
    "sha": "shall",
}
_NEGATIVE: Final = frozenset({"not", "n't", "never", "no", "nobody", "nothing", "none", "neither", "nor", "nowhere"})
_INDEFINITE: Final = {"anyone": "one", "anybody": "one", "nobody": "one", "anything": "thing", "nothing": "thing"}
# Join clauses, or stand for one, and come and go with it.
_LIGHT: Final = frozenset({"to", "that", "which", "it", "any"})
# These may come twice in the one and once in the other: "he fell and was helped by her".
_REPEATED: Final = frozenset({"i", "he", "she", "we", "they", "you"})
_ADDED: Final = frozenset({"someone", "somebody", "one"})
# They agree with the subject, and no participle is near: "needs to be fixed by us", "we need to fix".
_RAISING: Final = frozenset(
    {"need", "seem", "appear", "tend", "continue", "begin", "start", "happen", "ought", "use", "go"}
)
# A capital behind a word, or inside one.
_CAPITALS: Final = re.compile(r"(?<=[^\s.?!:“\"'(] )[A-ZÀ-ÞĀ-Ž][^\W\d_]*|\b[^\W\d_]+[A-Z][^\W\d_]*")
_KEPT_MARKS: Final = frozenset('"“”()[]{}«»')


def unfaithful(source: str, output: str, *, may_add: bool = False) -> str:
    """What `output` says otherwise than `source`, for people; empty where it says the same.

    `may_add`: a subject "someone" may be new, as in rewrites of passives without an agent.
    """
    before, after = _words(source), _words(output)
    for marks in _KEPT_MARKS:
        if source.count(marks) != output.count(marks):
            return f"{marks} is there {output.count(marks)} times, and was {source.count(marks)}"
    if not may_add and (reason := _negations(before, after)):
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
        return f"{next(iter(missing))!r} is lost"
    if added:
        return f"{next(iter(added))!r} is not in the sentence"
    return _names(source, output)


def _words(text: str) -> list[str]:
    found = []
    for token in _WORD.findall(text.replace("’", "'").lower()):
        if token in ("cannot", "can't"):
            found += ["can", "not"]
        elif match := _CLITIC.search(token):
            found += [token[: match.start()], match.group()] if match.start() else [token]
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
        elif word not in _AUXILIARIES | _NEGATIVE | _LIGHT and (word in _SAME or word[0].isalnum()):
            kept.append(_SAME.get(word, word))
    return Counter(kept)


def _negations(before: list[str], after: list[str]) -> str:
    old, new = (sum(word in _NEGATIVE for word in words) for words in (before, after))
    if old == new:
        return ""
    return "a negation is lost" if old > new else "a negation is not in the sentence"


def _names(source: str, output: str) -> str:
    """Words with a capital inside a sentence, or inside themselves, are written as they were."""
    spelled = [set(re.findall(r"[^\W\d_]+", text)) for text in (source, output)]
    inside = [set(_CAPITALS.findall(text)) for text in (source, output)]
    for mine, others in ((inside[0], spelled[1]), (inside[1], spelled[0])):
        for name in sorted(mine):
            if name not in others and name.capitalize() not in others and name.lower() not in {*_SAME, *_SAME.values()}:
                return f"{name!r} is spelled otherwise"
    return ""


def _forms_of_one(word: str, other: str) -> bool:
    common = bases(word) & bases(other)
    if not common:
        return False
    return is_participle(word) or is_participle(other) or bool(common & _RAISING)


def is_participle(word: str) -> bool:
    """Whether a word can be the participle of a passive."""
    return word.endswith(("ed", "'d")) or _bare(word) in PARTICIPLES


def _bare(word: str) -> str:
    """An irregular form behind its prefix: "written" of "rewritten"."""
    if word in BASES:
        return word
    return next((word[len(p) :] for p in PREFIXES if word.startswith(p) and word[len(p) :] in BASES), word)


def bases(word: str) -> set[str]:
    """What a form may be a form of: the word itself, its irregular base, and what regular endings leave."""
    found = {word}
    bare = _bare(word)
    if bare in BASES:
        found |= {word[: len(word) - len(bare)] + base for base in BASES[bare]}
    for ending in ("s", "es", "ed", "d", "ing"):
        if word.endswith(ending) and len(word) - len(ending) >= 2:
            stem = word[: -len(ending)]
            found |= {stem, stem + "e"}
            if stem.endswith("i"):
                found.add(stem[:-1] + "y")
            if len(stem) > 2 and stem[-1] == stem[-2]:
                found.add(stem[:-1])
            # "picnicked"
            if stem.endswith("ck"):
                found.add(stem[:-1])
    return found
