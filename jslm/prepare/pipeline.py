"""Corpus -> tokenizer and token files, once, and checked ever after."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jslm.config import Config, DataConfig
from jslm.data.documents import Document, input_size, read_documents, resolve_sources
from jslm.data.token_file import META_NAME, SPLITS, TokenWriter, read_meta, remove_partial
from jslm.errors import JslmError
from jslm.prepare.encode import MIN_PARALLEL_CHARACTERS, encode_pieces
from jslm.prepare.lock import folder_lock
from jslm.prepare.progress import Progress
from jslm.prepare.removed import Removed, add_removed, removed_lines
from jslm.prepare.split import Counts, SplitPlan, plan_split
from jslm.tokenizer import Tokenizer, build_tokenizer, load_tokenizer

TOKENIZER_NAME = "tokenizer.json"
# A corpus up to this size stays in memory between the passes over it; a larger one is read again.
CACHE_BYTES = 64_000_000
Log = Callable[[str], None]


@dataclass(frozen=True)
class PreparedData:
    """A folder of token files, its tokenizer, and what `meta.json` says about them."""

    dir: Path
    tokenizer: Tokenizer
    meta: dict[str, Any]


def log_to_stderr(message: str) -> None:
    """Prints a line to stderr."""
    print(message, file=sys.stderr, flush=True)


def ensure_prepared(config: Config, *, log: Log = log_to_stderr) -> PreparedData:
    """The prepared data in `config.data_dir`, made now where it is absent.

    Raises JslmError where what is there was made with other settings, from other input files or with another tokenizer,
    saying which; `data.source` may be empty or gone once the files are made. File contents are not read: see
    `jslm.data.verify`.
    """
    folder = Path(config.data_dir)
    if (folder / META_NAME).exists():
        return _open_prepared(config, folder)
    return prepare(config, log=log)


def prepare(config: Config, *, force: bool = False, log: Log = log_to_stderr) -> PreparedData:
    """Reads `data.source`, builds the tokenizer, and writes token files and `tokenizer.json` to `config.data_dir`.

    The tokenizer is built from all of the text, validation included, as nanoGPT's character vocabulary is. The files
    are the same for any `prepare.workers`. They appear all at once at the end, and an older set stays until then. With
    a `validation_fraction` of 0, `val.bin` is empty and there is nothing to evaluate on. Without `force`, files that
    are already there are checked against the config and kept. Memory: the largest document, the corpus itself up to
    64 MB, and a few chunks a process.

    Raises JslmError: see `read_documents`, `plan_split` and `ensure_prepared`; a full disk, a folder that can't be
    written, or too little text for either split.
    """
    folder = Path(config.data_dir)
    is_there = (folder / META_NAME).exists()
    if not config.data.sources and not is_there:
        raise JslmError(
            f"data.source is empty and {folder} holds no prepared data; set data.source=book.txt, or data.dir"
        )
    if force or not is_there:
        # Before the lock, so that a misspelt source leaves no folder behind.
        resolve_sources(config.data)
    with folder_lock(folder, log):
        if not force and (folder / META_NAME).exists():
            prepared = _open_prepared(config, folder)
            log(f"{folder}: already prepared; --force makes it again")
            return prepared
        remove_partial(folder)
        return _prepare(config, folder, log)


def _prepare(config: Config, folder: Path, log: Log) -> PreparedData:
    corpus = _Corpus(config.data, log)
    counts = corpus.count()
    plan = plan_split(config.data, counts)
    log(f"read {counts.documents:,} document(s), {counts.utf8_bytes / 1e6:,.2f} MB; split by {plan.by}")
    tokenizer = build_tokenizer(config.tokenizer, corpus.texts)
    log(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} entries")
    with TokenWriter(folder, tokenizer.vocab_size) as writer:
        path = writer.partial / TOKENIZER_NAME
        tokenizer.save(path)
        unknown = _write_tokens(corpus, plan, counts, tokenizer, path, writer, _workers(config, counts), log)
        _check_counts(config, writer)
        if unknown:
            log(f"{unknown:,} character(s) of the text are not in {config.tokenizer.path}; they became unknown tokens")
        meta = writer.commit(
            {
                "tokenizer": {
                    "kind": tokenizer.kind,
                    "fingerprint": tokenizer.fingerprint,
                    "vocab_size": tokenizer.vocab_size,
                },
                "sources": list(config.data.sources),
                "input_files": corpus.input_files,
                "input_bytes": corpus.input_bytes,
                "split": plan.by,
                "end_of_text": plan.end_of_text,
                "settings": _settings(config),
                "removed": corpus.removed,
                "unknown_characters": unknown,
            },
            extra_files=[TOKENIZER_NAME],
        )
    return PreparedData(folder, tokenizer, meta)


def _write_tokens(
    corpus: _Corpus,
    plan: SplitPlan,
    counts: Counts,
    tokenizer: Tokenizer,
    tokenizer_path: Path,
    writer: TokenWriter,
    workers: int,
    log: Log,
) -> int:
    """Encodes and writes everything; returns how many characters the tokenizer did not know."""
    progress = Progress("tokenising", counts.utf8_bytes, log)
    unknown = 0
    try:
        for chunk in encode_pieces(plan.apply(corpus.documents()), tokenizer, tokenizer_path, workers):
            utf8_bytes = len(chunk.text.encode("utf-8"))
            writer.append(
                chunk.split,
                chunk.ids,
                characters=len(chunk.text),
                utf8_bytes=utf8_bytes,
                ends_document=chunk.ends_piece,
                bits=chunk.bits,
            )
            unknown += sum(map(chunk.text.count, tokenizer.unknown_characters(chunk.text)))
            progress.add(utf8_bytes)
    finally:
        progress.close()
    return unknown


class _Corpus:
    """The documents of a config, read as often as needed."""

    def __init__(self, config: DataConfig, log: Log) -> None:
        self._config = config
        self._log = log
        self.input_files, self.input_bytes = input_size(config)
        self.removed: Removed = {}
        self._cache: list[Document] | None = None

    def documents(self) -> Iterable[Document]:
        return read_documents(self._config) if self._cache is None else self._cache

    def texts(self) -> Iterator[str]:
        return (document.text for document in self.documents())

    def count(self) -> Counts:
        """The first pass, which also fills the cache."""
        documents = characters = utf8_bytes = 0
        cache: list[Document] | None = [] if self.input_bytes <= CACHE_BYTES else None
        progress = Progress("reading", self.input_bytes, self._log)
        try:
            for document in read_documents(self._config):
                size = len(document.text.encode("utf-8"))
                documents += 1
                characters += len(document.text)
                utf8_bytes += size
                add_removed(self.removed, document)
                # The size on disk says little of what is compressed there.
                if cache is not None and utf8_bytes > CACHE_BYTES:
                    cache = None
                if cache is not None:
                    cache.append(document)
                progress.add(size)
        finally:
            progress.close()
        self._cache = cache
        return Counts(documents, characters, utf8_bytes)


def _workers(config: Config, counts: Counts) -> int:
    if counts.characters < MIN_PARALLEL_CHARACTERS:
        return 1
    return config.prepare.workers or os.cpu_count() or 1


def _check_counts(config: Config, writer: TokenWriter) -> None:
    source = ", ".join(config.data.sources)
    fraction = config.data.validation_fraction
    if writer.tokens("train") < 2:
        raise JslmError(
            f"data.source = {source}: {writer.tokens('train')} token(s) are left for training; it needs at least 2: "
            "give more text or lower data.validation_fraction"
        )
    if fraction and writer.tokens("val") < 2:
        raise JslmError(
            f"data.source = {source}: {writer.tokens('val')} token(s) are left for validation; it needs at least 2: "
            f"give more text, raise data.validation_fraction (found {fraction}), or set it to 0 for none"
        )


def _open_prepared(config: Config, folder: Path) -> PreparedData:
    meta = read_meta(folder)
    path = folder / TOKENIZER_NAME
    if not path.exists():
        raise JslmError(f"{path}: not found, though {META_NAME} is there; {_remedy(folder)}")
    tokenizer = load_tokenizer(path)
    expected = meta["tokenizer"]["fingerprint"]
    if tokenizer.fingerprint != expected:
        raise JslmError(
            f"{path}: fingerprint {tokenizer.fingerprint} found, {expected} expected by {META_NAME}; {_remedy(folder)}"
        )
    _check_settings(config, folder, meta)
    return PreparedData(folder, tokenizer, meta)


def _check_settings(config: Config, folder: Path, meta: dict[str, Any]) -> None:
    wanted = _settings(config)
    # A setting that is newer than the files had its default then.
    made_with = {**_data_settings(DataConfig()), **meta.get("settings", {})}
    has_source = bool(config.data.sources)
    tokenizer_path = config.tokenizer.path
    compares_tokenizer_file = bool(tokenizer_path) and Path(tokenizer_path).exists()
    for key in sorted({*wanted, *made_with}):
        if key.startswith("data.") and not has_source:
            continue
        if key.startswith("tokenizer.") and compares_tokenizer_file:
            continue
        if wanted.get(key) != made_with.get(key):
            raise JslmError(
                f"{folder / META_NAME}: made with {key} = {made_with.get(key)!r}, but the config has "
                f"{wanted.get(key)!r}; {_remedy(folder)}"
            )
    if compares_tokenizer_file:
        found = load_tokenizer(tokenizer_path).fingerprint
        if found != meta["tokenizer"]["fingerprint"]:
            raise JslmError(
                f"{folder / META_NAME}: made with tokenizer {meta['tokenizer']['fingerprint']}, but tokenizer.path = "
                f"{tokenizer_path!r} is {found}; {_remedy(folder)}"
            )
    if has_source:
        _check_inputs(config, folder, meta)


def _check_inputs(config: Config, folder: Path, meta: dict[str, Any]) -> None:
    """Files edited since then mean stale tokens; files that are gone can't be read anyway, nor what came by a pipe."""
    if "-" in config.data.sources:
        return
    try:
        found = input_size(config.data)
    except JslmError:
        return
    expected = meta.get("input_files"), meta.get("input_bytes")
    if found != expected:
        raise JslmError(
            f"{folder / META_NAME}: made from {expected[0]} file(s) of {expected[1]:,} bytes, but data.source now has "
            f"{found[0]} of {found[1]:,}; {_remedy(folder)}"
        )


