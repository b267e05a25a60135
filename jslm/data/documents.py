"""Files, folders, globs and generated stories -> a stream of documents."""

from __future__ import annotations

import codecs
import difflib
import glob
import io
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jslm.config import DataConfig
from jslm.errors import JslmError

EXTENSIONS = (".txt", ".md", ".jsonl")
BLOCK_BYTES = 1 << 20
_STORIES = re.compile(r"stories:(?P<size>\d+(?:\.\d+)?)(?P<unit>KB|MB|GB)(?::seed=(?P<seed>\d+))?", re.IGNORECASE)
_MEGABYTES = {"KB": 1e-3, "MB": 1.0, "GB": 1e3}


@dataclass(frozen=True, slots=True)
class Document:
    """One text, and where it came from; `bits` is its information content where a generator knows it."""

    text: str
    source: str
    bits: float | None = None


@dataclass(frozen=True, slots=True)
class StoriesSource:
    """A parsed `stories:20MB:seed=3`."""

    megabytes: float
    seed: int


def read_documents(config: DataConfig) -> Iterator[Document]:
    """Streams the documents of `data.source`, in the order of the entries and sorted inside each.

    A text file is a document, or several where `data.separator` is set; a `.jsonl` file has a document a line. A file
    that several entries name is read once, or the same text could land in both training and validation. Text files are
    UTF-8 with or without a byte order mark; CRLF and CR become LF, and nothing else is changed, except that documents
    between separators lose the white space around them. JSONL strings are kept as they are. Blank documents are
    skipped. Memory: the largest document.

    Raises JslmError: nothing to read, a missing path, a folder without text files, text that is not UTF-8 (file and
    byte offset), a bad JSON line (file and line), a malformed `stories:` source, or no text in the whole of it.
    """
    found = False
    for entry in resolve_sources(config):
        for document in _read_entry(entry, config):
            if document.text and not document.text.isspace():
                found = True
                yield document
    if not found:
        raise JslmError(f"data.source: no text in {', '.join(config.sources)}; every file in it is empty or blank")


def resolve_sources(config: DataConfig) -> list[Path | StoriesSource]:
    """The files (each once) and generators that `data.source` names. Raises JslmError as `read_documents` does."""
    if not config.sources:
        raise JslmError(
            "data.source is empty: nothing to read; set it to a file, a folder, a glob or stories:20MB, "
            "as in data.source=book.txt"
        )
    entries: list[Path | StoriesSource] = []
    seen: set[Path] = set()
    for source in config.sources:
        if source.startswith("stories:"):
            entries.append(parse_stories(source))
            continue
        for path in _find_files(source):
            real = path.resolve()
            if real not in seen:
                seen.add(real)
                entries.append(path)
    return entries


def parse_stories(source: str) -> StoriesSource:
    """`stories:20MB` or `stories:500KB:seed=3` -> size and seed; raises JslmError where it is neither."""
    match = _STORIES.fullmatch(source)
    megabytes = float(match["size"]) * _MEGABYTES[match["unit"].upper()] if match else 0.0
    if match is None or megabytes <= 0:
        raise JslmError(
            f"data.source = {source!r} is not a stories source; write stories:20MB or stories:20MB:seed=3 "
            "(a size above 0 in KB, MB or GB)"
        )
    return StoriesSource(megabytes, int(match["seed"] or 0))


def input_size(config: DataConfig) -> tuple[int, int]:
    """Number and total bytes of the input files (generated stories count as their size and as no file)."""
    entries = resolve_sources(config)
    paths = [entry for entry in entries if isinstance(entry, Path)]
    generated = sum(int(entry.megabytes * 1e6) for entry in entries if isinstance(entry, StoriesSource))
    try:
        return len(paths), sum(path.stat().st_size for path in paths) + generated
    except OSError as error:
        raise JslmError(f"{error.filename}: cannot be read: {error.strerror}") from None


def _find_files(source: str) -> list[Path]:
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        files = _walk(path)
        if not files:
            raise JslmError(f"data.source: folder {source} has no {', '.join(EXTENSIONS)} file in it")
        return files
    if path.exists():
        return [path]
    if glob.has_magic(source):
        files = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
        if not files:
            raise JslmError(f"data.source: no file matches {source} (relative to {Path.cwd()})")
        return files
    raise JslmError(f"data.source: {source} does not exist{_nearby(path)}")


