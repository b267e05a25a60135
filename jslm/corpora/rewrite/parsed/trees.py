"""Sentences as trees of Universal Dependencies: read from CoNLL-U, copied, put in another order, written as text."""

from __future__ import annotations

import gzip
import unicodedata
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from jslm.corpora.rewrite.words import listed
from jslm.errors import JslmError

_COLUMNS = 10
_CLITICS = frozenset(listed("n't n’t 's ’s 're ’re 've ’ve 'll ’ll 'd ’d 'm ’m"))
_CLOSING = frozenset(listed(", . ; : ? ! ) ] } ” ’ … % '"))
_OPENING = frozenset(listed("( [ { “ ‘ $ £ €"))


class Unsure(Exception):
    """A rule does not know what is right here, and makes no sentence; its text is the reason."""


@dataclass(eq=False, slots=True)
class Word:
    """A word of a tree (`form`, `lemma`, `upos`, ... are CoNLL-U's columns); `glued` ones have no space before them."""

    form: str
    lemma: str
    upos: str
    xpos: str = ""
    feats: dict[str, str] = field(default_factory=dict)
    deprel: str = "dep"
    head: Word | None = None
    space_after: bool = True
    glued: bool = False

    @property
    def lower(self) -> str:
        """The form in small letters, its apostrophe straight."""
        return self.form.lower().replace("’", "'")

    @property
    def relation(self) -> str:
        """The relation without its subtype."""
        return self.deprel.partition(":")[0]


class Tree:
    """The words of a sentence in order, each with its head."""

    def __init__(self, words: Iterable[Word], name: str = "") -> None:
        self.words = list(words)
        self.name = name

    @property
    def text(self) -> str:
        """The sentence as it is written."""
        return "".join(word.form + " " * word.space_after for word in self.words).strip()

    def index(self, word: Word) -> int:
        """Place of a word, from 0."""
        return next(place for place, other in enumerate(self.words) if other is word)

    def children(self, word: Word, *deprels: str) -> list[Word]:
        """The words under this one, in order: all of them, or those of these relations."""
        return [other for other in self.words if other.head is word and (not deprels or other.deprel in deprels)]

    def child(self, word: Word, *deprels: str) -> Word | None:
        """The first of `children`."""
        return next(iter(self.children(word, *deprels)), None)

    def subtree(self, word: Word) -> list[Word]:
        """The word and all that hangs on it, in order."""
        under = {id(word)}
        grown = True
        while grown:
            grown = False
            for other in self.words:
                if other.head is not None and id(other.head) in under and id(other) not in under:
                    under.add(id(other))
                    grown = True
        return [other for other in self.words if id(other) in under]

    def phrase(self, word: Word) -> list[Word]:
        """`subtree`, of which all words must stand side by side. Raises Unsure where they do not."""
        found = self.subtree(word)
        first = self.index(found[0])
        if any(a is not b for a, b in zip(self.words[first : first + len(found)], found, strict=False)):
            raise Unsure("a phrase in several parts")
        return found

    def copy(self) -> Tree:
        """The same sentence, of other words."""
        return Tree(self.copies(self.words), self.name)

    @staticmethod
    def copies(words: Iterable[Word]) -> list[Word]:
        """Words with the same heads among each other; a head outside is None."""
        old = list(words)
        new = {
            id(word): Word(
                word.form,
                word.lemma,
                word.upos,
                word.xpos,
                dict(word.feats),
                word.deprel,
                None,
                word.space_after,
                word.glued,
            )
            for word in old
        }
        for word in old:
            new[id(word)].head = new.get(id(word.head)) if word.head is not None else None
        return [new[id(word)] for word in old]

    def reorder(self, words: Iterable[Word]) -> None:
        """Puts these words in place of those there were, with a space between any two that were not neighbours."""
        order = list(words)
        if len({id(word) for word in order}) != len(order):
            raise Unsure("a word would come twice")
        after = {id(a): b for a, b in pairwise(self.words)}
        first = self.words[:1]
        opened = [*first, *(b for a, b in pairwise(self.words) if a.space_after)]
        quotes = {id(word) for word in opened if word.form in ('"', "'", "``")}
        for a, b in pairwise(order):
            if after.get(id(a)) is not b:
                opening = not a.space_after and (a.form in _OPENING or id(a) in quotes)
                a.space_after = not (b.glued or opening)
        self.words = order
        for word in order:
            if word.head is not None and not any(word.head is other for other in order):
                raise Unsure("a word lost its head")


