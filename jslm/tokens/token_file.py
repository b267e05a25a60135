"""Token files: `train.bin`, `val.bin`, their document indexes and `meta.json`.

`{split}.bin` is the bare tokens, little endian, uint16 where the vocabulary fits in 65,536 and uint32 where not (as
nanoGPT's: no header). `{split}.idx` is uint64, little endian: the token offset of each document's start, then the
number of tokens. `{split}.prompts`, for prompt/completion pairs only, is uint32, little endian: how many of each
document's first tokens are its prompt, which is read but not learned; `meta.json` then gives their sum as the split's
`prompt_tokens`. `{split}.labels`, where there are conditions, is int16, little endian, `[documents, conditions]`: the
number of each label in `meta.json`'s `conditions` (name to labels), -1 for none. `{split}.learned`, for conversations
only, is a byte a token: 1 where it is learned, 0 where it is only read; `meta.json` then gives their sum as the split's
`learned_tokens`. `meta.json` is written last, so a folder that has it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike, NDArray

from jslm.errors import JslmError
from jslm.files import sync
from jslm.tokens.stretch import Stretch

FORMAT_VERSION = 1
META_NAME = "meta.json"
_AGAIN = "jslm prepare --config CONFIG --force"
Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
NO_LABEL = -1
_PARTIAL = ".partial-"


@dataclass(frozen=True)
class TokenFile:
    """One split, memory-mapped: `tokens` [n_tokens] uint16 or uint32, `offsets` [n_documents + 1] uint64.

    `prompts` [n_documents] uint32, for prompt/completion pairs only: how many of a document's first tokens are prompt.
    `labels` [n_documents, n_conditions] int16, where `meta["conditions"]` names some: numbers of labels, -1 for none.
    `learned` [n_tokens] uint8, for conversations only: whether a token is learned.
    """

    path: Path
    tokens: NDArray[np.uint16] | NDArray[np.uint32]
    offsets: NDArray[np.uint64]
    meta: Mapping[str, Any]
    prompts: NDArray[np.uint32] | None = None
    labels: NDArray[np.int16] | None = None
    learned: NDArray[np.uint8] | None = None

    @property
    def has_completions(self) -> bool:
        """Whether some of it is read and never learned: pairs, or conversations."""
        return self.prompts is not None or self.learned is not None


def read_meta(folder: str | Path) -> dict[str, Any]:
    """The folder's `meta.json`; raises JslmError where it is absent, damaged or of another format version."""
    path = Path(folder, META_NAME)
    try:
        meta = json.loads(path.read_text("utf-8"))
        version = meta["format_version"]
        if version == FORMAT_VERSION:
            _ = [meta[split][key] for split in SPLITS for key in ("tokens", "documents", "sha256")]
            _ = meta["dtype"], meta["tokenizer"]["fingerprint"]
    except FileNotFoundError:
        raise JslmError(
            f"{path}: not found: {folder} holds no prepared data; run jslm prepare --config CONFIG"
        ) from None
    except OSError as error:
        raise JslmError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise JslmError(f"{path}: damaged ({type(error).__name__}: {error}); prepare again: {_AGAIN}") from None
    if version != FORMAT_VERSION:
        raise JslmError(
            f"{path}: format_version is {version!r}; this jslm reads {FORMAT_VERSION}; prepare again: {_AGAIN}"
        )
    return dict(meta)


def open_tokens(folder: str | Path, split: Split) -> TokenFile:
    """Memory-maps one split, after checking that the files have the sizes `meta.json` gives; raises JslmError."""
    meta = read_meta(folder)
    _check_sizes(Path(folder), split, meta)
    has_prompts = "prompt_tokens" in meta[split]
    kinds = len(meta.get("conditions") or {})
    return TokenFile(
        path=Path(folder, f"{split}.bin"),
        tokens=_map(Path(folder, f"{split}.bin"), _dtype(meta)),
        offsets=_map(Path(folder, f"{split}.idx"), np.dtype("<u8")),
        meta=meta,
        prompts=_map(Path(folder, f"{split}.prompts"), np.dtype("<u4")) if has_prompts else None,
        labels=_map(Path(folder, f"{split}.labels"), np.dtype("<i2")).reshape(-1, kinds) if kinds else None,
        learned=_map(Path(folder, f"{split}.learned"), np.dtype("u1")) if "learned_tokens" in meta[split] else None,
    )


