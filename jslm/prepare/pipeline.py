"""Corpus -> tokenizer and token files, once, and checked ever after."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jslm
import jslm.formats
from jslm.config import Config
from jslm.console import say
from jslm.errors import JslmError
from jslm.prepare import encode
from jslm.prepare.check import TOKENIZER_NAME, PreparedData, open_prepared, settings_of
from jslm.prepare.corpus import Corpus, read_corpus
from jslm.prepare.encode import add_parts, encode_corpus
from jslm.prepare.freshness import INPUTS_NAME, Seen, changed_meanwhile, look, save_inputs
from jslm.prepare.literals import hints
from jslm.prepare.lock import folder_lock
from jslm.prepare.preferences import REJECTED, encode_rejected, remove_rejected, write_rejected
from jslm.prepare.sample import compare_with_gpt2, training_texts
from jslm.prepare.split import Counts, Piece, plan_split
from jslm.prepare.tasks import Workers
from jslm.prepare.work import WorkFolder, remove_work
from jslm.prompts.chat import TEMPLATE_NAME, check_tokens, splitter, template_source
from jslm.storage import announce, data_folder, is_address, push_data
from jslm.text.augment import with_copies
from jslm.text.documents import InputFile, resolve_sources, size_of
from jslm.text.readers.problems import OnBad, stop
from jslm.tokenizer import Tokenizer, build_tokenizer, check_tokenizer, load_tokenizer
from jslm.tokens.token_file import META_NAME, TokenWriter, remove_partial, verify

# Starting processes costs about what tokenising this much does.
MIN_PARALLEL_BYTES = 2_000_000
# What an earlier version has left is not gone on from.
_WORK_VERSION = 3
_SHOWN_SKIPPED = 10
# A few pages: with less there is nothing to be found in common by what is held out.
SMALL_BYTES = 10_000
Log = Callable[[str], None]


def log_to_stderr(message: str) -> None:
    """Prints a line to stderr."""
    say(message)


def ensure_prepared(config: Config, *, log: Log = log_to_stderr) -> PreparedData:
    """The prepared data in `config.data_dir`, made now where it is absent.

    Raises JslmError where what is there was made with other settings, from other input files or with another tokenizer,
    saying which; `data.source` may be empty or gone once the files are made. Sources are read again only where their
    size and times may lie (see `freshness`), token files not at all: see `check_prepared`.
    """
    folder = data_folder(config.data_dir)
    if not (folder / META_NAME).exists():
        return prepare(config, log=log)
    prepared = open_prepared(config, folder)
    if is_address(config.data_dir):
        with folder_lock(folder, log):
            push_data(config.data_dir)
    return prepared


def check_prepared(config: Config) -> PreparedData:
    """The prepared data in `config.data_dir`, with the whole of its files and of its sources read and compared.

    Raises JslmError as `ensure_prepared` and `jslm.tokens.verify`, and where there is no data or a source is gone.
    """
    folder = data_folder(config.data_dir)
    prepared = open_prepared(config, folder, rehash=True)
    verify(folder, prepared.tokenizer.fingerprint)
    if REJECTED in prepared.meta:
        verify(folder / REJECTED, prepared.tokenizer.fingerprint)
    return prepared


def prepare(config: Config, *, force: bool = False, log: Log = log_to_stderr) -> PreparedData:
    """Reads `data.source`, builds the tokenizer, and writes token files and `tokenizer.json` to `config.data_dir`.

    The files are the same for any `prepare.workers` and `prepare.executor`. They appear all at once at the end, and an
    older set stays until then. Until then, too, what is done is kept in parts in a hidden folder there, in which the
    text takes its size once (twice where repeated lines are taken out) and the tokens theirs: a run that was killed,
    at whatever moment, goes on there, and its files are those of a run that was not.

    A tokenizer is built from all of the text, validation included, as nanoGPT's character vocabulary is (`bpe`: see
    `tokenizer.train_share`). With a `validation_fraction` of 0, `val.bin` is empty and there is nothing to evaluate on.
    A `data.dir` at an address is prepared in this machine's copy of it, and uploaded when it is whole; a run that was
    killed goes on on this machine. Without `force`, files that are already there are checked against the config and
    kept. Memory: see `read_corpus`; it does not grow with the corpus, except for `data.dedup`.

    Raises JslmError: see `read_corpus`, `plan_split`, `run_tasks` and `ensure_prepared`; a full disk, a folder that
    can't be written, or too little text for either split; an address that can't be reached.
    """
    if config.data.mixture:
        raise JslmError(
            "data.mixture: its corpora are prepared one by one, each with a config of its own; this one trains on them"
        )
    config = _with_start(config)
    folder = data_folder(config.data_dir)
    is_there = (folder / META_NAME).exists()
    if not config.data.sources and not is_there:
        raise JslmError(
            f"data.source is empty and {folder} holds no prepared data; set data.source=book.txt, or data.dir"
        )
    if force or not is_there:
        # Before the lock, so that a misspelt source leaves no folder behind.
        resolve_sources(config.data)
    with folder_lock(folder, log):
        remove_partial(folder)
        if not force and (folder / META_NAME).exists():
            prepared = open_prepared(config, folder)
            remove_work(folder)
            log(f"{folder}: already prepared; jslm prepare --force makes it again")
        else:
            announce(config.data_dir)
            prepared = _prepare(config, folder, log)
        push_data(config.data_dir)
        return prepared


def _with_start(config: Config) -> Config:
    """A config that says its own tokenizer can be prepared before there is the model to start from."""
    start = config.train.init_from
    if not start or (
        not is_address(start) and not Path(start).exists() and {"kind", "path"} & config.tokenizer.model_fields_set
    ):
        return config
    # Opens models, and so imports JAX.
    return jslm.formats.with_start(config)


def _prepare(config: Config, folder: Path, log: Log) -> PreparedData:
    entries = resolve_sources(config.data)
    input_files, input_bytes = size_of(entries)
    # All that can be refused before the text is read.
    check_tokenizer(config.tokenizer)
    if config.data.messages:
        known = load_tokenizer(config.tokenizer.path).special_tokens if config.tokenizer.path else {}
        special_tokens = [*known, *config.tokenizer.special_tokens]
        check_tokens(config.data.chat_template, special_tokens)
        splitter(config.data, special_tokens=special_tokens)
    inputs = look([entry for entry in entries if isinstance(entry, InputFile)])
    generated = [str(entry) for entry in entries if not isinstance(entry, InputFile)]
    work = WorkFolder(folder, _work_key(config, inputs, generated), log)
    workers = _workers(config, input_bytes)
    corpus = read_corpus(config.data, _on_bad(config, log), work, workers, input_bytes, log)
    if changed := changed_meanwhile(inputs):
        raise JslmError(f"{changed}: changed while it was read; run the same command again")
    tally = corpus.tally
    counts = Counts(tally.documents, tally.characters, tally.utf8_bytes)
    plan = plan_split(config.data, counts)
    log(f"read {counts.documents:,} document(s), {counts.utf8_bytes / 1e6:,.2f} MB; split by {plan.by}")
    for hint in hints(tally.literals, config.data):
        log(hint)
    for cleaner, gutted in tally.gutted.items():
        log(gutted.line(cleaner))
    if lost := tally.lost.line():
        log(lost)

    def pieces() -> Iterator[Piece]:
        return with_copies(lambda: plan.apply(corpus.documents()), config.data.augment)

    tokenizer = _tokenizer(config, corpus, pieces, work, log)
    size = counts.utf8_bytes * (1 + config.data.augment.copies)
    names = config.data.conditions
    conditions = {name: sorted(labels) for name, labels in zip(names, tally.labels, strict=True)}
    split = splitter(config.data, tokenizer)
    labels = list(conditions.values())
    encode_corpus(pieces(), tokenizer, work, _workers(config, size), size, log, split, labels)
    identity = {"kind": tokenizer.kind, "fingerprint": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size}
    rejected: dict[str, Any] = {}
    unknown = 0
    if config.data.rejected:
        encode_rejected(pieces(), tokenizer, work, _workers(config, size), size, log)
        fields = {"tokenizer": identity, "end_of_text": plan.end_of_text}
        rejected, unknown = write_rejected(folder, work, tokenizer.vocab_size, fields)
    with TokenWriter(
        folder,
        tokenizer.vocab_size,
        has_prompts=bool(config.data.prompt_end) and not config.data.messages,
        has_learned=bool(config.data.messages),
        conditions=conditions,
    ) as writer:
        unknown += add_parts(work, writer)
        _check_counts(config, writer)
        if counts.utf8_bytes < SMALL_BYTES:
            log(
                f"data.source: {counts.utf8_bytes:,} byte(s) of text are too small to learn from: a model learns them "
                f"by heart, and nothing else; give at least {SMALL_BYTES:,} (a short book has 200,000)"
            )
        if unknown:
            log(f"{unknown:,} character(s) of the text are not in {config.tokenizer.path}; they became unknown tokens")
        tokenizer.save(writer.partial / TOKENIZER_NAME)
        save_inputs(writer.partial / INPUTS_NAME, inputs)
        extra_files = [TOKENIZER_NAME, INPUTS_NAME]
        if config.data.messages:
            (writer.partial / TEMPLATE_NAME).write_text(template_source(config.data.chat_template), "utf-8")
            extra_files.append(TEMPLATE_NAME)
        meta = writer.commit(
            {
                "tokenizer": identity,
                "sources": list(config.data.sources),
                "about": config.data.about,
                "licence": config.data.licence,
                "input_files": input_files,
                "input_bytes": input_bytes,
                "split": plan.by,
                "end_of_text": plan.end_of_text,
                "settings": settings_of(config),
                "removed": tally.removed,
                "gutted": {cleaner: asdict(gutted) for cleaner, gutted in tally.gutted.items()},
                "dropped": {stage: report.to_json() for stage, report in tally.reports.items()},
                "skipped": {"count": tally.skipped, "first": tally.skipped_first},
                "unknown_characters": unknown,
                **({REJECTED: rejected} if rejected else {}),
            },
            extra_files=extra_files,
        )
    if not rejected:
        remove_rejected(folder)
    if not config.data.messages:
        # Of conversations that were prepared here before.
        (folder / TEMPLATE_NAME).unlink(missing_ok=True)
    remove_work(folder)
    return PreparedData(folder, tokenizer, meta)


def _tokenizer(
    config: Config, corpus: Corpus, pieces: Callable[[], Iterator[Piece]], work: WorkFolder, log: Log
) -> Tokenizer:
    """Built once: the parts that are there already were made with the one in the work folder."""
    path = work.path / TOKENIZER_NAME
    if path.exists():
        return load_tokenizer(path)
    utf8_bytes = corpus.tally.utf8_bytes
    split = splitter(config.data, special_tokens=config.tokenizer.special_tokens)

    def said(text: str, where: str) -> str:
        # Conversations are JSON up to here, and special tokens are no text.
        if not config.data.messages:
            return text
        try:
            return "".join(part.text for part in split(text) if not part.is_special)
        except JslmError as error:
            raise JslmError(f"{where}: {error}") from None

    def all_said() -> Iterator[str]:
        return (said(document.text, document.place) for document in corpus.documents())

    def texts() -> Iterator[str]:
        # A character vocabulary from a sample would lack the rare ones, and altered copies may have more of them.
        is_sampled = config.tokenizer.kind == "bpe"
        everything = (text for piece in pieces() for text in (said(piece.text, piece.where), piece.rejected or ""))
        if is_sampled:
            return training_texts(all_said(), config.tokenizer, utf8_bytes)
        return everything

    tokenizer = build_tokenizer(config.tokenizer, texts)
    log(f"tokenizer: {tokenizer.kind}, {tokenizer.vocab_size:,} entries")
    if tokenizer.kind == "bpe" and (line := compare_with_gpt2(tokenizer, all_said(), utf8_bytes)):
        log(line)
    work.write(TOKENIZER_NAME, lambda file: file.write(tokenizer.to_json().encode("utf-8")))
    return tokenizer


def _work_key(config: Config, inputs: list[Seen], generated: list[str]) -> dict[str, Any]:
    """All that decides what is in the parts: settings, code, and the input files by their content."""
    tokenizer_file = config.tokenizer.path
    return {
        "version": [_WORK_VERSION, jslm.__version__, encode.CHUNK_CHARACTERS, encode.PART_CHARACTERS],
        "settings": settings_of(config),
        "tokenizer": load_tokenizer(tokenizer_file).fingerprint if tokenizer_file else "",
        "inputs": [*(seen.identity for seen in inputs), *generated],
    }


def _on_bad(config: Config, log: Log) -> OnBad:
    if config.prepare.on_bad_document == "stop":
        return stop
    shown = 0

    def skip(error: JslmError) -> None:
        nonlocal shown
        shown += 1
        if shown <= _SHOWN_SKIPPED:
            log(f"skipped: {error}")
        elif shown == _SHOWN_SKIPPED + 1:
            log(f"more than {_SHOWN_SKIPPED} are skipped; {META_NAME} will list them")

    return skip


def _workers(config: Config, utf8_bytes: int) -> Workers:
    if config.prepare.executor:
        return Workers(address=config.prepare.executor)
    if utf8_bytes < MIN_PARALLEL_BYTES:
        return Workers()
    return Workers(config.prepare.workers or os.cpu_count() or 1)


def _check_counts(config: Config, writer: TokenWriter) -> None:
    source = ", ".join(config.data.sources)
    fraction = config.data.validation_fraction
    if writer.tokens("train") < 2:
        raise JslmError(
            f"data.source = {source}: {writer.tokens('train')} token(s) are left for training; it needs at least 2: "
            f"give more text{' or set data.validation_fraction=0 to hold out none' if fraction else ''}"
        )
    if fraction and writer.tokens("val") < 2:
        raise JslmError(
            f"data.source = {source}: {writer.tokens('val')} token(s) are left for validation; it needs at least 2: "
            f"give more text, raise data.validation_fraction (found {fraction}), or set it to 0 for none"
        )
