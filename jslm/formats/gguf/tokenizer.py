"""The tokenizer that the keys `tokenizer.ggml.*` of a GGUF file describe.

llama.cpp's own reading of them is in `src/llama-vocab.cpp`. A file that jslm wrote gives back the tokenizer of the run
where its fingerprint, which the file holds, says that it is the one; any other becomes one of kind `hf`, or
`sentencepiece` where the vocabulary is laid out as llama2.c's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import jslm.tokenizer as tokenizers
from jslm.errors import JslmError
from jslm.formats.gguf.header import ArrayLength, Header
from jslm.formats.gguf.vocabulary import NO_BOS_KEY, PATTERNS, TokenType, spelled_bytes
from jslm.formats.tokenizers import PLAIN_TOKEN, piece_merges, piece_steps, starting_with
from jslm.tokenizer import UNKNOWN, Tokenizer

_log = logging.getLogger("jslm")
_PREFIX = "tokenizer.ggml."
FINGERPRINT_KEY = "jslm.tokenizer.fingerprint"
# The arrays that are read.
ARRAYS = tuple(f"{_PREFIX}{name}" for name in ("tokens", "token_type", "scores", "merges"))
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
# llama.cpp's names for what cuts words as another does.
_SAME = {
    "phi-2": "gpt-2",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "deepseek-r1-qwen": "qwen2",
    "starcoder": "smollm",
    "refact": "smollm",
    "codeshell": "smollm",
}
_KNOWN = ("gpt-2", "smollm", *PATTERNS.values())
# Keys that change no id that jslm gives: names of tokens for tasks of their own, and what is read here.
_PASSED_OVER = frozenset(
    {
        "model", "pre", "tokens", "token_type", "scores", "merges", "token_type_count", "add_bos_token",
        "add_eos_token", "add_space_prefix", "bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id",
        "unknown_token_id", "padding_token_id", "seperator_token_id", "separator_token_id", "cls_token_id",
        "mask_token_id", "prefix_token_id", "suffix_token_id", "middle_token_id", "fim_pre_token_id",
        "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id", "fim_sep_token_id",
    }
)  # fmt: skip
_NEUTRAL = {"remove_extra_whitespaces": False, "add_sep_token": False}


def tokenizer_from_header(header: Header, path: Path) -> tuple[Tokenizer, bool]:
    """The tokenizer, and whether each document begins with its first token.

    `header` was read with `ARRAYS`. Raises JslmError where the file has none, one of a kind that jslm does not have,
    or keys that would give other ids.
    """
    keys = _Keys(header.metadata, path)
    keys.refuse_unknown()
    model, tokens, types = keys.text("model"), keys.tokens(), keys.types()
    if keys.flag("add_eos_token", False):
        _log.warning("%s: add_eos_token: jslm puts nothing behind a text", path)
    if (exact := _jslms_own(keys, tokens, types)) is not None:
        return exact, keys.flag("add_bos_token", True)
    if model == "gpt2":
        return _byte_level(keys, tokens, types), True
    if model == "llama":
        return _sentencepiece(keys, tokens, types), True
    raise JslmError(
        f"{path}: a tokenizer of llama.cpp's kind {model!r}; jslm reads gpt2 (byte-level BPE) and llama (SentencePiece)"
    )


def _jslms_own(keys: _Keys, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer | None:
    """The tokenizer of the run that the file was made of, where it is one of jslm's own kinds; by its fingerprint."""
    wanted = keys.metadata.get(FINGERPRINT_KEY)
    if not isinstance(wanted, str):
        return None
    control = [token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.CONTROL]
    for make in (_byte, _char, _bpe, _gpt2, _pieces):
        try:
            found = make(keys, tokens, control)
        except (JslmError, ValueError, TypeError, KeyError, IndexError):
            continue
        if found is not None and found.fingerprint == wanted:
            return found
    return None


def _byte(keys: _Keys, tokens: Sequence[str], control: Sequence[str]) -> Tokenizer | None:
    del keys
    return tokenizers.ByteTokenizer(control[1:]) if len(tokens) == 256 + len(control) else None


def _char(keys: _Keys, tokens: Sequence[str], control: Sequence[str]) -> Tokenizer:
    # Where the alphabet has no U+FFFD, the unknown character is written as that, and as text.
    del keys
    special = [name for name in control[1:] if name != UNKNOWN]
    first = 2 + len(special)
    return tokenizers.CharTokenizer({spelled_bytes(token).decode() for token in tokens[first:]}, special)


def _bpe(keys: _Keys, tokens: Sequence[str], control: Sequence[str]) -> Tokenizer | None:
    if keys.text("model") != "gpt2" or keys.metadata.get(f"{_PREFIX}pre") != "gpt-2":
        return None
    merges = [merge for merge in keys.merges() if not set(merge) & set(control)]
    return tokenizers.BpeTokenizer(tokens[len(control) :], merges, control[1:])


