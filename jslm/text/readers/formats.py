"""One file, whatever its format and wherever it is, to documents."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import BinaryIO

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.prompts.chat import splitter
from jslm.text.document import Document
from jslm.text.readers.containers import DAMAGED, format_of, open_plain
from jslm.text.readers.markup import read_epub, read_html
from jslm.text.readers.problems import OnBad, stop
from jslm.text.readers.records import Columns, read_csv, read_json, read_jsonl, read_parquet
from jslm.text.readers.remote import remote_file_name
from jslm.text.readers.sources import InputFile
from jslm.text.readers.text import decode, known_encoding, split_blocks

Reader = Callable[[BinaryIO, str, DataConfig, OnBad], Iterator[Document]]
# Keys of `[data]` that name what only records have.
OF_RECORDS = {"conditions": "labels", "rejected": "preferences", "messages": "messages"}
_NO_RECORDS = ("text", "html", "epub")


def read_file(file: InputFile, config: DataConfig, on_bad: OnBad = stop) -> Iterator[Document]:
    """The documents of a file, or of the files in an archive, as they are.

    `on_bad` is told of each record and file that cannot be read; the default raises. Memory: the largest text, or the
    largest page or book. Raises JslmError: see `on_bad`, and an impossible configuration.
    """
    try:
        with file.open() as stream:
            for plain, name, label in open_plain(stream, remote_file_name(file.name), file.name, on_bad):
                kind = config.format if config.format != "auto" else format_of(name) or "text"
                asked = [key for key in OF_RECORDS if getattr(config, key)]
                if asked and kind in _NO_RECORDS:
                    found = f"no record with {OF_RECORDS[asked[0]]}, but plain text"
                    on_bad(JslmError(f"{label}: data.{asked[0]}: {found}; give records, as in JSONL"))
                else:
                    yield from READERS[kind](plain, label, config, on_bad)
    except JslmError as error:
        on_bad(error)
    except DAMAGED as error:
        on_bad(JslmError(f"{file.name}: damaged or cut off: {type(error).__name__}: {' '.join(str(error).split())}"))
    except OSError as error:
        on_bad(JslmError(f"{file.name}: cannot be read: {error.strerror or error}"))


def peek(file: InputFile, config: DataConfig, characters: int) -> Iterator[str]:
    """The beginnings of a file's texts, as `read_file` reads them, in all about `characters` of them.

    Memory: that, a megabyte, and the largest record. Raises JslmError as `read_file`.
    """
    try:
        with file.open() as stream:
            for plain, name, label in open_plain(stream, remote_file_name(file.name), file.name, stop):
                kind = config.format if config.format != "auto" else format_name(name)
                if kind == "text":
                    texts = _beginning(decode(plain, label, config.encoding), characters)
                else:
                    texts = (document.text for document in READERS[kind](plain, label, config, stop))
                for text in texts:
                    yield text[:characters]
                    characters -= len(text)
                    if characters <= 0:
                        return
    except DAMAGED as error:
        raise JslmError(
            f"{file.name}: damaged or cut off: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None
    except OSError as error:
        raise JslmError(f"{file.name}: cannot be read: {error.strerror or error}") from None


def _beginning(blocks: Iterator[str], characters: int) -> Iterator[str]:
    held: list[str] = []
    for block in blocks:
        held.append(block)
        if sum(map(len, held)) >= characters:
            break
    yield "".join(held)


def format_name(name: str) -> str:
    """How a file of this name is read with `data.format = "auto"`: what has no known ending is text."""
    return format_of(remote_file_name(name)) or "text"


def check_settings(config: DataConfig) -> None:
    """Raises JslmError for a `data.encoding`, `template` or `chat_template` that can't be, before anything is read."""
    if config.encoding != "auto":
        known_encoding(config.encoding)
    Columns(config)
    splitter(config)


def _read_text(stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad) -> Iterator[Document]:
    """The whole file as it is, or what stands between separators."""
    blocks = decode(stream, name, config.encoding)
    if config.separator:
        for text, line in split_blocks(blocks, config.separator):
            yield Document(text, name, where=f"{name}:{line}")
    else:
        yield Document("".join(blocks), name)


READERS: dict[str, Reader] = {
    "text": _read_text,
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": functools.partial(read_csv, delimiter="\t"),
    "parquet": read_parquet,
    "epub": read_epub,
    "html": read_html,
}
