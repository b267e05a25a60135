"""Counts of a folder of token files: documents, lengths, frequent tokens, samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from jslm.config import Config, load_config
from jslm.errors import JslmError
from jslm.runs.remote import opened
from jslm.storage import data_folder, is_address, tidy
from jslm.tokenizer import Tokenizer, load_tokenizer
from jslm.tokens.token_file import META_NAME, SPLITS, Split, TokenFile, open_tokens, verify

TOKENIZER_NAME = "tokenizer.json"
RUN_CONFIG = "config.toml"
_EXPECTED = f"give the folder that jslm prepare wrote, with {META_NAME}, or that of a run"
# Tokens counted at a time, so that a file of any size takes the memory of this many.
_CHUNK = 1 << 22
# A novel need not be decoded whole for its first lines.
_SAMPLE_TOKENS = 400
_MOST_BUCKETS = 20


@dataclass(frozen=True, slots=True)
class Bucket:
    """Documents of `low` to `high` tokens, both included."""

    low: int
    high: int
    documents: int


@dataclass(frozen=True, slots=True)
class TokenCount:
    """A token as people read it, and how often it occurs."""

    token: int
    spelling: str
    count: int


@dataclass(frozen=True, slots=True)
class SampleDocument:
    """A document by its number from 0, its length in tokens, and its text, which may be cut."""

    number: int
    tokens: int
    text: str
    is_whole: bool


@dataclass(frozen=True, slots=True)
class SplitFacts:
    """One split. `lengths` gives tokens a document by name (shortest, median, ...); empty without documents."""

    split: Split
    file: TokenFile
    documents: int
    tokens: int
    utf8_bytes: int
    characters: int
    bits: float | None
    lengths: Mapping[str, float]
    histogram: list[Bucket]
    distinct_tokens: int
    frequent: list[TokenCount]
    samples: list[SampleDocument]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of text over tokens; 0 for an empty split."""
        return self.utf8_bytes / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A prepared folder: its `meta.json`, its tokenizer and both splits."""

    folder: Path
    meta: Mapping[str, Any]
    tokenizer: Tokenizer
    splits: list[SplitFacts]


def prepared_folders(folder: str | Path) -> tuple[list[Path], Config | None]:
    """The prepared folders that `folder` stands for, and the run's config where it is the folder of a run.

    A run has one folder of data, or those of its mixture: beside its config, or where `data.dir` says, seen from the
    current folder. Raises JslmError: no such folder, a file, neither prepared data nor a run, a run whose data is not
    there.
    """
    address = tidy(folder) if is_address(folder) else ""
    path = Path(folder)
    if address:
        # Prepared data has its meta.json there; else it is a run.
        path = data_folder(address)
        path = path if (path / META_NAME).exists() else Path(opened(address)[0])
    if not path.exists():
        raise JslmError(f"{path}: no such folder; {_EXPECTED}")
    if not path.is_dir():
        raise JslmError(f"{path}: is a file; {_EXPECTED}")
    if (path / META_NAME).exists():
        return [path], None
    inside = path / "data"
    if not (path / RUN_CONFIG).is_file():
        if (inside / META_NAME).exists():
            return [inside], None
        raise JslmError(f"{path}: neither prepared data (no {META_NAME}) nor a run (no {RUN_CONFIG}); {_EXPECTED}")
    config = load_config(path / RUN_CONFIG)
    named = [corpus.dir for corpus in config.data.mixture] or [config.data.dir]
    # Without data.dir the data is in the run's folder, which may be another by now than run_dir says.
    if address and not named[0]:
        inside = data_folder(f"{address}/data")
    folders = [data_folder(name) if name else inside for name in named]
    for found in folders:
        if not (found / META_NAME).is_file():
            raise JslmError(
                f"{path}: its data was prepared in {found}, and there is none there, seen from {Path.cwd()}; go to the "
                "folder where it was trained, or give the folder where its data is now, with meta.json"
            )
    return folders, config


def collect_facts(folder: str | Path, *, frequent: int = 20, samples: int = 3, seed: int = 0) -> FolderFacts:
    """Counts what is in a prepared folder.

    `frequent` tokens and `samples` documents a split are listed; `seed` chooses the documents. Memory: a few megabytes
    and 8 bytes a document.

    Raises JslmError: no prepared data, damaged or missing files, another tokenizer than the tokens were made with.
    """
    path = Path(folder)
    meta = verify(path, check_sha=False)
    tokenizer = load_tokenizer(path / TOKENIZER_NAME)
    verify(path, tokenizer.fingerprint, check_sha=False)
    splits = [_split_facts(path, split, tokenizer, frequent, samples, seed) for split in SPLITS]
    return FolderFacts(path, meta, tokenizer, splits)


def _split_facts(
    folder: Path, split: Split, tokenizer: Tokenizer, frequent: int, samples: int, seed: int
) -> SplitFacts:
    file = open_tokens(folder, split)
    lengths = np.diff(np.asarray(file.offsets).astype(np.int64))
    counts = _count_tokens(file, tokenizer.vocab_size)
    # Ties in the order of the ids, on every machine.
    most = np.argsort(-counts, kind="stable")[:frequent].tolist()
    fields = file.meta[split]
    return SplitFacts(
        split=split,
        file=file,
        documents=len(lengths),
        tokens=len(file.tokens),
        utf8_bytes=fields.get("bytes", 0),
        characters=fields.get("characters", 0),
        bits=fields.get("bits"),
        lengths=_quantiles(lengths),
        histogram=length_histogram(lengths),
        distinct_tokens=int(np.count_nonzero(counts)),
        frequent=[TokenCount(at, tokenizer.id_to_token(at), int(counts[at])) for at in most if counts[at]],
        samples=_samples(file, lengths, tokenizer, samples, seed),
    )


def _count_tokens(file: TokenFile, vocab_size: int) -> Int64[np.ndarray, " vocab_size"]:
    counts = np.zeros(vocab_size, np.int64)
    for start in range(0, len(file.tokens), _CHUNK):
        found = np.bincount(file.tokens[start : start + _CHUNK], minlength=vocab_size)
        if len(found) > vocab_size:
            raise JslmError(
                f"{file.path}: holds id {len(found) - 1:,}, but the tokenizer has {vocab_size:,} entries: the file is "
                "damaged; prepare again: jslm prepare --config CONFIG --force"
            )
        counts += found
    return counts


def _quantiles(lengths: Int64[np.ndarray, " documents"]) -> dict[str, float]:
    if not len(lengths):
        return {}
    shortest, median, most, longest = np.percentile(lengths, [0, 50, 95, 100]).tolist()
    mean = float(lengths.mean())
    return {"shortest": shortest, "median": median, "mean": mean, "95% are up to": most, "longest": longest}


def length_histogram(lengths: Int64[np.ndarray, " documents"]) -> list[Bucket]:
    """Documents by length in tokens, without empty buckets at the ends.

    Buckets go from one power of two to the next; where the longest document is less than 8 times the shortest, they
    are of one round width (1, 2 or 5 times a power of ten), 20 at most.
    """
    if not len(lengths):
        return []
    shortest, longest = int(lengths.min()), int(lengths.max())
    if longest < 8 * shortest:
        width = next(width for width in _round_widths() if longest // width - shortest // width < _MOST_BUCKETS)
        first = shortest // width
        counts = np.bincount(lengths // width - first)
        return [Bucket((first + at) * width, (first + at + 1) * width - 1, int(n)) for at, n in enumerate(counts)]
    # frexp gives the bit length exactly, where a logarithm would round at the powers.
    widths = np.frexp(lengths.astype(np.float64))[1]
    counts = np.bincount(widths)
    return [
        Bucket(1 << width - 1 if width else 0, (1 << width) - 1, int(counts[width]))
        for width in range(int(widths.min()), len(counts))
    ]


def _round_widths() -> Iterator[int]:
    for exponent in count():
        yield from (digit * 10**exponent for digit in (1, 2, 5))


def _samples(
    file: TokenFile, lengths: Int64[np.ndarray, " documents"], tokenizer: Tokenizer, samples: int, seed: int
) -> list[SampleDocument]:
    chosen = np.random.default_rng(seed).permutation(len(lengths))[:samples]
    result = []
    for number in sorted(chosen.tolist()):
        start, size = int(file.offsets[number]), int(lengths[number])
        text = tokenizer.decode(np.asarray(file.tokens[start : start + min(size, _SAMPLE_TOKENS)]))
        result.append(SampleDocument(number, size, text, size <= _SAMPLE_TOKENS))
    return result