def _gpt2(keys: _Keys, tokens: Sequence[str], control: Sequence[str]) -> Tokenizer | None:
    del keys
    # Its vocabulary is no part of a saved run: where it would have to be fetched, the file's own is as good.
    return tokenizers.Gpt2Tokenizer(control[1:]) if len(tokens) == 50256 + len(control) and _gpt2_is_cached() else None


def _pieces(keys: _Keys, tokens: Sequence[str], control: Sequence[str]) -> Tokenizer | None:
    if keys.text("model") != "llama":
        return None
    del control
    pieces = [token.replace(_SPACE, " ") for token in tokens]
    end = tokens[keys.token("eos_token_id", 2)]
    return tokenizers.SentencePieceTokenizer(pieces, keys.scores(len(tokens)), end_of_text=end)


def _byte_level(keys: _Keys, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    name = keys.metadata.get(f"{_PREFIX}pre")
    pre = _SAME.get(name, name) if isinstance(name, str) else None
    if pre not in _KNOWN:
        raise JslmError(
            f"{keys.path}: its tokenizer cuts words by llama.cpp's pattern {name!r}; jslm reads "
            f"{', '.join((*_KNOWN, *_SAME))}: import the model from its Hugging Face folder"
        )
    if keys.flag("add_space_prefix", False):
        raise JslmError(f"{keys.path}: byte-level BPE with tokenizer.ggml.add_space_prefix, which jslm does not have")
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    split: dict[str, Any] | None = {"type": "Digits", "individual_digits": True} if pre == "smollm" else None
    takes_words = False
    for (pattern, takes), known in PATTERNS.items():
        if known == pre:
            split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
            takes_words, level = takes, {**level, "use_regex": False}
    fields = {
        # Qwen's own files compose accents first, which no key of GGUF says.
        "normalizer": {"type": "NFC"} if pre == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]} if split else level,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
    }
    joins: list[list[str]] = []
    model = {
        "merges": joins,
        "unk_token": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": takes_words,
    }
    words = {token for token, kind in zip(tokens, types, strict=True) if kind != TokenType.CONTROL}
    for left, right in keys.merges():
        if {left, right, left + right} <= words:
            joins.append([left, right])
        # A list of merges must have an entry, which may be one of special tokens, which never meet.
        elif {left, right} & words or left + right in words:
            raise JslmError(
                f"{keys.path}: its tokenizer joins {left!r} and {right!r} to what is no token, which llama.cpp then "
                "takes apart to bytes; jslm has no such tokenizer: import the model that this file was made of"
            )
    return _library(keys, tokens, types, fields, model, starts=pre == "llama-bpe")


def _sentencepiece(keys: _Keys, tokens: Sequence[str], types: Sequence[int]) -> Tokenizer:
    scores = keys.scores(len(tokens))
    prefix = keys.flag("add_space_prefix", True)
    added = [index for index, kind in enumerate(types) if kind in (TokenType.CONTROL, TokenType.USER_DEFINED)]
    starts = keys.flag("add_bos_token", True)
    usual = prefix and starts and set(added) <= {0, 1, 2} and (keys.token("bos_token_id", 1) == 1)
    if usual:
        try:
            return _pieces_or_none(keys, tokens)
        except (JslmError, ValueError):
            # Laid out in another way than llama2.c's, which any file may be.
            pass
    ids = {token: index for index, token in enumerate(tokens)}
    texts = {token: ids[token] for token, kind in zip(tokens, types, strict=True) if kind == TokenType.NORMAL}
    fields = {"normalizer": None, "pre_tokenizer": None} | piece_steps(prefix=prefix)
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.UNKNOWN), None)
    merges = [list(pair) for pair in piece_merges(texts, scores)]
    model = {"merges": merges, "unk_token": unknown, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}
    return _library(keys, tokens, types, fields, model, starts=True)


def _pieces_or_none(keys: _Keys, tokens: Sequence[str]) -> Tokenizer:
    found = _pieces(keys, tokens, ())
    assert found is not None
    return found


