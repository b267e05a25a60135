"""Which text is held out for validation."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.text.documents import Document
from jslm.tokens.token_file import Split


@dataclass(frozen=True, slots=True)
class Counts:
    """How much text a corpus has; `utf8_bytes` and `characters` after decoding."""

    documents: int
    characters: int
    utf8_bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A document, or the part of one on either side of the cut; `end_of_text` says whether the token closes it.

    `rejected` is the answer that was not preferred. A piece that `continues` what stands elsewhere has no token before.
    `where` is the place it is from, for messages.
    """

    text: str
    split: Split
    end_of_text: bool
    bits: float | None
    labels: tuple[str, ...] = ()
    rejected: str | None = None
    continues: bool = False
    where: str = ""


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """`held_out` documents (sorted), or the character `cut` in the concatenation of all: validation starts there."""

    by: Literal["document", "position"]
    end_of_text: bool
    held_out: tuple[int, ...] = ()
    cut: int = 0

    def apply(self, documents: Iterable[Document]) -> Iterator[Piece]:
        """The documents as pieces, each with its split, in their order."""
        return self._by_document(documents) if self.by == "document" else self._by_position(documents)

    def _by_document(self, documents: Iterable[Document]) -> Iterator[Piece]:
        held_out = iter(self.held_out)
        next_held_out = next(held_out, -1)
        for number, document in enumerate(documents):
            split: Split = "train"
            if number == next_held_out:
                split, next_held_out = "val", next(held_out, -1)
            labels, rejected, where = document.labels, document.rejected, document.place
            yield Piece(document.text, split, self.end_of_text, document.bits, labels, rejected, where=where)

    def _by_position(self, documents: Iterable[Document]) -> Iterator[Piece]:
        start = 0
        for document in documents:
            cut = self.cut - start
            start += len(document.text)
            if cut <= 0 or cut >= len(document.text):
                split: Split = "train" if cut > 0 else "val"
                yield Piece(document.text, split, self.end_of_text, document.bits, document.labels)
            else:
                # The document goes on in validation, so that nothing ends at the cut.
                yield Piece(document.text[:cut], "train", False, None, document.labels)
                yield Piece(document.text[cut:], "val", self.end_of_text, None, document.labels)


def plan_split(config: DataConfig, counts: Counts) -> SplitPlan:
    """Decides the split from the corpus's size and `data.split`, `validation_fraction`, `split_seed`, `end_of_text`.

    `auto` splits by document from 2 / validation_fraction documents on, and pairs always. By document, the corpus is
    cut into as many runs of consecutive documents as are to be held out, and one is drawn from each: every part of the
    corpus is represented, and an order by author or date does no harm. Raises JslmError where one document is to be
    split by document.
    """
    fraction = config.validation_fraction
    by = config.split
    if by == "auto":
        enough = counts.documents >= 2 / fraction if fraction else counts.documents > 1
        by = "document" if enough or config.prompt_end or config.messages else "position"
    single = counts.documents == 1 and by == "position"
    end_of_text = config.end_of_text == "always" or (config.end_of_text == "auto" and not single)
    if by == "position":
        return SplitPlan("position", end_of_text, cut=int(counts.characters * (1 - fraction)))
    if fraction and counts.documents < 2:
        needs = "needs at least 2 documents to hold one out, found 1"
        if config.prompt_end or config.messages:
            raise JslmError(
                f"data.source: {needs}; give more records, or set data.validation_fraction=0 to hold out none"
            )
        raise JslmError(
            f"data.split = 'document' {needs}; use data.split=position, say with data.separator what stands between "
            "the documents of a text file, or set data.validation_fraction=0 to hold out none"
        )
    return SplitPlan("document", end_of_text, held_out=_draw(counts.documents, fraction, config.split_seed))


def _draw(documents: int, fraction: float, seed: int) -> tuple[int, ...]:
    if not fraction:
        return ()
    count = min(max(1, round(documents * fraction)), documents - 1)
    # random() is the one method of random.Random that Python promises never to change.
    generator = random.Random(seed)
    bounds = [run * documents // count for run in range(count + 1)]
    return tuple(start + int(generator.random() * (stop - start)) for start, stop in pairwise(bounds))