def read_conllu(path: str | Path) -> Iterator[Tree]:
    """The sentences of a CoNLL-U file (`.gz` too), NFC; one whose words do not make up its text is left out.

    Universal Dependencies, https://universaldependencies.org/format.html. Raises JslmError with the line of what is
    no CoNLL-U, and for a file that can't be read.
    """
    rows: list[tuple[int, list[str]]] = []
    text = name = ""
    for number, line in enumerate([*_lines(Path(path)), ""], 1):
        if line.startswith("#"):
            key, _, value = line[1:].partition("=")
            if key.strip() == "text":
                text = value.strip()
            elif key.strip() == "sent_id":
                name = value.strip()
        elif line.strip():
            columns = line.split("\t")
            if len(columns) != _COLUMNS:
                raise JslmError(
                    f"{path}: line {number}: {len(columns)} columns; expected the {_COLUMNS} of CoNLL-U, with tabs"
                )
            rows.append((number, columns))
        elif rows:
            tree = Tree(_words(path, rows), name)
            rows = []
            if not text or tree.text == unicodedata.normalize("NFC", text):
                yield tree
            text = name = ""


def _lines(path: Path) -> list[str]:
    try:
        raw = path.read_bytes()
        return (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise JslmError(f"{path}: not UTF-8 text (byte {error.start:,}); expected CoNLL-U, or its .gz") from None
    except (OSError, EOFError, zlib.error) as error:
        raise JslmError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _words(path: str | Path, rows: list[tuple[int, list[str]]]) -> list[Word]:
    words: dict[str, Word] = {}
    heads: dict[str, tuple[int, str]] = {}
    # Of a token of several words ("don't") only its last one has the space that the token has.
    joined: dict[str, bool] = {}
    last = ""
    for number, columns in rows:
        key, form, lemma, upos, xpos, feats, head, deprel, _, misc = columns
        space = "SpaceAfter=No" not in misc
        if "-" in key:
            first, _, last = key.partition("-")
            if not (first.isdecimal() and last.isdecimal()):
                raise JslmError(f"{path}: line {number}: id {key!r}; expected a number, or a range such as 3-4")
            joined |= {str(place): False for place in range(int(first), int(last))} | {last: space}
            continue
        if "." in key:
            continue
        if not key.isdecimal() or not head.isdecimal():
            raise JslmError(f"{path}: line {number}: id {key!r} and head {head!r}; expected numbers")
        pairs = dict(pair.split("=", 1) for pair in feats.split("|") if "=" in pair)
        form, lemma = (unicodedata.normalize("NFC", part) for part in (form, lemma))
        words[key] = Word(form, lemma, upos, xpos, pairs, deprel, None, joined.get(key, space))
        heads[key] = number, head
    for key, (number, head) in heads.items():
        if head != "0" and head not in words:
            raise JslmError(f"{path}: line {number}: head {head}, and the sentence has no such word")
        words[key].head = words.get(head)
    found = list(words.values())
    glue(found)
    return found


def glue(words: list[Word]) -> None:
    """Marks the words that have no space before them wherever they stand: clitics and closing punctuation."""
    for before, word in pairwise(words):
        closes = word.upos == "PUNCT" and (word.form in _CLOSING or word.form == '"')
        word.glued = not before.space_after and (word.form.lower() in _CLITICS or closes)


def new_word(
    form: str, lemma: str, upos: str, xpos: str, deprel: str, head: Word | None, *, glued: bool = False
) -> Word:
    """A word that the sentence did not have."""
    return Word(form, lemma, upos, xpos, {}, deprel, head, True, glued)
