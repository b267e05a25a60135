"""TOML file + overrides -> Config, and back."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from jslm.config.schema import Config
from jslm.errors import JslmError


def load_config(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Reads a TOML file, applies `section.key=value` overrides, and validates.

    Raises JslmError naming the file and the key: unreadable file, bad TOML, unknown key (with the nearest known one),
    wrong type, impossible combination.
    """
    path = Path(path)
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise JslmError(f"{path}: no such config file{_nearby(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise JslmError(f"{path}: cannot be read as a config file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise JslmError(f"{path}: not valid TOML: {error}") from None
    # The file is checked alone first, so that an error names the file or the command line, whichever is at fault.
    config_from_dict(values, str(path), partial=True)
    return config_from_dict(_merge(values, parse_overrides(overrides)), f"{path} with overrides" if overrides else str(path))


def config_from_dict(values: Mapping[str, Any], origin: str, *, partial: bool = False) -> Config:
    """Validates a nested dict as a Config; `origin` names it in errors.

    With `partial`, only the keys and types are judged: cross-field rules may still be met by overrides.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        if partial:
            problems = [p for p in problems if p["type"] != "value_error"]
            if not problems:
                return Config()
        raise JslmError(_describe(problems[0], origin)) from None


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """A config with `section.key=value` overrides applied; raises JslmError as `load_config` does."""
    overrides = list(overrides)
    if not overrides:
        return config
    return config_from_dict(_merge(config.model_dump(), parse_overrides(overrides)), "command line")


def parse_overrides(overrides: Iterable[str]) -> dict[str, Any]:
    """`["train.steps=500"]` -> `{"train": {"steps": 500}}`. Values are TOML; anything that is not is a plain string."""
    result: dict[str, Any] = {}
    for item in overrides:
        key, separator, text = item.partition("=")
        key = key.strip()
        if not separator or not key:
            raise JslmError(f"command line: {item!r} is not an override; write section.key=value")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        section = result
        *parents, leaf = key.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise JslmError(f"command line: {key} is given both as a value and as a section")
        section[leaf] = value
    if result:
        config_from_dict(result, "command line", partial=True)
    return result


def config_to_toml(config: BaseModel) -> str:
    """The whole resolved config as TOML; `load_config` reads back an equal one."""
    return "\n".join(_toml_lines(config.model_dump(), ())) + "\n"


def _toml_lines(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    # JSON strings, numbers, booleans and lists of them are TOML too, save for U+007F, which TOML wants escaped.
    lines = [
        f"{key} = {json.dumps(value, ensure_ascii=False).replace(chr(127), chr(92) + 'u007f')}"
        for key, value in values.items()
        if not isinstance(value, dict)
    ]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", f"[{'.'.join((*path, key))}]", *_toml_lines(value, (*path, key))]
    return lines


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _describe(problem: Mapping[str, Any], origin: str) -> str:
    """One pydantic problem as one line: where, what was found, what was expected."""
    path = tuple(str(part) for part in problem["loc"])
    key = ".".join(part for part in path if part not in ("str", "list[str]"))
    found = problem.get("input")
    if problem["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(key, known_keys(), n=1, cutoff=0.0)
        return f"{origin}: {key} is not a known key; did you mean {nearest[0]}?"
    if problem["type"] == "value_error":
        return f"{origin}: {problem['ctx']['error']}"
    message = problem["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    shown = json.dumps(found, default=str, ensure_ascii=False)
    return f"{origin}: {key} = {shown if len(shown) < 80 else shown[:77] + '...'}; expected {message}"


def known_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Every key of the schema, dotted: `["run_dir", "seed", "data", "data.source", ...]`."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            keys += known_keys(kind, f"{prefix}{name}.")
    return keys


def _nearby(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [p.name for p in path.parent.glob("*.toml")]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""
