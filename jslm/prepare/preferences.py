"""The answers that were not preferred, as a folder of token files inside that of the pairs."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from jslm.prepare.encode import add_parts, encode_corpus
from jslm.prepare.split import Piece
from jslm.prepare.tasks import Workers
from jslm.prepare.work import WorkFolder
from jslm.tokenizer import Tokenizer
from jslm.tokens.preferences import REJECTED
from jslm.tokens.token_file import SPLITS, TokenWriter, remove_partial

__all__ = ["REJECTED", "encode_rejected", "remove_rejected", "write_rejected"]


def encode_rejected(
    pieces: Iterable[Piece],
    tokenizer: Tokenizer,
    work: WorkFolder,
    workers: Workers,
    utf8_bytes: int,
    log: Callable[[str], None],
) -> None:
    """`encode_corpus` of the pieces' rejected answers alone: each follows the prompt of the pair it belongs to."""
    answers = (
        dataclasses.replace(piece, text=piece.rejected or "", rejected=None, labels=(), continues=True)
        for piece in pieces
    )
    encode_corpus(answers, tokenizer, work, workers, utf8_bytes, log, kind=REJECTED)


def write_rejected(
    folder: Path, work: WorkFolder, vocab_size: int, fields: Mapping[str, Any]
) -> tuple[dict[str, str], int]:
    """Makes `folder/rejected`, a document an answer in the order of the pairs; returns SHA-256 by split, and how many
    characters the tokenizer did not know.

    `fields` are those of its `meta.json`. Raises JslmError as the disk does.
    """
    inner = folder / REJECTED
    remove_partial(inner)
    with TokenWriter(inner, vocab_size) as writer:
        unknown = add_parts(work, writer, REJECTED)
        meta = writer.commit(fields)
    return {split: meta[split]["sha256"] for split in SPLITS}, unknown


def remove_rejected(folder: Path) -> None:
    """Removes what was prepared here before with `data.rejected`."""
    shutil.rmtree(folder / REJECTED, ignore_errors=True)
