"""Records (JSON Lines, JSON, CSV, TSV, Parquet) to documents: a column, or a template over several."""

from __future__ import annotations

import csv
import json
import re
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.prompts.as_read import as_read
from jslm.prompts.conversations import conversation_text
from jslm.prompts.pairs import border, template_parts
from jslm.text.document import Document
from jslm.text.readers.containers import seekable
from jslm.text.readers.problems import OnBad, need
from jslm.text.readers.text import decode, split_lines

_SKIPPED = re.compile(r"[ \t\n\r,]*")
_PARQUET_ROWS = 256
_PARQUET_BUFFER = 1 << 20
# The reader of CSV refuses fields of more than 128 KB otherwise; books are longer. It is a long in C.
_MAX_FIELD = min(sys.maxsize, 2**31 - 1)


class NoColumn(JslmError):
    """A record without a column that is wanted; `found` are those that it has."""

    def __init__(self, message: str, found: Sequence[str]) -> None:
        super().__init__(message)
        self.found = tuple(found)


class Columns:
    """Which columns make the text and the labels of a record. Raises JslmError for a malformed `data.template`."""

    def __init__(self, config: DataConfig) -> None:
        self._template = config.template
        self._conditions = config.conditions
        self._rejected = config.rejected
        self._prompt_end = config.prompt_end
        self._messages = config.messages
        self.names = [config.messages or config.text_field]
        if config.template:
            try:
                parts = list(string.Formatter().parse(config.template))
            except ValueError as error:
                raise JslmError(
                    f"data.template = {config.template!r}: {error}; write {{column}}, and {{{{ for a brace"
                ) from None
            self._parts = template_parts(config.template)
            self._border = border(config.template, config.prompt_end)
            self.names = list(dict.fromkeys(name for _, name in self._parts if name is not None))
            if not all(self.names) or any(spec or conversion for _, _, spec, conversion in parts):
                raise JslmError(f"data.template = {config.template!r}: write {{column}} with nothing but a name in it")
            if config.rejected:
                self._around_answer = self._answer_literals(config)
        self.names = list(dict.fromkeys([*self.names, *config.conditions, *filter(None, [config.rejected])]))

    def document(self, record: Any, name: str, where: str) -> Document:
        """The record of file `name` as a document; raises JslmError naming `where` for what is missing or no text."""
        if not isinstance(record, Mapping):
            raise JslmError(
                f"{where}: expected a JSON object with the key {self.names[0]!r}, found {type(record).__name__}"
            )
        for column in self.names:
            if column not in record:
                raise self.missing(column, list(record), where)
        if self._messages:
            try:
                text = conversation_text(record[self._messages])
            except JslmError as error:
                raise JslmError(f"{where}: key {self._messages!r}: {error}") from None
        elif not self._template:
            text = record[self.names[0]]
            if not isinstance(text, str):
                raise JslmError(f"{where}: key {self.names[0]!r} holds {type(text).__name__}; expected a string")
            text = as_read(text)
        else:
            pieces = [
                literal + (_part(record[column], column, where) if column is not None else "")
                for literal, column in self._parts
            ]
            text = "".join(pieces)
            if self._border is not None:
                self._check_prompt(text, sum(map(len, pieces[: self._border[0]])) + self._border[1], where)
        labels = tuple(_part(record[condition], condition, where) for condition in self._conditions)
        rejected = _part(record[self._rejected], self._rejected, where) if self._rejected else None
        if rejected and self._template:
            before, after = self._around_answer
            rejected = before + rejected + after
        rejected = rejected and _checked(rejected, where)
        return Document(_checked(text, where), name, labels=labels, rejected=rejected, where=where)

    def _answer_literals(self, config: DataConfig) -> tuple[str, str]:
        """What the template has before and after the answer, of which `data.rejected` is another."""
        if self._border is not None:
            part, end = self._border
            after = self._parts[part:]
            if [name for _, name in after[1:]] in ([], [None]) and after[0][1] is not None:
                return after[0][0][end:], "".join(literal for literal, _ in after[1:])
        raise JslmError(
            f"data.template = {config.template!r}: expected data.prompt_end = {config.prompt_end!r} and after it one "
            "column, the chosen answer, whose place that of data.rejected takes"
        )

    def _check_prompt(self, text: str, end: int, where: str) -> None:
        """That the prompt ends where the template says; else part of it would be learned."""
        if text.find(self._prompt_end) + len(self._prompt_end) != end:
            raise JslmError(
                f"{where}: data.prompt_end = {self._prompt_end!r} stands in the prompt itself, which would end there; "
                "choose one that no prompt has, or drop the record"
            )

    def missing(self, name: str, found: list[Any], where: str) -> NoColumn:
        """The error for an absent column."""
        keys = ", ".join(map(repr, found[:10])) or "none"
        remedy = "mend data.template" if self._template else "set data.text_field to the one with the text"
        if name in self._conditions:
            remedy = "mend data.conditions"
        elif name == self._messages:
            remedy = "set data.messages to the one with the messages"
        elif name == self._rejected:
            remedy = "mend data.rejected"
        return NoColumn(f"{where}: no key {name!r}; keys found: {keys}; {remedy}", [str(each) for each in found])


