"""The schema as a Markdown reference: `docs/config.md`."""

from __future__ import annotations

import inspect
import json
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jslm.config.load import is_section, sections

HEADER = """\
# Configuration

<!-- Generated from jslm/config/ by `make docs`; edit the descriptions there, not here. -->

A run is one TOML file. Every key has the default below; a file holds only what differs, and the command line can
override any key: `jslm train --config configs/quickstart.toml train.steps=500`.
An unknown key or a value of the wrong type is an error.
"""
TYPE_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "under"}


def render_reference() -> str:
    """The whole reference: one table a section, in the schema's order."""
    return "\n".join([HEADER, *(_render_section(path, section) for path, section in sections())])


def _render_section(path: str, section: type[BaseModel]) -> str:
    title = f"`[{path}]`" if path else "Top level"
    summary = " ".join((inspect.getdoc(section) or "").split())
    fields = {name: field for name, field in section.model_fields.items() if not is_section(field.annotation)}
    rows = [_render_row(name, field) for name, field in fields.items()]
    table = ["| Key | Type | Default | Meaning |", "| --- | --- | --- | --- |", *rows]
    return "\n".join([f"## {title}", "", summary, "", *table, ""])


def _render_row(name: str, field: FieldInfo) -> str:
    default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
    cells = (f"`{name}`", _describe_type(field), f"`{default}`", field.description or "")
    # GitHub splits a table's cells at a bar even inside a code span.
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _describe_type(field: FieldInfo) -> str:
    return _type_name(field.annotation) + _bounds(field.metadata)


def _bounds(metadata: list[Any]) -> str:
    bounds = [
        f"{word} {getattr(constraint, name):g}"
        for constraint in metadata
        for name, word in BOUNDS.items()
        if hasattr(constraint, name)
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _type_name(kind: Any) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin is Annotated:
        # A member of a union keeps its own bounds, inside of pydantic's field.
        inside = [constraint for extra in arguments[1:] for constraint in getattr(extra, "metadata", [extra])]
        return _type_name(arguments[0]) + _bounds(inside)
    if origin in (types.UnionType, Union):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin in (list, tuple) and is_section(arguments[0]):
        return f"list of tables {{{', '.join(arguments[0].model_fields)}}}"
    if origin in (list, tuple):
        return f"list of {_type_name(arguments[0])}s"
    return TYPE_NAMES[kind]
