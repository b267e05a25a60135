"""Bytes to text in constant memory: encodings, newlines, separators."""

from __future__ import annotations

import codecs
import functools
import io
import logging
import re
from collections.abc import Iterator
from typing import BinaryIO

from jslm.errors import JslmError
from jslm.text.readers.problems import need

log = logging.getLogger("jslm")

BLOCK_BYTES = 1 << 20
SAMPLE_BYTES = 1 << 16
_BYTE_ORDER_MARKS = (
    # UTF-32's little-endian mark begins with UTF-16's.
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SIGNATURES = (
    (b"%PDF", "a PDF file"),
    (b"PK\x03\x04", "a ZIP file (or EPUB, DOCX)"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\xd0\xcf\x11\xe0", "an old Microsoft Office file"),
    (b"PAR1", "a Parquet file"),
)
# Bytes that no text in a one-byte encoding holds: control characters but tab, line breaks, form feed and escape.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_LEGACY = (
    *("cp1252", "latin_1", "cp1250", "cp1251", "cp1253", "cp1254", "cp1257", "iso8859_2", "iso8859_5", "koi8_r"),
    *("cp932", "euc_jp", "euc_kr", "gb18030", "big5", "cp437", "cp850", "mac_roman"),
)


def decode(stream: BinaryIO, name: str, encoding: str = "auto") -> Iterator[str]:
    """Blocks of text: byte order mark gone, CRLF and CR made LF, nothing else changed.

    `auto` takes the encoding of a byte order mark, else UTF-8. Text that is ASCII up to a byte that UTF-8 does not
    allow is in another encoding from there on: charset-normalizer says which, and a line on the log says so too.
    Memory: one block. Raises JslmError with the byte and line: binary data, UTF-8 that goes wrong midway, an unknown
    encoding, bytes that a given encoding lacks.
    """
    newlines = io.IncrementalNewlineDecoder(None, translate=True)
    for text in _Decoder(stream, name, encoding):
        yield newlines.decode(text)
    yield newlines.decode("", final=True)


def split_blocks(blocks: Iterator[str], separator: str) -> Iterator[tuple[str, int]]:
    """What stands between separators, without the white space around it, and the line on which it begins; an empty one
    for a separator at the end."""
    held: list[str] = []
    line = 1
    # A separator may straddle two blocks: the end of a block waits for the next one.
    edge = ""
    for block in blocks:
        *documents, rest = (edge + block).split(separator)
        for document in documents:
            whole = "".join((*held, document))
            yield whole.strip(), line + _lines_before(whole)
            line += whole.count("\n") + separator.count("\n")
            held.clear()
        cut = max(0, len(rest) - len(separator) + 1)
        held.append(rest[:cut])
        edge = rest[cut:]
    whole = "".join((*held, edge))
    yield whole.strip(), line + _lines_before(whole)


def _lines_before(text: str) -> int:
    """Line breaks before the first word."""
    return text.count("\n", 0, len(text) - len(text.lstrip()))


def split_lines(blocks: Iterator[str]) -> Iterator[str]:
    """The lines of a text with their LF, which alone ends a line here (U+2028 and the like do not)."""
    held: list[str] = []
    for block in blocks:
        *lines, rest = block.split("\n")
        for line in lines:
            yield "".join((*held, line, "\n"))
            held.clear()
        held.append(rest)
    if last := "".join(held):
        yield last


class _Decoder:
    """Iterates over the decoded blocks of a stream."""

    def __init__(self, stream: BinaryIO, name: str, encoding: str) -> None:
        self._stream = stream
        self._name = name
        self._is_auto = encoding == "auto"
        self._encoding = "utf-8" if self._is_auto else known_encoding(encoding)
        self._is_ascii = True
        # Where the bytes that are being decoded begin.
        self._offset = 0
        self._line = 1

    def __iter__(self) -> Iterator[str]:
        block = self._stream.read(BLOCK_BYTES)
        mark, marked = next((entry for entry in _BYTE_ORDER_MARKS if block.startswith(entry[0])), (b"", ""))
        # A given encoding wins over a mark, except that the mark of that very encoding is no text.
        if mark and (self._is_auto or marked.startswith(self._encoding)):
            self._encoding, self._is_auto = marked, False
            block, self._offset = block[len(mark) :], len(mark)
        self._head = block[:8] if not mark else b""
        decoder = codecs.getincrementaldecoder(self._encoding)()
        while True:
            data = _pending(decoder) + block
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                if not (self._is_auto and self._is_ascii and data[: error.start].isascii()):
                    raise self._not_decodable(data, error) from None
                data += self._stream.read(SAMPLE_BYTES)
                self._encoding, self._is_auto = self._detect(data, error.start), False
                decoder = codecs.getincrementaldecoder(self._encoding)()
                text = self._decode_again(decoder, data)
                # Not empty, whatever was read last: the new decoder has yet to be told of the end.
                block = data
            if "\0" in text:
                at = data.find(b"\0")
                raise self._not_text(f"a NUL byte at byte {self._offset + at} (line {self._line_of(data, at)})")
            self._is_ascii = self._is_ascii and text.isascii()
            yield text
            decoded = data[: len(data) - len(_pending(decoder))]
            self._offset += len(decoded)
            self._line += decoded.count(b"\n")
            if not block:
                return
            block = self._stream.read(BLOCK_BYTES)

    def _decode_again(self, decoder: codecs.IncrementalDecoder, data: bytes) -> str:
        try:
            return decoder.decode(data)
        except UnicodeDecodeError as error:
            raise self._not_decodable(data, error) from None

    def _detect(self, data: bytes, at: int) -> str:
        sample = data[data.rfind(b"\n", 0, at) + 1 :][:SAMPLE_BYTES]
        where = f"byte 0x{data[at]:02x} at byte {self._offset + at} (line {self._line_of(data, at)})"
        found = None if _BINARY.search(sample) else guess_encoding(sample)
        if found is None:
            raise self._not_text(f"not UTF-8 ({where}), nor an encoding that could be found")
        _say(f"{self._name}: not UTF-8 ({where}); read as {found} (data.encoding chooses another)")
        return found

    def _not_decodable(self, data: bytes, error: UnicodeDecodeError) -> JslmError:
        where = f"byte 0x{data[error.start]:02x} at byte {self._offset + error.start}"
        return self._not_text(f"not {self._encoding.upper()}: {where} (line {self._line_of(data, error.start)})")

    def _not_text(self, found: str) -> JslmError:
        kind = next((kind for magic, kind in _SIGNATURES if self._head.startswith(magic)), None)
        if kind and self._offset < BLOCK_BYTES:
            return JslmError(f"{self._name}: this is {kind}, not text; leave it out of data.source, or set data.format")
        return JslmError(
            f"{self._name}: not text that can be read: {found}; mend or leave out the file, or set data.encoding"
        )

    def _line_of(self, data: bytes, at: int) -> int:
        return self._line + data.count(b"\n", 0, at)


def guess_encoding(sample: bytes) -> str | None:
    """The likeliest encoding of bytes that are not UTF-8, or None where no candidate gives text.

    charset-normalizer ranks the candidates. Where Windows-1252 (which holds all of Latin-1's text) gives the same text
    as the first, or one as much like a language, it is taken: it is what most such files are.
    """
    detector = need("charset_normalizer", "finding a file's encoding", "charset-normalizer")
    matches = list(detector.from_bytes(sample, cp_isolation=list(_LEGACY)))
    if not matches:
        return None
    best = matches[0]
    for match in matches:
        is_western = match.encoding in ("cp1252", "latin_1") or "cp1252" in match.could_be_from_charset
        if is_western and match.coherence >= best.coherence and match.chaos <= best.chaos + 0.1:
            return "cp1252" if _decodes(sample, "cp1252") else "latin_1"
    if _decodes(sample, "cp1252") and sample.decode("cp1252") == str(best):
        return "cp1252"
    return str(best.encoding)


def _decodes(sample: bytes, encoding: str) -> bool:
    try:
        sample.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def known_encoding(encoding: str) -> str:
    """Python's own name of an encoding; raises JslmError where it has none of that name."""
    try:
        # Codecs such as rot13 and zlib are refused here: they are no encodings of text.
        "".encode(encoding)
    except LookupError:
        raise JslmError(
            f"data.encoding = {encoding!r} is not an encoding that Python knows; use auto, utf-8, cp1252 or the like"
        ) from None
    return codecs.lookup(encoding).name


def _pending(decoder: codecs.IncrementalDecoder) -> bytes:
    return decoder.getstate()[0]


@functools.cache
def _say(message: str) -> None:
    """Once only: a corpus is read several times over."""
    log.warning("%s", message)
