"""A tokenizer as llama.cpp knows it: the keys `tokenizer.ggml.*` of a GGUF file.

llama.cpp has its own code for each family of tokenizers (`src/llama-vocab.cpp`), and chooses it by two names: the
model (`gpt2`: byte-level BPE; `llama`: SentencePiece's BPE by scores) and, for `gpt2`, the pattern that cuts words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Protocol, cast

from jslm.errors import JslmError
from jslm.formats.tokenizers import piece_steps
from jslm.tokenizer import UNKNOWN, Tokenizer
from jslm.tokenizer.bpe import byte_spelling

if TYPE_CHECKING:
    from gguf import GGUFWriter

NO_BOS_KEY = "jslm.tokenizer.names_no_bos"
# Before a chat template of such a tokenizer, which would render llama.cpp's token for it.
NO_BOS_TEMPLATE = '{%- set bos_token = "" -%}'
_ELSE = "export with --format safetensors"
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")
# What cuts words in a `tokenizer.json`: a pattern, and whether a word that is a token is taken whole (`ignore_merges`);
# and llama.cpp's name for the two.
_WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PATTERNS = {
    (_WORD % "", False): "qwen2",
    (_WORD % "{1,3}", True): "llama-bpe",
    (_WORD % "{1,3}", False): "dbrx",
}


class TokenType(IntEnum):
    """llama.cpp's `llama_token_type`."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """`tokens` in the order of their ids, in llama.cpp's spelling; `merges` for `gpt2`, `scores` for `llama`."""

    model: str
    tokens: Sequence[str]
    types: Sequence[TokenType]
    pre: str = ""
    merges: Sequence[str] = ()
    scores: Sequence[float] = ()
    unknown_id: int | None = None
    add_space_prefix: bool = False


class _HasTokenizerJson(Protocol):
    def tokenizers_json(self) -> str: ...


class _HasScores(Protocol):
    pieces: Sequence[str]
    scores: Sequence[float]


def write_vocabulary(
    writer: GGUFWriter, tokenizer: Tokenizer, *, starts_documents: bool, turn_end: int | None = None
) -> None:
    """Adds the keys `tokenizer.ggml.*` to the file's metadata.

    `turn_end` is the token that ends a turn of a conversation, where it is another than the one that ends a document.
    `starts_documents`: whether jslm puts the token that begins a document before each prompt; llama.cpp then does too,
    unless the tokenizer is one that adds none. Raises JslmError where llama.cpp has nothing that gives the tokenizer's
    ids.
    """
    vocabulary = vocabulary_of(tokenizer)
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.model == "gpt2":
        writer.add_tokenizer_pre(vocabulary.pre)
        # llama.cpp insists on a list of merges and the library on an entry: one of words that never meet.
        end = vocabulary.tokens[tokenizer.eot_id]
        writer.add_token_merges(list(vocabulary.merges) or [f"{end} {end}"])
    else:
        writer.add_token_scores(vocabulary.scores)
        writer.add_add_space_prefix(vocabulary.add_space_prefix)
    if vocabulary.unknown_id is not None:
        writer.add_unk_token_id(vocabulary.unknown_id)
    # llama.cpp takes some token for it in any case; that a tokenizer names none (Qwen's) is a word to jslm itself.
    writer.add_bos_token_id(tokenizer.bos_id)
    if "bos_token" not in tokenizer.named_tokens:
        writer.add_bool(NO_BOS_KEY, True)
    writer.add_eos_token_id(tokenizer.eot_id)
    # llama.cpp's "eot" is the end of a turn, at which it stops too.
    writer.add_eot_token_id(tokenizer.eot_id if turn_end is None else turn_end)
    # Its default depends on the model and the pattern; ours on neither.
    writer.add_add_bos_token(starts_documents and tokenizer.adds_bos)
    writer.add_add_eos_token(False)


def vocabulary_of(tokenizer: Tokenizer) -> Vocabulary:
    """The tokenizer in llama.cpp's terms. Raises JslmError where llama.cpp has nothing that gives the same ids."""
    if tokenizer.kind in ("bpe", "hf"):
        vocabulary = from_tokenizer_json(json.loads(cast(_HasTokenizerJson, tokenizer).tokenizers_json()))
    elif tokenizer.kind == "sentencepiece":
        scored = cast(_HasScores, tokenizer)
        vocabulary = from_pieces(scored.pieces, scored.scores, tokenizer.special_tokens)
    elif tokenizer.kind == "gpt2":
        vocabulary = _from_ranks(tokenizer)
    elif tokenizer.kind in ("char", "byte"):
        vocabulary = _from_characters(tokenizer)
    else:
        raise JslmError(f"GGUF: llama.cpp has no tokenizer like kind {tokenizer.kind!r}; {_ELSE}")
    if (missing := tokenizer.vocab_size - len(vocabulary.tokens)) > 0:
        # Rows of the table that no text leads to, as Qwen's; llama.cpp counts the table by the names of its rows.
        reserved = [f"[PAD{index}]" for index in range(len(vocabulary.tokens), tokenizer.vocab_size)]
        vocabulary = replace(
            vocabulary,
            tokens=[*vocabulary.tokens, *reserved],
            types=[*vocabulary.types, *[TokenType.UNUSED] * missing],
            scores=[*vocabulary.scores, *[0.0] * missing] if vocabulary.scores else (),
        )
    _check_distinct(vocabulary.tokens)
    return vocabulary


