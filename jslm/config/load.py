"""TOML file + overrides -> Config, and back."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard, get_args

from pydantic import BaseModel, ValidationError

from jslm.config.model_schema import STARTS
from jslm.config.presets import find_config, preset_files
from jslm.config.schema import Config
from jslm.errors import JslmError

_ITEM = re.compile(r"\[\d+\]")


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a TOML file, applies `section.key=value` overrides, and validates.

    Where `path` is no file, it may name a preset that comes with jslm, as `quickstart`, or a recipe, as `data/books`.
    Raises JslmError naming the file and the key: unreadable file, bad TOML, unknown key (with the nearest known one),
    wrong type, impossible combination.
    """
    path, overrides = find_config(path), list(overrides)
    try:
        # utf-8-sig: some editors on Windows begin a file with a byte-order mark, which TOML does not allow.
        values = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        raise JslmError(f"{path}: no such config file{_nearby(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JslmError(f"{path}: cannot be read as a config file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JslmError(f"{path}: not valid TOML: {error}") from None
    # The file is checked alone first, so that an error names the file or the command line, whichever is at fault.
    config_from_dict(values, str(path), partial=True)
    origin = f"{path} with overrides" if overrides else str(path)
    return config_from_dict(merge_values(values, parse_overrides(overrides)), origin)


def config_from_dict(values: Mapping[str, Any], origin: str, *, partial: bool = False) -> Config:
    """Validates a nested dict as a Config; `origin` names it in errors.

    With `partial`, only the keys and types are judged: cross-field rules may still be met by overrides.
    """
    try:
        return Config.model_validate(values, context={STARTS: _starts_from_a_model(values)})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if partial:
            problems = [p for p in problems if p["type"] != "value_error"]
            if not problems:
                return Config()
        raise JslmError(_describe(problems[0], origin)) from None


def _starts_from_a_model(values: Mapping[str, Any]) -> bool:
    train = values.get("train")
    return isinstance(train, Mapping) and bool(train.get("init_from"))


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """A config with `section.key=value` overrides applied; raises JslmError as `load_config` does."""
    overrides = list(overrides)
    if not overrides:
        return config
    # What was never said stays so: a run that starts from a model takes it from there.
    said = config.model_dump(exclude_unset=True)
    return config_from_dict(merge_values(said, parse_overrides(overrides)), "command line")


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["train.steps=500"]` -> `{"train": {"steps": 500}}`.

    Values are TOML; anything that is not, and anything given for a key that holds text, is a plain string. A key given
    twice takes the last value. Raises JslmError for an item without `=`, an unknown key, or a value of the wrong type.
    """
    result: dict[str, Any] = {}
    for item in overrides:
        key, separator, text = item.partition("=")
        key = key.strip()
        if not separator or not key:
            raise JslmError(f"command line: {item!r} is not an override; write section.key=value")
        try:
            item.encode("utf-8")
        except UnicodeEncodeError:
            # argv that is not UTF-8 arrives as lone surrogates, which no file could hold later.
            raise JslmError(f"command line: {item!r} is not UTF-8 text; check the terminal's encoding") from None
        nested: Any = _parse_value(key, text)
        for part in reversed(key.split(".")):
            nested = {part: nested}
        # Each alone first: merged, a section given as a plain value could hide behind its own keys.
        config_from_dict(nested, "command line", partial=True)
        result = merge_values(result, nested)
    return result


def _parse_value(key: str, text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    # A line break inside the text could begin keys of its own, which would be lost without a word.
    if parsed.keys() != {"value"}:
        return text
    value = parsed["value"]
    kind = _leaf_types().get(key)
    # run_dir=2024 and train.init_checkpoint=500 are names, not numbers.
    if (kind is str and not isinstance(value, str)) or (kind == str | list[str] and not isinstance(value, str | list)):
        return text
    return value


def config_to_toml(config: BaseModel) -> str:
    """The whole resolved config as TOML; `load_config` reads back an equal one."""
    return values_to_toml(config.model_dump())


def said_to_toml(config: Config) -> str:
    """The config as TOML, less what it leaves to the model of `train.init_from`: that would be said otherwise."""
    if not config.train.init_from:
        return config_to_toml(config)
    values = config.model_dump()
    values |= {name: getattr(config, name).model_dump(exclude_unset=True) for name in ("model", "tokenizer")}
    if "chat_template" not in config.data.model_fields_set:
        del values["data"]["chat_template"]
    taken = (
        f"# What [model], [tokenizer] and data.chat_template leave out is that of {json.dumps(config.train.init_from)}"
    )
    return f"{taken}\n{values_to_toml(values)}"


def values_to_toml(values: Mapping[str, Any]) -> str:
    """A nested dict as TOML: plain keys first, then a table a section."""
    return "\n".join(_toml_lines(values, ())) + "\n"


def sections(section: type[BaseModel] = Config, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """(dotted path, model) of every section, outermost first; the path of the top level is empty."""
    yield path, section
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            yield from sections(field.annotation, f"{path}.{name}".removeprefix("."))


def is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    """Whether a field's type is a section with keys of its own."""
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _toml_lines(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, dict)]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{'.'.join((*path, key))}]", *_toml_lines(value, (*path, key))]
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {_toml_value(item)}' for key, item in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml_value, value))}]"
    # JSON strings, numbers and booleans are TOML too, save for U+007F, which TOML wants escaped.
    return json.dumps(value, ensure_ascii=False).replace(chr(127), "\\u007f")


def merge_values(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, section by section."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = merge_values(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _describe(problem: Mapping[str, Any], origin: str) -> str:
    """One pydantic problem as one line: where, what was found, what was expected."""
    path = problem["loc"]
    if problem["type"] == "value_error":
        return f"{origin}: {problem['ctx']['error']}"
    if problem["type"] == "extra_forbidden":
        key = _dotted(path)
        return f"{origin}: {_printable(key)} is not a known key; did you mean {_nearest_key(key)}?"
    # In a union pydantic adds the member's name to the path; its message then tells only that member's side.
    members = {"str", "list[str]"} & {part for part in path if isinstance(part, str)}
    key = _dotted([part for part in path if part not in members])
    if problem["type"] == "missing":
        return f"{origin}: {key} is missing; give it a value"
    if members:
        expected = "a string or a list of strings"
    elif problem["type"] == "model_type":
        known = next(leaf for leaf in _leaf_types() if leaf.startswith(f"{_ITEM.sub('', key)}."))
        expected = f"a table of keys, such as {key}.{known.rpartition('.')[2]}"
    else:
        expected = problem["msg"].removeprefix("Input should be ")
    shown = json.dumps(problem["input"], default=str)
    return f"{origin}: {key} = {shown if len(shown) < 80 else shown[:77] + '...'}; expected {expected}"


def _dotted(path: Iterable[str | int]) -> str:
    """`("data", "mixture", 0, "dir")` -> `data.mixture[0].dir`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _nearest_key(key: str) -> str:
    """The known key most like `key`: a misspelt name in the right section before a right name in another."""
    key = _ITEM.sub("", key)
    leaves = list(_leaf_types())
    section, _, name = key.rpartition(".")
    siblings = [known.rpartition(".")[2] for known in leaves if section and known.rpartition(".")[0] == section]
    if close := difflib.get_close_matches(name, siblings, n=1, cutoff=0.7):
        return f"{section}.{close[0]}"
    if same_name := [known for known in leaves if known.rpartition(".")[2] == name]:
        return same_name[0]
    known_keys = leaves if section else [*leaves, *(path for path, _ in sections() if path)]
    return difflib.get_close_matches(key, known_keys, n=1, cutoff=0.0)[0]


def _printable(text: str) -> str:
    # A quoted TOML key may hold anything, a line break too; an error is one line.
    return text if text.isprintable() else json.dumps(text)


def _leaf_types() -> dict[str, Any]:
    """Dotted key -> type, for every key that holds a value, those of listed tables too."""
    leaves = {
        f"{path}.{name}".removeprefix("."): field.annotation
        for path, section in sections()
        for name, field in section.model_fields.items()
        if not is_section(field.annotation)
    }
    items = {key: item for key, kind in leaves.items() for item in get_args(kind) if is_section(item)}
    return leaves | {
        f"{key}.{name}": field.annotation for key, item in items.items() for name, field in item.model_fields.items()
    }


def _nearby(path: Path) -> str:
    presets = preset_files()
    for name, file in presets.items():
        # configs/quickstart.toml, as the documentation has it, away from the repository.
        if path.parts[-2:] == file.parts[-2:]:
            return f"; that of jslm goes by the name {name}"
    if not path.suffix:
        close = difflib.get_close_matches(str(path), presets, n=1)
        advice = f"did you mean {close[0]}?" if close else "jslm configs lists them"
        return f", nor a preset of jslm; {advice}"
    names = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