def _library(
    keys: _Keys,
    tokens: Sequence[str],
    types: Sequence[int],
    fields: dict[str, Any],
    model: dict[str, Any],
    starts: bool,
) -> Tokenizer:
    """The vocabulary as a `tokenizer.json`; `starts`: whether bos goes before a text where the file does not say."""
    kinds = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
    added = [
        {**PLAIN_TOKEN, "id": index, "content": token, "special": kinds[TokenType(kind)]}
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in kinds
    ]
    # Rows behind the last token that stands for something are reserved, as in Qwen's padded tables.
    used = max((index for index, kind in enumerate(types) if kind != TokenType.UNUSED), default=-1) + 1
    bos = keys.token("bos_token_id", 1 if keys.text("model") == "llama" else None)
    if keys.metadata.get(NO_BOS_KEY) is True:
        bos = None
    eos = keys.token("eos_token_id", 2 if keys.text("model") == "llama" else None)
    if eos is None:
        raise JslmError(f"{keys.path}: no {_PREFIX}eos_token_id, the token that ends a document")
    before = keys.flag("add_bos_token", starts) and bos is not None
    vocabulary = {token: index for index, token in enumerate(tokens[:used])}
    extra = {"continuing_subword_prefix": None, "end_of_word_suffix": None, "dropout": None}
    whole = {
        "version": "1.0",
        "added_tokens": added,
        **fields,
        "post_processor": starting_with(tokens[bos], bos) if before and bos is not None else None,
        "model": {"type": "BPE", **extra, **model, "vocab": vocabulary},
    }
    try:
        return tokenizers.HuggingFaceTokenizer(whole, vocab_size=len(tokens), bos_id=bos, eos_id=eos)
    except JslmError as error:
        raise JslmError(f"{keys.path}: its tokenizer: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JslmError(f"{keys.path}: its tokenizer is damaged ({error!r}); download the file again") from None


class _Keys:
    """The keys of the tokenizer, checked as they are taken."""

    def __init__(self, metadata: dict[str, Any], path: Path) -> None:
        self.metadata, self.path = metadata, path

    def text(self, key: str) -> str:
        value = self.metadata.get(_PREFIX + key)
        if not isinstance(value, str):
            raise JslmError(f"{self.path}: {_PREFIX}{key} is {_shown(value)}, expected text")
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self.metadata.get(_PREFIX + key, default)
        if not isinstance(value, bool):
            raise JslmError(f"{self.path}: {_PREFIX}{key} is {_shown(value)}, expected true or false")
        return value

    def token(self, key: str, default: int | None) -> Any:
        value = self.metadata.get(_PREFIX + key, default)
        if value is not None and (type(value) is not int or not 0 <= value < len(self.tokens())):
            raise JslmError(
                f"{self.path}: {_PREFIX}{key} is {_shown(value)}, expected one of {len(self.tokens()):,} ids"
            )
        return value

    def tokens(self) -> list[str]:
        found = self.metadata.get(f"{_PREFIX}tokens")
        if not isinstance(found, list) or not found:
            raise JslmError(f"{self.path}: no {_PREFIX}tokens: a file without its tokenizer, which jslm does not read")
        if len(set(found)) < len(found):
            raise JslmError(f"{self.path}: two of its tokens are spelled alike; the file is damaged")
        return found

    def types(self) -> list[int]:
        return [int(kind) for kind in self._column("token_type", 1)]

    def scores(self, count: int) -> list[float]:
        if f"{_PREFIX}scores" not in self.metadata:
            raise JslmError(f"{self.path}: no {_PREFIX}scores for its {count:,} pieces")
        scores = [float(score) for score in self._column("scores", 0)]
        if not np.isfinite(scores).all():
            raise JslmError(f"{self.path}: {_PREFIX}scores holds what is no number; the file is damaged")
        return scores

    def merges(self) -> list[tuple[str, str]]:
        found = self.metadata.get(f"{_PREFIX}merges")
        if not isinstance(found, list):
            raise JslmError(f"{self.path}: no {_PREFIX}merges, by which byte-level BPE joins tokens")
        # The first space that is not the first character, as llama.cpp looks for it.
        cuts = [(merge, merge.find(" ", 1)) for merge in found]
        if bad := next((merge for merge, cut in cuts if cut < 0), None):
            raise JslmError(f"{self.path}: the merge {bad[:80]!r} is not two tokens with a space between them")
        return [(merge[:cut], merge[cut + 1 :]) for merge, cut in cuts]

    def refuse_unknown(self) -> None:
        """Raises JslmError that lists the keys of the tokenizer that jslm has nothing for."""
        found = []
        for name, value in self.metadata.items():
            key = name.removeprefix(_PREFIX)
            if key != name and key not in _PASSED_OVER and not (key in _NEUTRAL and value == _NEUTRAL[key]):
                found.append(f"{name[:80]} = {_shown(value)}")
        if found:
            raise JslmError(
                f"{self.path}: jslm has nothing for {'; '.join(found[:8])}, by which its tokenizer may give other ids"
            )

    def _column(self, key: str, default: int) -> Any:
        count = len(self.tokens())
        found = self.metadata.get(_PREFIX + key)
        if found is None:
            return [default] * count
        if not isinstance(found, np.ndarray) or len(found) != count:
            raise JslmError(f"{self.path}: {_PREFIX}{key} is {_shown(found)}, expected {count:,} numbers, one a token")
        return found


def _shown(value: Any) -> str:
    if isinstance(value, ArrayLength | list | np.ndarray):
        return f"an array of {value.length if isinstance(value, ArrayLength) else len(value):,}"
    return "absent" if value is None else repr(value)[:60]


def _gpt2_is_cached() -> bool:
    # With tiktoken, which other kinds do without.
    from jslm.tokenizer.gpt2 import is_cached

    return is_cached()