def from_pieces(pieces: Sequence[str], scores: Sequence[float], special_tokens: Mapping[str, int]) -> Vocabulary:
    """SentencePiece's BPE, as in llama2.c's `tokenizer.bin`: `<unk>` is 0 and a byte outside the pieces is `<0x0A>`.

    Spaces in `pieces` may be plain or SentencePiece's own (U+2581). llama.cpp puts one before a text, and takes U+2581
    in it for another.
    """
    tokens = [piece.replace(" ", _SPACE) for piece in pieces]
    types = [TokenType.BYTE if _BYTE_TOKEN.fullmatch(token) else TokenType.NORMAL for token in tokens]
    for name, token in special_tokens.items():
        tokens[token], types[token] = name, TokenType.CONTROL
    tokens[0], types[0] = "<unk>", TokenType.UNKNOWN
    return Vocabulary("llama", tokens, types, scores=list(map(float, scores)), unknown_id=0, add_space_prefix=True)


def from_tokenizer_json(fields: Mapping[str, Any]) -> Vocabulary:
    """A `tokenizer.json` of Hugging Face's `tokenizers`. Raises JslmError where llama.cpp has no such tokenizer.

    Known: byte-level BPE that cuts words as GPT-2, SmolLM, Qwen2 or Llama 3 does, and Llama 2's with byte fallback.
    """
    model = fields["model"]
    if model.get("type") != "BPE":
        raise JslmError(f"GGUF: a tokenizer.json of type {model.get('type')!r}; llama.cpp reads BPE: {_ELSE}")
    added = {token["id"]: token for token in fields.get("added_tokens") or []}
    ids = dict(model["vocab"]) | {token["content"]: index for index, token in added.items()}
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(len(tokens))):
        raise JslmError(f"GGUF: the ids of this tokenizer.json have gaps, which llama.cpp cannot hold; {_ELSE}")
    _check_flags(added.values())
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]

    def types(unknown: str | None, byte_tokens: bool) -> Iterator[TokenType]:
        for index, token in enumerate(tokens):
            if token == unknown:
                yield TokenType.UNKNOWN
            elif index in added:
                yield TokenType.CONTROL if added[index].get("special") else TokenType.USER_DEFINED
            else:
                yield TokenType.BYTE if byte_tokens and _BYTE_TOKEN.fullmatch(token) else TokenType.NORMAL

    if (
        model.get("byte_fallback")
        and fields.get("normalizer") == piece_steps(prefix=True)["normalizer"]
        and not fields.get("pre_tokenizer")
    ):
        unknown = model.get("unk_token")
        return Vocabulary(
            "llama",
            tokens,
            list(types(unknown, True)),
            scores=_scores_of_merges(tokens, merges),
            unknown_id=ids.get(unknown),
            add_space_prefix=True,
        )
    pre = _pattern_name(fields)
    return Vocabulary("gpt2", tokens, list(types(None, False)), pre, [" ".join(merge) for merge in merges])


def _check_flags(added: Iterable[Mapping[str, Any]]) -> None:
    """Raises JslmError where an added token that is text matches in a way that llama.cpp has not."""
    for token in added:
        flags = [flag for flag in ("lstrip", "rstrip", "single_word") if token.get(flag)]
        if flags and not token.get("special"):
            raise JslmError(
                f"GGUF: the added token {token['content']!r} of this tokenizer.json is {flags[0]}, and llama.cpp would "
                f"give other ids; {_ELSE}"
            )


