"""Prepared files against the config that asks for them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jslm.config import Config, DataConfig
from jslm.errors import JslmError
from jslm.prepare.freshness import INPUTS_NAME, difference, newer_than, read_inputs, recorded_files
from jslm.prompts.chat import template_source
from jslm.text.documents import InputFile, resolve_sources, size_of
from jslm.tokenizer import Tokenizer, load_tokenizer
from jslm.tokens.token_file import META_NAME, read_meta

_log = logging.getLogger("jslm")

TOKENIZER_NAME = "tokenizer.json"
# Where the text is and how the loader cuts the tokens: the files are the same.
_TEMPLATE = "data.chat_template"
_GONE = " (not there)"
_NOT_IN_FILES = {"dir", "source", "about", "licence", "packing", "stride", "mixture", "max_emptied"}
# Whether there are files at all.
_LIMITS = {"data.filters.max_dropped"}


@dataclass(frozen=True)
class PreparedData:
    """A folder of token files, its tokenizer, and what `meta.json` says about them."""

    dir: Path
    tokenizer: Tokenizer
    meta: dict[str, Any]


def open_prepared(config: Config, folder: Path, *, rehash: bool = False) -> PreparedData:
    """What is in `folder`; raises JslmError as `ensure_prepared` does.

    `rehash`: sources are compared by their content, and have to be there.
    """
    meta = read_meta(folder)
    path = folder / TOKENIZER_NAME
    if not path.exists():
        raise JslmError(f"{path}: not found, though {META_NAME} is there; {_remedy(folder)}")
    tokenizer = load_tokenizer(path)
    expected = meta["tokenizer"]["fingerprint"]
    if tokenizer.fingerprint != expected:
        raise JslmError(
            f"{path}: fingerprint {tokenizer.fingerprint} found, {expected} expected by {META_NAME}; {_remedy(folder)}"
        )
    _check_settings(config, folder, meta)
    if config.data.sources:
        _check_inputs(config, folder, meta, rehash)
    return PreparedData(folder, tokenizer, meta)


def _check_settings(config: Config, folder: Path, meta: dict[str, Any]) -> None:
    wanted = settings_of(config)
    # A setting that is newer than the files had its default then.
    made_with = {**settings_of(Config()), **meta.get("settings", {})}
    has_source = bool(config.data.sources)
    tokenizer_path = config.tokenizer.path
    compares_tokenizer_file = bool(tokenizer_path) and Path(tokenizer_path).exists()
    # Only what is a setting today: files may know of others from earlier days, which decide nothing any more.
    for key in sorted(wanted):
        if key.startswith("data.") and not has_source:
            continue
        if key.startswith("tokenizer.") and compares_tokenizer_file:
            continue
        if key == _TEMPLATE and _digest(wanted[key]) == _digest(made_with.get(key)):
            # The same template under another name, such as a run's copy of it.
            continue
        if key == _TEMPLATE and wanted[key].endswith(_GONE) and made_with[key].startswith(config.data.chat_template):
            continue
        if wanted.get(key) != made_with.get(key):
            raise JslmError(
                f"{folder / META_NAME}: made with {key} = {made_with.get(key)!r}, but the config has "
                f"{wanted.get(key)!r}; {_remedy(folder)}"
            )
    if compares_tokenizer_file:
        found = load_tokenizer(tokenizer_path).fingerprint
        if found != meta["tokenizer"]["fingerprint"]:
            raise JslmError(
                f"{folder / META_NAME}: made with tokenizer {meta['tokenizer']['fingerprint']}, but tokenizer.path = "
                f"{tokenizer_path!r} is {found}; {_remedy(folder)}"
            )


def _check_inputs(config: Config, folder: Path, meta: dict[str, Any], rehash: bool) -> None:
    """Files edited since then mean stale tokens; files that are gone can't be read anyway, nor what came by a pipe."""
    if "-" in config.data.sources:
        if rehash:
            raise JslmError("data.source = '-': what came by a pipe is not there any more; it can't be compared")
        return
    try:
        entries = resolve_sources(config.data)
    except JslmError:
        if rehash:
            raise
        return
    files = [entry for entry in entries if isinstance(entry, InputFile)]
    found = size_of(entries)
    expected = meta.get("input_files"), meta.get("input_bytes")
    changed = difference(folder, files, rehash=rehash)
    if changed and found == expected:
        raise JslmError(f"{folder / META_NAME}: {changed} since these files were made; {_remedy(folder)}")
    if found != expected or changed:
        raise JslmError(
            f"{folder / META_NAME}: made from {expected[0]} file(s) of {expected[1]:,} bytes, but data.source now has "
            f"{found[0]} of {found[1]:,}{f': {changed}' if changed else ''}; {_remedy(folder)}"
        )
    if read_inputs(folder) is not None:
        return
    if rehash:
        raise JslmError(
            f"{folder / INPUTS_NAME}: not there, as in data that earlier versions of jslm prepared: what the "
            f"sources were like is not known; {_remedy(folder)}"
        )
    if name := newer_than(folder, files):
        _log.warning(
            "%s: made before %s was changed, by a version of jslm that did not note what it read; if its text is "
            "another, %s",
            folder,
            name,
            _remedy(folder),
        )


def stale_corpus(folder: Path) -> str:
    """Which source of a corpus that other settings prepared was changed since; empty where none was, or it is gone."""
    files = recorded_files(folder)
    return difference(folder, files) if files else ""


def _remedy(folder: Path) -> str:
    again = "prepare again (jslm prepare --config CONFIG --force)"
    return f"{again}, or set data.dir to another folder than {folder}"


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide what is in the files, by their full key."""
    settings = _data_settings(config.data)
    settings["data.source"] = list(config.data.sources)
    if config.data.messages:
        settings[_TEMPLATE] = _template_identity(config.data.chat_template)
    tokenizer = config.tokenizer
    settings["tokenizer.path"] = tokenizer.path
    if not tokenizer.path:
        settings["tokenizer.kind"] = tokenizer.kind
        settings["tokenizer.special_tokens"] = list(tokenizer.special_tokens)
        if tokenizer.kind == "bpe":
            for key in ("vocab_size", "train_share", "train_megabytes", "train_seed"):
                settings[f"tokenizer.{key}"] = getattr(tokenizer, key)
    return settings


def _template_identity(name: str) -> str:
    """The name, and a digest of what it stands for: a template can be edited, and is needed no more once it is used."""
    if name.endswith(".jinja") and not Path(name).exists():
        return name + _GONE
    return f"{name} ({hashlib.sha256(template_source(name).encode()).hexdigest()[:12]})"


def _digest(identity: Any) -> str:
    return str(identity).rpartition(" (")[2]


def _data_settings(data: DataConfig) -> dict[str, Any]:
    values = data.model_dump(mode="json", exclude=_NOT_IN_FILES)
    settings: dict[str, Any] = {}
    for key, value in values.items():
        inner = {f".{name}": item for name, item in value.items()} if isinstance(value, dict) else {"": value}
        settings |= {f"data.{key}{name}": item for name, item in inner.items()}
    return {key: value for key, value in settings.items() if key not in _LIMITS}
