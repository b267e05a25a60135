"""llama2.c's `tokenizer.bin`: the length of the longest piece, then a score, a length and the bytes of each piece.

Little-endian int32 and float32 without a count: the pieces end where the file does. Written by `export` in llama2.c's
`tokenizer.py`.
"""

from __future__ import annotations

import struct
from pathlib import Path

from jslm.errors import JslmError
from jslm.tokenizer.sentencepiece import SentencePieceTokenizer

NAME = "tokenizer.bin"
_HEADER, _ENTRY = struct.Struct("<i"), struct.Struct("<fi")
# Ten times that of any vocabulary there is.
_MAX_BYTES = 64 * 2**20


def find_tokenizer(path: Path, vocab_size: int) -> SentencePieceTokenizer:
    """The tokenizer of `vocab_size` pieces beside the model file `path`: `tokenizer.bin`, or else a `tok*.bin`.

    Raises JslmError where there is none, or a damaged one.
    """
    named = [path.with_name(NAME), path.with_name(f"tok{vocab_size}.bin")]
    others = sorted(file for file in path.parent.glob("tok*.bin") if file not in (path, *named))
    found = []
    for file in (*named, *others):
        if file != path and file.is_file():
            tokenizer = read_tokenizer(file)
            if tokenizer.vocab_size == vocab_size:
                return tokenizer
            found.append(f"{file.name} has {tokenizer.vocab_size:,}")
    reason = f"but {' and '.join(found)}" if found else f"and there is no {NAME} and no tok*.bin beside it"
    raise JslmError(
        f"{path}: the model has {vocab_size:,} tokens, {reason}; put the {NAME} that it was trained with beside it"
    )


def read_tokenizer(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a `tokenizer.bin`, whose documents end with `<s>`, as llama2.c's do.

    Raises JslmError where the file cannot be read, or is no such file.
    """
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise JslmError(f"{path}: cannot be read ({error.strerror or error})") from error
    if len(data) > _MAX_BYTES:
        raise _bad(path, f"above {_MAX_BYTES // 2**20} MiB")
    if len(data) < _HEADER.size:
        raise _bad(path, f"{len(data)} bytes")
    [longest] = _HEADER.unpack_from(data)
    pieces: list[str] = []
    scores: list[float] = []
    at = _HEADER.size
    while at < len(data):
        token = f"token {len(pieces)}"
        if len(data) - at < _ENTRY.size:
            raise _bad(path, f"it ends inside {token}")
        score, length = _ENTRY.unpack_from(data, at)
        at += _ENTRY.size
        if not 0 < length <= longest:
            raise _bad(path, f"{token} has {length} bytes, expected 1 to the {longest} that the file begins with")
        if len(data) - at < length:
            raise _bad(path, f"it ends inside {token}")
        try:
            pieces.append(data[at : at + length].decode("utf-8"))
        except UnicodeDecodeError:
            raise _bad(path, f"{token} is not UTF-8") from None
        scores.append(score)
        at += length
    try:
        return SentencePieceTokenizer(pieces, scores, end_of_text="<s>")
    except ValueError as error:
        raise _bad(path, str(error)) from error


def tokenizer_bytes(tokenizer: SentencePieceTokenizer) -> bytes:
    """The content of a `tokenizer.bin`."""
    pieces = [piece.encode() for piece in tokenizer.pieces]
    entries = (_ENTRY.pack(score, len(piece)) + piece for piece, score in zip(pieces, tokenizer.scores, strict=True))
    return _HEADER.pack(max(map(len, pieces))) + b"".join(entries)


def _bad(path: Path, what: str) -> JslmError:
    return JslmError(
        f"{path}: {what}; this is no tokenizer of llama2.c, or an old or damaged one: make it anew by its tokenizer.py"
    )