def read_jsonl(stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad) -> Iterator[Document]:
    """A text a line; blank lines are passed over."""
    columns = Columns(config)
    for number, line in enumerate(split_lines(decode(stream, name, config.encoding)), start=1):
        if line.isspace():
            continue
        where = f"{name}:{number}"
        try:
            yield columns.document(_loads(line, where), name, where)
        except JslmError as error:
            on_bad(error)


def _loads(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise JslmError(
            f"{where}: not valid JSON: {error.msg} at column {error.colno}; expected one JSON object a line"
        ) from None
    except RecursionError:
        raise JslmError(f"{where}: JSON nested too deep; expected one JSON object a line") from None


def read_json(stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad) -> Iterator[Document]:
    """The objects of an array, or a single object, or objects one after the other. Memory: the largest object."""
    columns = Columns(config)
    for number, (line, value) in enumerate(_values(decode(stream, name, config.encoding), name), start=1):
        where = f"{name}:{line} (record {number})"
        try:
            yield columns.document(value, name, where)
        except JslmError as error:
            on_bad(error)


def _values(blocks: Iterator[str], name: str) -> Iterator[tuple[int, Any]]:
    """Line and value of each element of a top-level array, or of each top-level value where there is none."""
    decoder = json.JSONDecoder()
    buffer, line, in_array, wanted = "", 1, False, 0
    for block in (block for part in (blocks, ("",)) for block in part):
        buffer += block
        # A value that goes on over many blocks is tried again when twice as much is there.
        if block and len(buffer) < wanted:
            continue
        position = 0
        while True:
            start = _SKIPPED.match(buffer, position).end()  # type: ignore[union-attr]
            line += buffer.count("\n", position, start)
            position = start
            bracket = buffer[position : position + 1]
            if bracket == ("]" if in_array else "["):
                in_array = not in_array
                position += 1
                continue
            try:
                value, end = decoder.raw_decode(buffer, position)
            except json.JSONDecodeError as error:
                # The complaint may be about the end of what is here so far, or of a string that has none yet.
                if error.pos < len(buffer) - 16 and not error.msg.startswith("Unterminated string"):
                    at = line + buffer.count("\n", position, error.pos)
                    raise JslmError(f"{name}:{at}: not valid JSON: {error.msg}; expected an array of objects") from None
                break
            except RecursionError:
                raise JslmError(f"{name}:{line}: JSON nested too deep; expected an array of objects") from None
            if end == len(buffer) and block and not isinstance(value, (dict, list, str)):
                # 12 may be the beginning of 123.
                break
            yield line, value
            line += buffer.count("\n", position, end)
            position = end
        buffer = buffer[position:]
        wanted = 2 * len(buffer)
    if buffer or in_array:
        raise JslmError(f"{name}:{line}: not valid JSON: it ends in the middle; expected an array of objects")


def read_csv(
    stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad, delimiter: str = ","
) -> Iterator[Document]:
    """A text a row; the first row names the columns. Quotes as in RFC 4180."""
    columns = Columns(config)
    csv.field_size_limit(_MAX_FIELD)
    rows = csv.reader(split_lines(decode(stream, name, config.encoding)), delimiter=delimiter, strict=True)
    header: list[str] | None = None
    while True:
        # A field in quotes may hold line breaks: a row is named after its first line.
        where = f"{name}:{rows.line_num + 1}"
        try:
            row = next(rows, None)
        except csv.Error as error:
            # Where the quotes are wrong, nobody knows where the next row begins.
            on_bad(JslmError(f"{name}:{rows.line_num}: not valid CSV: {error}; the rest of the file can't be read"))
            return
        if row is None:
            return
        if header is None:
            header = row
            if absent := [column for column in columns.names if column not in header]:
                on_bad(columns.missing(absent[0], header, where))
                return
        elif row:
            if len(row) != len(header):
                on_bad(JslmError(f"{where}: {len(row)} fields found, {len(header)} expected by the header line"))
                continue
            try:
                yield columns.document(dict(zip(header, row, strict=True)), name, where)
            except JslmError as error:
                on_bad(error)


def read_parquet(stream: BinaryIO, name: str, config: DataConfig, on_bad: OnBad) -> Iterator[Document]:
    """A text a row; only the columns that are needed are read, a megabyte of rows at a time."""
    pyarrow = need("pyarrow", f"{name}: reading Parquet")
    parquet = need("pyarrow.parquet", f"{name}: reading Parquet")
    columns = Columns(config)
    try:
        with seekable(stream) as file:
            # As it comes, whole column chunks (often 100 MB and more) are read at once.
            table = parquet.ParquetFile(file, buffer_size=_PARQUET_BUFFER, pre_buffer=False)
            for column in columns.names:
                if column not in table.schema_arrow.names:
                    on_bad(columns.missing(column, table.schema_arrow.names, name))
                    return
                if (count := table.schema_arrow.names.count(column)) > 1:
                    raise JslmError(f"{name}: {count} columns are called {column!r}; expected one: rename the others")
            number = 0
            rows = _rows_at_a_time(table.metadata)
            # Each thread would hold memory of its own, for a column each: mostly there is one.
            for batch in table.iter_batches(rows, columns=columns.names, use_threads=False):
                for record in batch.to_pylist():
                    number += 1
                    where = f"{name} (row {number})"
                    try:
                        yield columns.document(record, name, where)
                    except JslmError as error:
                        on_bad(error)
    except (pyarrow.ArrowException, UnicodeDecodeError, OSError) as error:
        # Some of what it finds wrong pyarrow says as an error of the system's kind, without the system's number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise JslmError(f"{name}: not a Parquet file that can be read: {' '.join(str(error).split())[:200]}") from None


def _rows_at_a_time(metadata: Any) -> int:
    """As many rows of a Parquet file as a buffer holds, by what its largest group says of itself."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    longest = max((group.total_byte_size / max(group.num_rows, 1) for group in groups), default=1.0)
    return max(1, min(_PARQUET_ROWS, int(_PARQUET_BUFFER / max(longest, 1.0))))


def _part(value: Any, name: str, where: str) -> str:
    if value is None:
        return ""
    if isinstance(value, (str, int, float)):
        return as_read(str(value))
    raise JslmError(f"{where}: key {name!r} holds {type(value).__name__}; a template takes text and numbers")


def _checked(text: str, where: str) -> str:
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise JslmError(
                f"{where}: character {error.start} of the text is half of a surrogate pair "
                f"(\\u{ord(text[error.start]):04x}), which is no text; remove it"
            ) from None
    return text