def verify(folder: str | Path, tokenizer_fingerprint: str | None = None, check_sha: bool = True) -> dict[str, Any]:
    """Checks both splits' sizes, indexes and SHA-256, and the tokenizer's fingerprint; returns the meta.

    Raises JslmError naming the file, what was expected and what was found.
    """
    folder = Path(folder)
    meta = read_meta(folder)
    expected = meta["tokenizer"]["fingerprint"]
    if tokenizer_fingerprint is not None and tokenizer_fingerprint != expected:
        raise JslmError(
            f"{folder / META_NAME}: the tokens were made with tokenizer {expected}, but the tokenizer in use is "
            f"{tokenizer_fingerprint}; use the matching one, or prepare again: {_AGAIN}"
        )
    for split in SPLITS:
        _check_sizes(folder, split, meta)
        offsets = _map(folder / f"{split}.idx", np.dtype("<u8"))
        if offsets[0] != 0 or offsets[-1] != meta[split]["tokens"] or np.any(offsets[1:] < offsets[:-1]):
            raise _damaged(
                folder / f"{split}.idx", f"rising offsets from 0 to {meta[split]['tokens']}", "other numbers"
            )
        if "prompt_tokens" in meta[split]:
            _check_prompts(folder, split, offsets, meta[split]["prompt_tokens"])
        if (count := meta[split].get("learned_tokens")) is not None:
            learned = _map(folder / f"{split}.learned", np.dtype("u1"))
            if np.count_nonzero(learned == 1) != count or np.count_nonzero(learned) != count:
                raise _damaged(folder / f"{split}.learned", f"{count:,} learned tokens", "other numbers")
        if check_sha and (found := _sha256(folder / f"{split}.bin")) != meta[split]["sha256"]:
            raise _damaged(folder / f"{split}.bin", f"SHA-256 {meta[split]['sha256']}", found)
    return meta


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """The narrowest of uint16 and uint32, little endian, that holds every id."""
    return np.dtype("<u2" if vocab_size <= 1 << 16 else "<u4")


