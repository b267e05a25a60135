"""Deduplication: documents that are the same, documents that are nearly the same, and lines that are everywhere.

Near-duplicates are found by MinHash and locality-sensitive hashing (Broder 1997, "On the resemblance and containment of
documents"; Leskovec et al., "Mining of Massive Datasets", chapter 3; Lee et al. 2022, "Deduplicating Training Data
Makes Language Models Better"). Memory holds hashes, never texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from jslm.config import DedupConfig
from jslm.text.document import Document
from jslm.text.dropped import DropReport, Verdict
from jslm.text.line_counts import LineCounts, line_hash
from jslm.text.readers.problems import need

if TYPE_CHECKING:
    from rensa import RMinHash

# Scripts written without spaces give a word a character.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|\w+")
_PERMUTATIONS = 128
_SEED = 42
# The share of pairs right at the threshold that locality-sensitive hashing has to find.
_RECALL = 0.99


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What the comparison needs of a text: made in any process, of constant size. None where that rule is off."""

    digest: bytes | None
    sketch: RMinHash | None


def fingerprint(text: str, config: DedupConfig) -> Fingerprint:
    """What `DocumentIndex` compares; the costly part, for worker processes.

    Raises JslmError where `near` is on and the package that it needs is not installed.
    """
    digest = None
    if config.exact:
        normalized = " ".join(text.split()).lower()
        digest = blake2b(normalized.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return Fingerprint(digest, _sketch(text, config.near_words) if config.near else None)


class DocumentIndex:
    """The documents so far, to tell which of the next ones are there already.

    Of a group of duplicates the first stays. A document is compared with those that were kept, so a chain of small
    changes is cut where it has gone too far from its beginning. The result depends on the documents and their order
    alone. Memory, for each that is kept: 0.1 kB for `exact` and 2 to 6 kB for `near` (3.5 at 0.8, more for lower
    thresholds), however long it is.
    """

    def __init__(self, config: DedupConfig) -> None:
        """Raises JslmError where `near` is on and the package that it needs is not installed."""
        self._digests: set[bytes] = set()
        self._near: Any = None
        self._count = 0
        self._threshold = config.near
        if config.near:
            rensa = need("rensa", "data.dedup.near")
            self._near = rensa.RMinHashDeduplicator(
                config.near, _PERMUTATIONS, use_lsh=True, num_bands=_bands(config.near), seed=_SEED
            )

    def add(self, found: Fingerprint, source: str) -> Verdict | None:
        """None for a document that is new, which is remembered; else why it goes."""
        if found.digest is not None:
            if found.digest in self._digests:
                return Verdict("exact", "equal to a document before it")
            self._digests.add(found.digest)
        if found.sketch is not None:
            # The key carries the name: a table of names beside the library's own would be twice the memory.
            like = self._near.get_duplicates(found.sketch)
            if like:
                first = min(like, key=lambda key: int(key.split(" ", 1)[0]))
                return Verdict("near", f"at least {self._threshold:g} like {first.split(' ', 1)[1]}")
            self._near.add(f"{self._count} {source}", found.sketch)
            self._count += 1
        return None


def count_lines(documents: Iterable[Document], config: DedupConfig) -> LineCounts:
    """How often each line of the corpus occurs: the first of the two passes that repeated lines take."""
    counts = LineCounts(config.min_line_characters)
    for document in documents:
        counts.add(document.text)
    return counts


def remove_repeated_lines(
    documents: Iterable[Document], counts: LineCounts, config: DedupConfig, report: DropReport
) -> Iterator[Document]:
    """The documents without the lines that `counts` has too often, in their order; the second pass.

    All copies of such a line go, and the blank lines that then stand twice. Documents of which nothing is left are
    dropped. `report` counts lines under `repeated_line`, documents under `only_repeated_lines`. A document that loses a
    line loses its `bits`, too, which were those of the whole text.
    """
    frequent = counts.frequent(config.max_line_documents, config.max_line_occurrences)
    for document in documents:
        report.see(document)
        shorter = _without_lines(document, frequent, counts.min_characters, report)
        if shorter.text.strip() or shorter is document:
            report.keep(shorter)
            yield shorter
        else:
            report.drop("only_repeated_lines", document.source, document.text, "nothing else is in it")


def _without_lines(document: Document, frequent: frozenset[int], min_characters: int, report: DropReport) -> Document:
    kept: list[str] = []
    removed = after_removed = False
    for line in document.text.split("\n"):
        number = line_hash(line, min_characters)
        if number is not None and number in frequent:
            report.drop("repeated_line", document.source, line, "one of the lines that are everywhere")
            removed = after_removed = True
        elif line.strip():
            kept.append(line)
            after_removed = False
        elif not after_removed or (kept and kept[-1].strip()):
            kept.append(line)
    return replace(document, text="\n".join(kept), bits=None) if removed else document


def _sketch(text: str, words_a_run: int) -> RMinHash:
    rensa = need("rensa", "data.dedup.near")
    words = _WORD.findall(text.lower())
    runs = list(map(" ".join, zip(*(words[start:] for start in range(words_a_run)), strict=False)))
    sketch = rensa.RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
    # A text shorter than one run is a run; one without words resembles only what has the same signs.
    # ascii: a lone surrogate, which is no word, can't be handed to Rust.
    sketch.update(runs or [" ".join(words) or ascii(text.split())])
    return sketch


def _bands(threshold: float) -> int:
    """The fewest bands by which a pair right at the threshold is found with the wanted probability.

    Sketches of n values in b bands meet in some band with probability 1 - (1 - s**(n/b))**b at similarity s. What meets
    is compared by whole sketches then, so more bands cost time and memory only.
    """
    bands = 1
    while bands < _PERMUTATIONS and 1 - (1 - threshold ** (_PERMUTATIONS // bands)) ** bands < _RECALL:
        bands *= 2
    return bands
