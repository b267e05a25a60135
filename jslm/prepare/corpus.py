"""`data.source` to the documents that are kept: read, cleaned, filtered, deduplicated; in parts, so that it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from jslm.config import DataConfig, FilterConfig
from jslm.console import Bar
from jslm.errors import JslmError
from jslm.prepare.literals import find_literals
from jslm.prepare.removed import Removed, add_removed
from jslm.prepare.tasks import Task, Workers, run_tasks
from jslm.prepare.text_parts import Tally, read_tally, read_text_part, write_text_part
from jslm.prepare.work import WorkFolder
from jslm.text.dedup import DocumentIndex, Fingerprint, count_lines, fingerprint, remove_repeated_lines
from jslm.text.documents import Document, check_document, check_settings, clean_document, read_entry, resolve_sources
from jslm.text.dropped import DropReport, Gutted
from jslm.text.filters import judge
from jslm.text.readers.problems import OnBad

# Small enough that little is lost when a run is killed, large enough that flushing it costs nothing.
PART_BYTES = 16 << 20
BATCH_CHARACTERS = 1 << 18
_READ, _KEPT = "read", "kept"
Log = Callable[[str], None]


class Corpus:
    """The documents that are kept, on disk; `tally` has their counts and what became of the others."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self.tally = read_tally(paths[-1])

    def documents(self) -> Iterator[Document]:
        """All of them, in order. Memory: one."""
        for path in self._paths:
            yield from read_text_part(path)

    def texts(self) -> Iterator[str]:
        """Their texts."""
        return (document.text for document in self.documents())


def read_corpus(
    config: DataConfig, on_bad: OnBad, work: WorkFolder, workers: Workers, input_bytes: int, log: Log
) -> Corpus:
    """Reads what no earlier run has, and leaves it in `work`.

    A document goes through `data.cleaners`, `data.filters`, `data.dedup` and, when all are known, the removal of
    repeated lines; the outcome is the same for any `workers`. `on_bad` is told of what cannot be read. Memory: the
    documents under way, of which at most one is a long one, a part, and what `DocumentIndex` says.

    Raises JslmError: see `read_documents`; nothing that is kept; more than `data.max_emptied` that a cleaner
    empties, or `data.filters.max_dropped` that a filter drops.
    """
    final = _KEPT if config.dedup.removes_lines else _READ
    if not _is_complete(work, final):
        _read(config, on_bad, work, workers, input_bytes, log)
        if final == _KEPT:
            _remove_lines(config, work, log)
    if final == _KEPT:
        for path in work.parts(_READ):
            path.unlink()
    corpus = Corpus(work.parts(final))
    if not corpus.tally.documents:
        raise JslmError(_nothing(config, corpus.tally))
    _check_losses(config, corpus.tally)
    return corpus


def _check_losses(config: DataConfig, tally: Tally) -> None:
    """Raises JslmError where a cleaner left nothing of too many documents, or a filter dropped too many."""
    for cleaner, gutted in tally.gutted.items():
        if gutted.emptied > config.max_emptied * tally.cleaned:
            raise JslmError(
                f"data.cleaners: {cleaner} leaves nothing of {gutted.emptied:,} of {tally.cleaned:,} document(s), "
                f"among {', '.join(gutted.first)}; look at them with jslm prepare --preview and leave it out of "
                f"data.cleaners, or set data.max_emptied (found {config.max_emptied:g}), as in data.max_emptied=1, to "
                f"go on without them"
            )
    report = tally.reports["filters"]
    for reason, dropped in report.reasons.items():
        if dropped.items > config.filters.max_dropped * report.documents_seen:
            found = dropped.examples[0]
            raise JslmError(
                f"data.filters.{reason} drops {dropped.items:,} of {report.documents_seen:,} document(s), such as "
                f"{found.source} ({found.detail}); loosen it, or set data.filters.max_dropped (found "
                f"{config.filters.max_dropped:g}), as in data.filters.max_dropped=1, to go on without them"
            )