def _remedy(folder: Path) -> str:
    again = "prepare again (python -m jslm.prepare --config CONFIG --force)"
    return f"{again}, or set data.dir to another folder than {folder}"


def _settings(config: Config) -> dict[str, Any]:
    """The settings that decide what is in the files, by their full key."""
    settings = _data_settings(config.data)
    settings["data.source"] = list(config.data.sources)
    tokenizer = config.tokenizer
    settings["tokenizer.path"] = tokenizer.path
    if not tokenizer.path:
        settings["tokenizer.kind"] = tokenizer.kind
        settings["tokenizer.special_tokens"] = list(tokenizer.special_tokens)
        if tokenizer.kind == "bpe":
            settings["tokenizer.vocab_size"] = tokenizer.vocab_size
    return settings


def _data_settings(data: DataConfig) -> dict[str, Any]:
    # How the files are cut in batches is the loader's matter: they are the same.
    values = data.model_dump(mode="json", exclude={"dir", "source", "packing", "stride", "mixture"})
    return {f"data.{key}": value for key, value in values.items()}


def summary(prepared: PreparedData) -> str:
    """A table of the splits, for people."""
    meta = prepared.meta
    rows = [("split", "documents", "tokens", "MB", "bytes/token")]
    for split in SPLITS:
        part = meta[split]
        ratio = f"{part['bytes'] / part['tokens']:.2f}" if part["tokens"] else "-"
        rows.append((split, f"{part['documents']:,}", f"{part['tokens']:,}", f"{part['bytes'] / 1e6:,.2f}", ratio))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    tokenizer = meta["tokenizer"]
    lines.append(
        f"vocabulary {tokenizer['vocab_size']:,} ({tokenizer['kind']}); split by {meta['split']}; in {prepared.dir}"
    )
    lines += removed_lines(meta.get("removed", {}), meta["settings"].get("data.cleaners", []))
    return "\n".join(lines)
