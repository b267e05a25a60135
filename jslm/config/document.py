"""The schema as a page that a person can read: `docs/config.md`."""

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

A run is one TOML file. Every key has the default shown; a file holds only what differs, and the command line can
override any key: `jslm train --config configs/quickstart.toml train.steps=500`. An unknown key or a value of the wrong
type is an error. `jslm train FILE` writes a whole config for your text, to begin from.

The keys that most configs say come first in each section; the others are folded below them.
"""
# What most configs say, in the order in which a person meets it; a section that is not here has all its keys in sight.
COMMON = {
    "data": ("source", "dir", "cleaners", "separator", "text_field", "split", "validation_fraction", "packing"),
    "tokenizer": ("kind", "vocab_size", "path"),
    "model": (
        *("n_layers", "d_model", "n_heads", "n_kv_heads", "context_length", "activation", "norm", "position"),
        *("tie_embeddings", "qk_norm", "dropout", "dtype"),
    ),
    "optimizer": (
        *("name", "learning_rate", "schedule", "warmup_steps", "warmup_share", "min_learning_rate_ratio"),
        "weight_decay",
    ),
    "train": (
        *("objective", "minutes", "steps", "epochs", "batch_size", "micro_batch", "eval_every", "early_stopping"),
        *("ema_decay", "init_from"),
    ),
    "sample": ("prompts", "max_new_tokens", "temperature", "top_k", "top_p"),
}
TYPE_NAMES = {str: "string", int: "integer", float: "number", bool: "boolean"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "under"}


def render_reference() -> str:
    """The whole reference: a list of the sections, then each with a line a key, in the schema's order."""
    contents = [f"- [{_title(path)}](#{_anchor(path)}): {_summary(section)}" for path, section in sections()]
    return "\n".join([HEADER, *contents, "", *(_render_section(path, section) for path, section in sections())])


def _title(path: str) -> str:
    return f"`[{path}]`" if path else "Top level"


def _anchor(path: str) -> str:
    """As GitHub makes it of a heading: small letters and hyphens, without punctuation."""
    return path.replace(".", "") if path else "top-level"


def _summary(section: type[BaseModel]) -> str:
    return " ".join((inspect.getdoc(section) or "").split())


def _render_section(path: str, section: type[BaseModel]) -> str:
    fields = {name: field for name, field in section.model_fields.items() if not is_section(field.annotation)}
    common = COMMON.get(path, tuple(fields))
    first = [_render_line(name, fields[name]) for name in common]
    rest = [_render_line(name, field) for name, field in fields.items() if name not in common]
    folded = ["", f"<details><summary>{len(rest)} more</summary>", "", *rest, "", "</details>"] if rest else []
    return "\n".join([f"## {_title(path)}", "", _summary(section), "", *first, *folded, ""])


def _render_line(name: str, field: FieldInfo) -> str:
    default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
    return f"- `{name} = {default}` {field.description or ''} *({_describe_type(field)})*"


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