class TokenWriter:
    """Writes both splits in constant memory and moves them into `folder` all at once.

    Use it as a context manager: until `commit`, everything is in a hidden folder inside `folder`, which an exception
    removes. An older set of files is untouched until then. A full disk or a read-only folder is a JslmError.
    """

    def __init__(
        self,
        folder: str | Path,
        vocab_size: int,
        *,
        has_prompts: bool = False,
        has_learned: bool = False,
        conditions: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """`has_prompts`, `has_learned`: the file that says what is learned; `conditions`: the labels of each, whose
        numbers stretches have."""
        self.folder = Path(folder)
        self.has_prompts = has_prompts
        self.has_learned = has_learned
        self.conditions = {name: list(labels) for name, labels in (conditions or {}).items()}
        self.vocab_size = vocab_size
        self.dtype = token_dtype(vocab_size)
        with self._disk_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            self.partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=self.folder))
            kinds = len(self.conditions)
            self._splits = {
                split: _SplitWriter(self.partial, split, has_prompts, kinds, has_learned) for split in SPLITS
            }

    def append(
        self,
        split: Split,
        ids: ArrayLike,
        *,
        characters: int = 0,
        utf8_bytes: int = 0,
        ends_document: bool = True,
        bits: float | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """Appends tokens [n] of the document under way, without labels; `ends_document` closes it, with its `bits`.

        The first `prompt_tokens` of them are not learned.
        """
        array = np.asarray(ids)
        ends = [array.size] if ends_document else []
        stretch = Stretch(
            ids=array,
            ends=np.array(ends, np.uint64),
            learned=np.arange(array.size) >= prompt_tokens,
            bits=np.full(len(ends), np.nan if bits is None else bits),
            labels=np.full((len(ends), len(self.conditions)), NO_LABEL, np.int16),
            characters=characters,
            utf8_bytes=utf8_bytes,
        )
        self.extend(split, stretch)

    def extend(self, split: Split, stretch: Stretch) -> None:
        """Appends tokens, and the documents that end among them; raises ValueError for ids beyond the vocabulary."""
        ids = stretch.ids
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab_size:
            raise ValueError(f"token ids from {ids.min()} to {ids.max()} with a vocabulary of {self.vocab_size}")
        with self._disk_errors():
            self._splits[split].append(stretch, ids.astype(self.dtype))

    def tokens(self, split: Split) -> int:
        """Tokens appended to a split so far."""
        return self._splits[split].tokens

    def commit(self, fields: Mapping[str, Any], extra_files: Sequence[str] = ()) -> dict[str, Any]:
        """Flushes to disk, moves the files into place, `meta.json` last, and returns the meta.

        `fields` are the meta's other keys (`tokenizer`, `sources`, `settings`, ...); `extra_files` names files that
        the caller has put into `partial`.
        """
        with self._disk_errors():
            counts: dict[str, Any] = {split: writer.close() for split, writer in self._splits.items()}
            known = {"conditions": self.conditions} if self.conditions else {}
            meta = {"format_version": FORMAT_VERSION, "dtype": self.dtype.name, **fields, **known, **counts}
            (self.partial / META_NAME).write_text(json.dumps(meta, indent=2, ensure_ascii=False) + "\n", "utf-8")
            kinds = ["bin", "idx", *["prompts"] * self.has_prompts, *["labels"] * bool(self.conditions)]
            kinds += ["learned"] * self.has_learned
            names = [*(f"{split}.{kind}" for split in SPLITS for kind in kinds), *extra_files, META_NAME]
            for name in names:
                sync(self.partial / name)
            # Without a meta.json, a folder that has files of both the old and the new set is merely unprepared.
            (self.folder / META_NAME).unlink(missing_ok=True)
            for name in names:
                os.replace(self.partial / name, self.folder / name)
            _fsync_folder(self.folder)
        return meta

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for writer in self._splits.values():
            # After ENOSPC the flush inside close fails again; the file is about to go anyway.
            for file in filter(None, (writer.file, writer.index, writer.prompts, writer.labels, writer.learned)):
                with contextlib.suppress(OSError):
                    file.close()
        shutil.rmtree(self.partial, ignore_errors=True)

    @contextlib.contextmanager
    def _disk_errors(self) -> Any:
        try:
            yield
        except OSError as error:
            raise disk_error(self.folder, error) from error


def disk_error(folder: Path, error: OSError) -> JslmError:
    """A write that failed in `folder`, as one line with a remedy."""
    if error.errno == errno.ENOSPC:
        return JslmError(f"{folder}: no space left on the disk; free some, or set data.dir to a folder on another disk")
    return JslmError(f"{folder}: cannot be written: {error.strerror or error}; choose another data.dir")


def remove_partial(folder: Path) -> None:
    """Removes what a killed writer left in `folder`; call it only while no writer is at work there."""
    for path in folder.glob(f"{_PARTIAL}*"):
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class _SplitWriter:
    folder: Path
    split: Split
    has_prompts: bool = False
    kinds: int = 0
    has_learned: bool = False
    tokens: int = 0
    learned_tokens: int = 0
    prompt_tokens: int = 0
    prompt_of_document: int = 0
    documents: int = 0
    characters: int = 0
    utf8_bytes: int = 0
    bits: float = 0.0
    file: BinaryIO = field(init=False)
    index: BinaryIO = field(init=False)
    prompts: BinaryIO | None = field(init=False)
    labels: BinaryIO | None = field(init=False)
    learned: BinaryIO | None = field(init=False)

    def __post_init__(self) -> None:
        self.file = (self.folder / f"{self.split}.bin").open("wb")
        self.index = (self.folder / f"{self.split}.idx").open("wb")
        self.index.write(np.uint64(0).astype("<u8").tobytes())
        self.prompts = (self.folder / f"{self.split}.prompts").open("wb") if self.has_prompts else None
        self.labels = (self.folder / f"{self.split}.labels").open("wb") if self.kinds else None
        self.learned = (self.folder / f"{self.split}.learned").open("wb") if self.has_learned else None
        self.hash = hashlib.sha256()

    def append(self, stretch: Stretch, ids: NDArray[Any]) -> None:
        """Writes a stretch, its `ids` in the file's own type."""
        if self.labels:
            self.labels.write(stretch.labels.astype("<i2").tobytes())
        if self.prompts:
            counts = self._prompts_of(stretch)
            self.prompts.write(counts.astype("<u4").tobytes())
            self.prompt_tokens += int(counts.sum())
        if self.learned:
            self.learned.write(stretch.learned.astype(np.uint8).tobytes())
            self.learned_tokens += int(np.count_nonzero(stretch.learned))
        self.index.write((stretch.ends + np.uint64(self.tokens)).astype("<u8").tobytes())
        self.documents += stretch.ends.size
        # One by one, so that the sum is the same however the documents come in stretches.
        for bits in stretch.bits.tolist():
            self.bits += bits
        data = ids.tobytes()
        self.file.write(data)
        self.hash.update(data)
        self.tokens += ids.size
        self.characters += stretch.characters
        self.utf8_bytes += stretch.utf8_bytes

    def _prompts_of(self, stretch: Stretch) -> Int64[np.ndarray, " documents"]:
        """Tokens that are not learned of each document that ends; those of the one that goes on wait for its end."""
        read_only = np.concatenate([[0], np.cumsum(~stretch.learned)])
        borders = np.concatenate([[-self.prompt_of_document], read_only[stretch.ends.astype(np.int64)]])
        self.prompt_of_document = int(read_only[-1] - borders[-1])
        return np.diff(borders)

    def close(self) -> dict[str, Any]:
        self.file.close()
        self.index.close()
        for file in filter(None, (self.prompts, self.labels, self.learned)):
            file.close()
        return {
            **({"prompt_tokens": self.prompt_tokens} if self.has_prompts else {}),
            **({"learned_tokens": self.learned_tokens} if self.has_learned else {}),
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.utf8_bytes,
            "characters": self.characters,
            "sha256": self.hash.hexdigest(),
            "bits": self.bits if self.documents and not math.isnan(self.bits) else None,
        }


def _dtype(meta: Mapping[str, Any]) -> np.dtype[Any]:
    if meta["dtype"] not in ("uint16", "uint32"):
        raise JslmError(f"{META_NAME}: dtype = {meta['dtype']!r}; expected uint16 or uint32; prepare again: {_AGAIN}")
    return np.dtype(meta["dtype"]).newbyteorder("<")


def _map(path: Path, dtype: np.dtype[Any]) -> NDArray[Any]:
    # An empty file can't be mapped.
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype)