def _read(config: DataConfig, on_bad: OnBad, work: WorkFolder, workers: Workers, input_bytes: int, log: Log) -> None:
    if _is_complete(work, _READ):
        return
    done = work.parts(_READ)
    tally = read_tally(done[-1]) if done else Tally(reports={stage: DropReport() for stage in _stages(config)})
    if done:
        log(f"going on after {tally.documents:,} document(s) that an interrupted run has read")
    index = DocumentIndex(config.dedup)
    if config.dedup.exact or config.dedup.near:
        for document in Corpus(done).documents() if done else ():
            index.add(fingerprint(document.text, config.dedup), document.source)
    part = _Part(work, _READ, len(done), tally)
    with Bar("reading", input_bytes, "MB", before=tally.utf8_bytes, scale=1e6, log=log) as bar:
        # A pool is worth its start only where there is something to do to the documents.
        tasks = _batches(config, on_bad, tally.entry, tally.index)
        for batch, cleaned in run_tasks(_clean, config, tasks, workers if _has_work(config) else Workers()):
            for message in cleaned.bad:
                on_bad(JslmError(message))
            tally.skip(cleaned.bad)
            for literals, place in cleaned.literals:
                tally.see_literals(literals, place)
            bar.add(_take(batch, cleaned, config, index, part))
            part.flush_if_full()
    tally.lost.close()
    part.flush(is_last=True)


@dataclass(slots=True)
class _Batch:
    """Where reading stands at the end of a batch, and what could not be read in it."""

    entry: int
    index: int
    skipped: list[str]


@dataclass(slots=True)
class _Cleaned:
    """The documents of a batch that are left, and what became of the others."""

    seen: int = 0
    kept: list[tuple[Document, Fingerprint]] = field(default_factory=list)
    gutted: list[tuple[str, str, float]] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)
    literals: list[tuple[dict[str, int], str]] = field(default_factory=list)
    removed: Removed = field(default_factory=dict)
    filtered: DropReport = field(default_factory=DropReport)


def _batches(config: DataConfig, on_bad: OnBad, entry: int, index: int) -> Iterator[Task[_Batch, list[Document]]]:
    """The raw documents from `index` of `entry` on, in groups that are worth the trip to a worker."""
    check_settings(config)
    entries = resolve_sources(config)
    documents: list[Document] = []
    skipped: list[str] = []
    size = 0

    def bad(error: JslmError) -> None:
        # Before the place where reading goes on, all has been told.
        if read >= index:
            on_bad(error)
            skipped.append(str(error))

    for number in range(entry, len(entries)):
        read = 0
        for document in read_entry(entries[number], config, bad):
            read += 1
            if read <= index:
                continue
            documents.append(document)
            size += len(document.text)
            if size >= BATCH_CHARACTERS:
                yield Task(_Batch(number, read, skipped), documents, size)
                documents, skipped, size = [], [], 0
        index = 0
    yield Task(_Batch(len(entries), 0, skipped), documents, size)


def _clean(config: DataConfig, documents: list[Document]) -> _Cleaned:
    """What a worker does: all that needs one document alone."""
    result = _Cleaned()
    for raw in documents:
        if not raw.text or raw.text.isspace():
            continue
        document = clean_document(raw, config)
        result.seen += 1
        result.gutted += [(cleaner, raw.place, share) for cleaner, share in document.gutted.items()]
        if not document.text or document.text.isspace():
            continue
        try:
            check_document(document, config)
        except JslmError as error:
            result.bad.append(str(error))
            continue
        if literals := find_literals(document.text, config):
            result.literals.append((literals, document.place))
        add_removed(result.removed, document)
        if result.filtered.judge(document, judge(document.text, config.filters)):
            result.kept.append((replace(document, removed={}, gutted={}), fingerprint(document.text, config.dedup)))
    return result


