"""Files, addresses and generated stories -> a stream of documents, read and cleaned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from jslm.config import DataConfig
from jslm.corpora.stories import generate_stories
from jslm.errors import JslmError
from jslm.prompts.chat import splitter
from jslm.prompts.pairs import check_preference, pair_parts
from jslm.text.cleaners import apply_cleaners
from jslm.text.document import Document
from jslm.text.readers import InputFile, StoriesSource, check_settings, find_files, parse_stories, read_file
from jslm.text.readers.formats import OF_RECORDS
from jslm.text.readers.problems import OnBad, stop

__all__ = [
    "Document",
    "InputFile",
    "OnBad",
    "StoriesSource",
    "check_document",
    "check_settings",
    "clean_document",
    "parse_stories",
    "read_documents",
    "read_entry",
    "read_raw_documents",
    "resolve_sources",
    "size_of",
]


def check_document(document: Document, config: DataConfig) -> None:
    """Raises JslmError, with the place, where a pair has lost its prompt's end or its completion on the way."""
    if config.prompt_end and document.text.strip():
        try:
            pair_parts(document.text, config.prompt_end)
        except JslmError as error:
            raise JslmError(f"{document.place}: {error}") from None


def read_documents(config: DataConfig, on_bad: OnBad = stop) -> Iterator[Document]:
    """Streams the documents of `data.source` through `data.cleaners`, in the order of the entries, sorted inside each.

    A file that several entries name is read once, or the same text could land in both training and validation.
    Documents that are blank, or of which the cleaners leave nothing, are passed over. `on_bad` is told of each record
    and file that cannot be read; the default raises. Memory: the largest document.

    Raises JslmError: nothing to read, a missing path, no text in the whole of it, an impossible setting, and what
    `on_bad` raises: binary or unreadable files, bad records (each with file and line).
    """
    found = False
    for document in read_raw_documents(config, on_bad):
        cleaned = clean_document(document, config)
        if cleaned.text and not cleaned.text.isspace():
            found = True
            yield cleaned
    if not found:
        emptied = ", or data.cleaners leave nothing of it" if config.cleaners else ""
        raise JslmError(
            f"data.source: no text in {', '.join(config.sources)}; every file in it is empty or blank{emptied}"
        )


def read_raw_documents(config: DataConfig, on_bad: OnBad = stop) -> Iterator[Document]:
    """The documents as they are in the files, blank ones too; see `read_documents`."""
    check_settings(config)
    for entry in resolve_sources(config):
        yield from read_entry(entry, config, on_bad)


def read_entry(entry: InputFile | StoriesSource, config: DataConfig, on_bad: OnBad = stop) -> Iterator[Document]:
    """The documents of one file or generator as they are; see `read_documents`."""
    if isinstance(entry, StoriesSource):
        name = f"stories:{entry.megabytes:g}MB:seed={entry.seed}"
        for key, what in OF_RECORDS.items():
            if getattr(config, key):
                raise JslmError(f"data.{key}: {name} has no {what}; they come with records, as in JSONL")
        for story in generate_stories(entry.megabytes, entry.seed):
            yield Document(story.text, name, story.bits)
        return
    split = splitter(config)
    for document in read_file(entry, config, on_bad):
        try:
            if document.text and not document.text.isspace():
                parts = split(document.text)
                if document.rejected is not None:
                    check_preference(parts[-1].text, document.rejected)
        except JslmError as error:
            on_bad(JslmError(f"{document.place}: {error}"))
        else:
            yield document


def clean_document(document: Document, config: DataConfig) -> Document:
    """The document after `data.cleaners`, with what they removed; generated stories come clean already."""
    if not config.cleaners or document.bits is not None:
        return document
    text, removed, gutted = apply_cleaners(document.text, config.cleaners)
    return replace(document, text=text, removed=removed, gutted=gutted)


def resolve_sources(config: DataConfig) -> list[InputFile | StoriesSource]:
    """The files (each once) and generators that `data.source` names. Raises JslmError as `read_documents` does."""
    if not config.sources:
        raise JslmError(
            "data.source is empty: nothing to read; set it to a file, a folder, a glob or stories:20MB, "
            "as in data.source=book.txt"
        )
    return find_files(config.sources)


def size_of(entries: Sequence[InputFile | StoriesSource]) -> tuple[int, int]:
    """Number and total bytes of the input files as they are stored (generated stories: their size, and no file)."""
    files = [entry for entry in entries if isinstance(entry, InputFile)]
    generated = sum(int(entry.megabytes * 1e6) for entry in entries if isinstance(entry, StoriesSource))
    return len(files), sum(file.size for file in files) + generated