def _check_sizes(folder: Path, split: Split, meta: Mapping[str, Any]) -> None:
    sizes = {
        f"{split}.bin": meta[split]["tokens"] * _dtype(meta).itemsize,
        f"{split}.idx": (meta[split]["documents"] + 1) * 8,
    }
    if "prompt_tokens" in meta[split]:
        sizes[f"{split}.prompts"] = meta[split]["documents"] * 4
    if "learned_tokens" in meta[split]:
        sizes[f"{split}.learned"] = meta[split]["tokens"]
    if kinds := len(meta.get("conditions") or {}):
        sizes[f"{split}.labels"] = meta[split]["documents"] * kinds * 2
    for name, expected in sizes.items():
        try:
            found = (folder / name).stat().st_size
        except OSError as error:
            raise JslmError(
                f"{folder / name}: {error.strerror}, though {META_NAME} names it; prepare again: {_AGAIN}"
            ) from None
        if found != expected:
            raise _damaged(folder / name, f"{expected:,} bytes", f"{found:,}")


def _check_prompts(folder: Path, split: Split, offsets: NDArray[np.uint64], expected: int) -> None:
    prompts = _map(folder / f"{split}.prompts", np.dtype("<u4")).astype(np.uint64)
    if int(prompts.sum()) != expected or np.any(prompts > offsets[1:] - offsets[:-1]):
        raise _damaged(folder / f"{split}.prompts", f"{expected} prompt tokens inside their documents", "other numbers")


def _damaged(path: Path, expected: str, found: str) -> JslmError:
    return JslmError(
        f"{path}: expected {expected}, found {found}: the file was changed or cut short after it was made; "
        f"prepare again: {_AGAIN}"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync_folder(path: Path) -> None:
    # Makes the renames durable.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