def _take(batch: _Batch, cleaned: _Cleaned, config: DataConfig, index: DocumentIndex, part: _Part) -> int:
    """Adds a batch to the part, without duplicates; returns the bytes of text that came in."""
    tally = part.tally
    tally.entry, tally.index = batch.entry, batch.index
    tally.skip(batch.skipped)
    for cleaner, parts in cleaned.removed.items():
        into = tally.removed.setdefault(cleaner, {})
        for what, characters in parts.items():
            into[what] = into.get(what, 0) + characters
    tally.cleaned += cleaned.seen
    for cleaner, source, share in cleaned.gutted:
        tally.gutted.setdefault(cleaner, Gutted()).see(source, share)
    tally.reports["filters"].merge(cleaned.filtered)
    report = tally.reports.get("dedup")
    size = 0
    for document, found in cleaned.kept:
        verdict = index.add(found, document.source)
        tally.lost.see(document.source, verdict)
        if report is not None:
            report.judge(document, verdict)
        if verdict is None:
            size += part.add(document)
    return size


class _Part:
    """The part under way and the tally up to its end."""

    def __init__(self, work: WorkFolder, kind: str, number: int, tally: Tally) -> None:
        self._work = work
        self._kind = kind
        self._number = number
        self._documents: list[Document] = []
        self._size = 0
        self.tally = tally

    def add(self, document: Document) -> int:
        self._documents.append(document)
        size = self.tally.keep(document)
        self._size += size
        return size

    def flush_if_full(self) -> None:
        if self._size >= PART_BYTES:
            self.flush(is_last=False)

    def flush(self, is_last: bool) -> None:
        self.tally.is_last = is_last
        name = self._work.part(self._kind, self._number).name
        self._work.write(name, lambda file: write_text_part(file, self.tally, self._documents))
        self._number += 1
        self._documents = []
        self._size = 0


def _remove_lines(config: DataConfig, work: WorkFolder, log: Log) -> None:
    """A part of what is kept for each part that was read."""
    done = work.parts(_KEPT)
    last = read_tally(done[-1]) if done else None
    read = work.parts(_READ)
    log(f"counting the lines of {read_tally(read[-1]).documents:,} document(s)")
    counts = count_lines(Corpus(read).documents(), config.dedup)
    for number in range(len(done), len(read)):
        before = read_tally(read[number])
        tally = replace(before, documents=0, characters=0, utf8_bytes=0)
        tally.reports["lines"] = DropReport()
        if last is not None:
            tally.documents, tally.characters, tally.utf8_bytes = last.documents, last.characters, last.utf8_bytes
            tally.reports["lines"] = last.reports["lines"]
        part = _Part(work, _KEPT, number, tally)
        for document in remove_repeated_lines(
            read_text_part(read[number]), counts, config.dedup, tally.reports["lines"]
        ):
            # A line that went may have been the end of the prompt.
            check_document(document, config)
            part.add(document)
        part.flush(before.is_last)
        last = tally


def _is_complete(work: WorkFolder, kind: str) -> bool:
    parts = work.parts(kind)
    return bool(parts) and read_tally(parts[-1]).is_last


def _stages(config: DataConfig) -> list[str]:
    dedup = config.dedup
    is_on = {"filters": True, "dedup": bool(dedup.exact or dedup.near), "lines": dedup.removes_lines}
    return [stage for stage, on in is_on.items() if on]


def _has_work(config: DataConfig) -> bool:
    return bool(config.cleaners or config.dedup.near) or config.filters != FilterConfig()


def _nothing(config: DataConfig, tally: Tally) -> str:
    sources = ", ".join(config.sources)
    if tally.reports["filters"].documents_seen:
        return (
            f"data.source: nothing is left of the {tally.reports['filters'].documents_seen:,} document(s) in {sources} "
            "after data.filters and data.dedup; loosen them"
        )
    emptied = ", or data.cleaners leave nothing of it" if config.cleaners else ""
    bad = f" ({tally.skipped:,} file(s) or record(s) could not be read)" if tally.skipped else ""
    return f"data.source: no text in {sources}; every file in it is empty or blank{emptied}{bad}"
