"""A tokenizer from a config and a corpus, or from a saved file."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from jslm.config.schema import TokenizerConfig
from jslm.errors import JslmError
from jslm.tokenizer.base import END_OF_TEXT, FILE_FORMAT, FILE_VERSION, Tokenizer, special_token_ids

# The kinds of saved tokenizers; a config can ask for the first four, and the others come with imported models.
_CLASSES = {
    "char": ("jslm.tokenizer.char", "CharTokenizer"),
    "byte": ("jslm.tokenizer.byte", "ByteTokenizer"),
    "bpe": ("jslm.tokenizer.bpe", "BpeTokenizer"),
    "gpt2": ("jslm.tokenizer.gpt2", "Gpt2Tokenizer"),
    "hf": ("jslm.tokenizer.hf", "HuggingFaceTokenizer"),
    "sentencepiece": ("jslm.tokenizer.sentencepiece", "SentencePieceTokenizer"),
}
KINDS = tuple(_CLASSES)


def build_tokenizer(config: TokenizerConfig, texts: Callable[[], Iterable[str]]) -> Tokenizer:
    """The tokenizer that `config` asks for; `texts` is called only where it is learnt from the corpus.

    Raises JslmError where the corpus is empty, the vocabulary too small, a special token bad or missing from
    `config.path`, or a file or download fails.
    """
    if config.path:
        return _load_with_special_tokens(config)
    kind = _class_of(config.kind)
    match config.kind:
        case "char":
            return kind.train(texts(), config.special_tokens)
        case "bpe":
            return kind.train(texts(), config.vocab_size, config.special_tokens)
        case _:
            return kind(config.special_tokens)


def check_tokenizer(config: TokenizerConfig) -> None:
    """Raises JslmError for what `build_tokenizer` would refuse whatever the corpus is."""
    if config.path or config.kind in ("byte", "gpt2"):
        build_tokenizer(config, tuple)
        return
    count = len(special_token_ids([END_OF_TEXT], config.special_tokens, first_id=0))
    if config.kind == "bpe":
        importlib.import_module("jslm.tokenizer.bpe").check_vocab_size(config.vocab_size, count)


def load_tokenizer(path: str | PathLike[str]) -> Tokenizer:
    """Opens a `tokenizer.json` that `Tokenizer.save` wrote.

    Raises JslmError where it is missing, cut short, edited, of another program, or of a newer version.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise JslmError(f"{path}: not UTF-8 text; expected a tokenizer file written by jslm") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise JslmError(f"{path}: {reason}; expected a tokenizer file written by jslm") from error
    return tokenizer_from_json(text, where=str(path))


def tokenizer_from_json(text: str, where: str = "tokenizer") -> Tokenizer:
    """The tokenizer of `Tokenizer.to_json`; `where` names its file in errors. Raises JslmError where it is bad."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise JslmError(f"{where}: not JSON, or cut short ({error}); expected a tokenizer written by jslm") from error
    _check_header(fields, where)
    try:
        tokenizer = _class_of(fields["kind"]).from_fields(fields)
        saved = fields["fingerprint"]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise JslmError(f"{where}: damaged ({reason}); take it from the run or prepare it anew") from error
    except JslmError as error:
        raise JslmError(f"{where}: {error}") from error
    if saved != tokenizer.fingerprint:
        raise JslmError(
            f"{where}: the file says fingerprint {saved!r}, its contents give {tokenizer.fingerprint!r}; "
            "it was edited or damaged: take it from the run or prepare it anew"
        )
    return tokenizer


def _load_with_special_tokens(config: TokenizerConfig) -> Tokenizer:
    tokenizer = load_tokenizer(config.path)
    if missing := [name for name in config.special_tokens if name not in tokenizer.special_tokens]:
        raise JslmError(
            f"tokenizer.special_tokens: {missing[0]!r} is not in tokenizer.path = {config.path!r}, which has "
            f"{', '.join(tokenizer.special_tokens)}; remove it, or build a new tokenizer with it"
        )
    return tokenizer


def _check_header(fields: Any, where: str) -> None:
    if not isinstance(fields, Mapping) or fields.get("format") != FILE_FORMAT:
        hint = "a Hugging Face tokenizer" if isinstance(fields, Mapping) and "model" in fields else "another JSON file"
        raise JslmError(f"{where}: {hint}; expected a tokenizer written by jslm ('format': '{FILE_FORMAT}')")
    version = fields.get("version")
    if version != FILE_VERSION:
        raise JslmError(f"{where}: version {version!r} of the format; this jslm reads {FILE_VERSION}: update jslm")
    if fields.get("kind") not in KINDS:
        raise JslmError(f"{where}: tokenizer kind {fields.get('kind')!r}; expected one of {', '.join(KINDS)}")


def _class_of(kind: str) -> Any:
    """The class of a kind, a `type[Tokenizer]`: its library is imported where there is such a tokenizer."""
    module, name = _CLASSES[kind]
    return getattr(importlib.import_module(module), name)