def _walk(folder: Path) -> list[Path]:
    files: list[Path] = []
    for parent, folders, names in os.walk(folder):
        # os.walk descends into what is left in this list: not into .git and the like.
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if name.lower().endswith(EXTENSIONS) and name[0] != "."]
    return sorted(files)


def _nearby(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    if close:
        return f"; did you mean {path.parent / close[0]}?"
    return "" if path.is_absolute() else f" (relative to {Path.cwd()})"


def _read_entry(entry: Path | StoriesSource, config: DataConfig) -> Iterator[Document]:
    if isinstance(entry, StoriesSource):
        from jslm.data.stories import generate_stories

        name = f"stories:{entry.megabytes:g}MB:seed={entry.seed}"
        for story in generate_stories(entry.megabytes, entry.seed):
            yield Document(story.text, name, story.bits)
        return
    is_jsonl = config.format == "jsonl" or (config.format == "auto" and entry.suffix.lower() == ".jsonl")
    try:
        if is_jsonl:
            yield from _read_jsonl(entry, config.text_field)
        elif config.separator:
            for text in _split_stream(_read_text(entry), config.separator):
                yield Document(text, str(entry))
        else:
            yield Document("".join(_read_text(entry)), str(entry))
    except OSError as error:
        raise JslmError(f"{entry}: cannot be read: {error.strerror or error}") from None


def _read_text(path: Path) -> Iterator[str]:
    """Decoded blocks of a UTF-8 file: no byte order mark, newlines universal."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    read = 0
    with path.open("rb") as file:
        while True:
            block = file.read(BLOCK_BYTES)
            pending = len(decoder.getstate()[0])
            if (nul := block.find(b"\0")) >= 0:
                raise _not_text(path, read + nul, "a NUL byte", block if read == 0 else b"")
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                offset = read - pending + error.start
                byte = error.object[error.start]
                raise _not_text(path, offset, f"byte 0x{byte:02x}", block if read == 0 else b"") from None
            if read == 0:
                text = text.removeprefix("\ufeff")
            read += len(block)
            yield newlines.decode(text, final=not block)
            if not block:
                return


def _not_text(path: Path, offset: int, found: str, head: bytes) -> JslmError:
    remedy = "convert it to UTF-8, or leave it out of data.source"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        remedy = "it starts like UTF-16: save it as UTF-8"
    return JslmError(f"{path}: not UTF-8 text: {found} at byte {offset}; {remedy}")


def _split_stream(blocks: Iterator[str], separator: str) -> Iterator[str]:
    held: list[str] = []
    # A separator may straddle two blocks: the end of a block waits for the next one.
    edge = ""
    for block in blocks:
        *documents, rest = (edge + block).split(separator)
        for document in documents:
            yield "".join((*held, document)).strip()
            held.clear()
        cut = max(0, len(rest) - len(separator) + 1)
        held.append(rest[:cut])
        edge = rest[cut:]
    yield "".join((*held, edge)).strip()


def _read_jsonl(path: Path, field: str) -> Iterator[Document]:
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            raw = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            if raw.strip():
                try:
                    value = json.loads(raw.decode("utf-8"))
                except UnicodeDecodeError as error:
                    position = offset + len(line) - len(raw) + error.start
                    raise _not_text(path, position, f"line {number}, byte 0x{raw[error.start]:02x}", line) from None
                except json.JSONDecodeError as error:
                    raise JslmError(
                        f"{path}:{number}: not valid JSON: {error.msg} at column {error.colno}; "
                        "expected one JSON object a line"
                    ) from None
                except RecursionError:
                    raise JslmError(f"{path}:{number}: JSON nested too deep; expected one JSON object a line") from None
                yield Document(_text_of(value, field, f"{path}:{number}"), str(path))
            offset += len(line)


def _text_of(value: Any, field: str, where: str) -> str:
    if not isinstance(value, dict):
        raise JslmError(f"{where}: expected a JSON object with the key {field!r}, found {type(value).__name__}")
    if field not in value:
        keys = ", ".join(map(repr, list(value)[:10])) or "none"
        raise JslmError(f"{where}: no key {field!r}; keys found: {keys}; set data.text_field to the one with the text")
    text = value[field]
    if not isinstance(text, str):
        raise JslmError(f"{where}: key {field!r} holds {type(text).__name__}; expected a string")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise JslmError(
                f"{where}: character {error.start} of {field!r} is half of a surrogate pair "
                f"(\\u{ord(text[error.start]):04x}), which is no text; remove it"
            ) from None
    return text