def _pattern_name(fields: Mapping[str, Any]) -> str:
    """llama.cpp's name for what cuts words before byte-level BPE. Raises JslmError where it has none."""
    cutter = fields.get("pre_tokenizer") or {}
    *splits, level = cutter.get("pretokenizers") or [cutter]
    takes_words = bool(fields["model"].get("ignore_merges"))
    # Qwen composes accents first (NFC); llama.cpp, which knows Qwen's tokenizer by its pattern, does not.
    composes = (fields.get("normalizer") or {"type": "NFC"}) == {"type": "NFC"}
    if level.get("type") == "ByteLevel" and not level.get("add_prefix_space") and len(splits) < 2 and composes:
        [split] = splits or [{}]
        has_gpt2_regex = level.get("use_regex", True)
        if has_gpt2_regex and not takes_words:
            if not split:
                return "gpt-2"
            if split == {"type": "Digits", "individual_digits": True}:
                return "smollm"
        pattern = (split.get("pattern") or {}).get("Regex") or ""
        isolates = split.get("behavior") == "Isolated" and not split.get("invert")
        if not has_gpt2_regex and isolates and (pattern, takes_words) in PATTERNS:
            return PATTERNS[pattern, takes_words]
    raise JslmError(
        f"GGUF: this tokenizer.json cuts words in a way (pre_tokenizer {json.dumps(cutter)[:200]}) that is not that of "
        f"GPT-2, SmolLM, Qwen2 or Llama 3, and llama.cpp would give other ids; {_ELSE}"
    )


def _scores_of_merges(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> list[float]:
    """Scores by which llama.cpp joins the same pairs in the same order: minus the rank of a token's first merge."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault("".join(merge), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]


def _from_ranks(tokenizer: Tokenizer) -> Vocabulary:
    """GPT-2's vocabulary, whose ids are the ranks of its pieces; the merges follow from them."""
    ordinary = [tokenizer.decode_bytes([token]) for token in range(tokenizer.eot_id)]
    ranks = {piece: rank for rank, piece in enumerate(ordinary)}
    merges = [_last_merge(piece, ranks) for piece in ordinary if len(piece) > 1]
    return Vocabulary(
        "gpt2",
        *_spelled_tokens(tokenizer),
        pre="gpt-2",
        merges=[f"{_spell(left)} {_spell(right)}" for left, right in merges],
    )


def _last_merge(piece: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that BPE has joined `piece` to just before it joins them."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in pairwise(parts)]
        at = pairs.index(min(pairs))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    left, right = parts
    return left, right


def _from_characters(tokenizer: Tokenizer) -> Vocabulary:
    """`char` and `byte` as byte-level BPE whose merges join the bytes of each character, and nothing else.

    A character outside the alphabet, which jslm reads as `<|unk|>`, llama.cpp leaves out.
    """
    tokens, types = _spelled_tokens(tokenizer)
    special = set(tokenizer.special_tokens.values())
    unknown = tokenizer.special_tokens.get(UNKNOWN)
    if unknown is not None and (spelling := _spell(tokenizer.decode_bytes([unknown]))) not in tokens:
        # It stands for text, and so decodes as it does in jslm: as U+FFFD.
        tokens[unknown], types[unknown] = spelling, TokenType.NORMAL
        special.remove(unknown)
    merges: dict[str, None] = {}
    for index, token in enumerate(tokens):
        if index not in special:
            merges |= {f"{token[:end]} {token[end]}": None for end in range(1, len(token))}
    return Vocabulary("gpt2", tokens, types, pre="gpt-2", merges=list(merges), unknown_id=unknown)


def _spelled_tokens(tokenizer: Tokenizer) -> tuple[list[str], list[TokenType]]:
    """Special tokens by name, all others by GPT-2's spelling of their bytes."""
    names = {token: name for name, token in tokenizer.special_tokens.items()}
    ids = range(tokenizer.vocab_size)
    tokens = [names[token] if token in names else _spell(tokenizer.decode_bytes([token])) for token in ids]
    return tokens, [TokenType.CONTROL if token in names else TokenType.NORMAL for token in ids]


def _check_distinct(tokens: Sequence[str]) -> None:
    # llama.cpp stops the whole process where two tokens are spelled alike.
    seen: dict[str, int] = {}
    for index, token in enumerate(tokens):
        if seen.setdefault(token, index) != index:
            raise JslmError(
                f"GGUF: the tokens {seen[token]} and {index} are both spelled {token!r}, and llama.cpp tells tokens "
                f"apart by their spelling; {_ELSE}, or rename the special token"
            )


def _spell(piece: bytes) -> str:
    return piece.decode("latin-1").translate(_SPELLING)


def spelled_bytes(token: str) -> bytes:
    """The bytes of a token in GPT-2's spelling. Raises KeyError for a character that spells none.

    >>> spelled_bytes("Ġa")
    b' a'
    """
    return bytes(map(_BYTES.__getitem__, token))


_SPELLING = byte_spelling()
_BYTES = {char: byte for byte, char in _SPELLING.items()}
