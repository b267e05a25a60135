"""Facts and batches as lines for a terminal, or for a file, where marks stand for colours."""

from __future__ import annotations

import re
from collections.abc import Iterator

from jslm.inspect.batch import Place, ShownBatch, runs
from jslm.inspect.facts import FolderFacts, SampleDocument, SplitFacts
from jslm.tokenizer import Tokenizer

BAR_WIDTH = 40
SAMPLE_CHARACTERS = 600
# A corpus may hold escape sequences and marks that turn the direction of the line round.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_SEGMENT_COLORS = (36, 33, 32, 35, 34, 31)
_DIM, _BOLD = "2", "1"


def visible(text: str) -> str:
    """`text` with U+FFFD for what a terminal or a page would obey instead of showing it."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def fact_lines(facts: FolderFacts, *, color: bool) -> Iterator[str]:
    """Counts, histogram, frequent tokens and samples of each split."""
    tokenizer = facts.meta["tokenizer"]
    yield f"{facts.folder}: {tokenizer.get('kind', 'tokenizer')} of {facts.tokenizer.vocab_size:,} entries, " + (
        f"fingerprint {tokenizer['fingerprint']}, {facts.meta['dtype']}"
    )
    sources = ", ".join(map(str, facts.meta.get("sources", [])))
    yield visible(f"from {sources or 'sources that meta.json does not name'}")
    yield ""
    yield from _table(facts)
    for split in facts.splits:
        if split.documents:
            yield from _split_lines(split, facts.tokenizer, color)


def batch_lines(batch: ShownBatch, tokenizer: Tokenizer, *, color: bool) -> Iterator[str]:
    """The rows of a batch, with what counts in the loss told apart from what doesn't, and document from document."""
    yield ""
    yield _paint(
        f"batch {batch.step}, data.packing = {batch.packing}, {len(batch.rows)} row(s) of {batch.context_length}",
        _BOLD,
        color,
    )
    yield _legend(batch, color)
    for number, row in enumerate(batch.rows):
        targets = sum(place.kind == "text" for place in row)
        padding = sum(place.kind == "padding" for place in row)
        documents = len({place.segment for place in row} - {0})
        apart = f", {documents} document(s) apart" if batch.packing == "documents" else ""
        yield f"--- row {number}: {targets} target(s), {len(row) - targets - padding} masked, {padding} padding{apart}"
        yield "".join(_run_text(run, tokenizer, color) for run in runs(row))


def _table(facts: FolderFacts) -> Iterator[str]:
    yield f"{'split':<6}{'documents':>12}{'tokens':>16}{'MB':>10}{'bytes/token':>13}{'tokens used':>20}"
    for split in facts.splits:
        used = f"{split.distinct_tokens:,} of {facts.tokenizer.vocab_size:,}"
        yield (
            f"{split.split:<6}{split.documents:>12,}{split.tokens:>16,}{split.utf8_bytes / 1e6:>10,.2f}"
            f"{split.bytes_per_token:>13.2f}{used:>20}"
        )


def _split_lines(split: SplitFacts, tokenizer: Tokenizer, color: bool) -> Iterator[str]:
    yield ""
    yield _paint(f"{split.split}: tokens a document", _BOLD, color)
    yield ", ".join(f"{name} {value:,.0f}" for name, value in split.lengths.items())
    highest = max(bucket.documents for bucket in split.histogram)
    for bucket in split.histogram:
        bar = "█" * round(BAR_WIDTH * bucket.documents / highest) or ("▏" if bucket.documents else "")
        yield f"{f'{bucket.low:,}-{bucket.high:,}':>21} {bucket.documents:>11,} {bar}".rstrip()
    yield ""
    yield _paint(f"{split.split}: most frequent tokens", _BOLD, color)
    for entry in split.frequent:
        spelling = f"'{visible(entry.spelling)}'"
        yield f"{entry.count:>14,} {entry.count / split.tokens:>7.2%} {entry.token:>8} {spelling}"
    for sample in split.samples:
        yield ""
        yield _paint(f"{split.split}: document {sample.number:,}, {sample.tokens:,} token(s)", _BOLD, color)
        yield sample_text(sample)


def sample_text(sample: SampleDocument) -> str:
    """The beginning of a sample, with a mark where it is cut."""
    text = visible(sample.text)
    is_whole = sample.is_whole and len(text) <= SAMPLE_CHARACTERS
    return text if is_whole else text[:SAMPLE_CHARACTERS] + " […]"


def _legend(batch: ShownBatch, color: bool) -> str:
    if color:
        parts = [_paint("dim: no target, never in the loss", _DIM, True)]
        if batch.packing == "documents":
            colors = " ".join(_paint(f"document {n}", str(_SEGMENT_COLORS[n - 1]), True) for n in (1, 2, 3))
            parts.append(f"a color a document: {colors} ...")
    else:
        parts = ["⟦no target, never in the loss⟧"]
        if batch.packing == "documents":
            parts.append("«n» document n of the row begins")
    return "; ".join([*parts, "↵ line break"])


def _run_text(run: list[Place], tokenizer: Tokenizer, color: bool) -> str:
    first = run[0]
    if first.kind == "padding":
        text = f"<padding: {len(run)}>"
        return _paint(text, _DIM, True) if color else f"⟦{text}⟧"
    text = tokenizer.decode_bytes([place.token for place in run]).decode("utf-8", errors="replace")
    text = visible(text).replace("\n", "↵\n")
    if not color:
        mark = f"«{first.segment}»" if first.segment else ""
        return mark + (f"⟦{text}⟧" if first.kind == "masked" else text)
    codes = [str(_SEGMENT_COLORS[(first.segment - 1) % len(_SEGMENT_COLORS)])] if first.segment else []
    return _paint(text, ";".join([*codes, *([_DIM] if first.kind == "masked" else [])]), True)


def _paint(text: str, codes: str, color: bool) -> str:
    return f"\x1b[{codes}m{text}\x1b[0m" if color and codes else text
