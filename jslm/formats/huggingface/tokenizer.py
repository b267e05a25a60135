"""A tokenizer as the files that transformers' `AutoTokenizer` opens without code of ours."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as LibraryTokenizer

from jslm.errors import JslmError
from jslm.formats.gguf.vocabulary import vocabulary_of
from jslm.formats.tokenizers import piece_merges, piece_steps, starting_with
from jslm.tokenizer import UNKNOWN, Tokenizer
from jslm.tokenizer.ordinary import unknown_token

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def write_tokenizer(tokenizer: Tokenizer, folder: Path, *, context_length: int, starts_documents: bool) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json`, whose ids are those of `tokenizer` for any text.

    The spelling of a special token in a text is that token there, as with `encode(..., allow_special=True)`.
    `starts_documents`: whether the token that begins a document goes before each text, as in `jslm.sample`; not where
    the tokenizer is one that adds none. Nothing goes behind a text, whatever the file did that it came from. Raises
    JslmError where no file of `tokenizers` gives these ids.
    """
    fields = json.loads(tokenizer_json(tokenizer))
    starts = starts_documents and tokenizer.adds_bos
    if not _adds(fields, [tokenizer.bos_id] if starts else []):
        name = LibraryTokenizer.from_str(json.dumps(fields)).id_to_token(tokenizer.bos_id)
        fields["post_processor"] = starting_with(name, tokenizer.bos_id) if starts and name else None
    named = tokenizer.named_tokens
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": named.get("bos_token"),
        "eos_token": named.get("eos_token"),
        # transformers goes by the post-processor; other programs by these.
        "add_bos_token": starts,
        "add_eos_token": False,
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
    }
    for unknown in unknown_token(fields["model"]):
        settings["unk_token"] = unknown
    write_json(folder / "tokenizer.json", fields)
    write_json(folder / "tokenizer_config.json", settings)


def tokenizer_json(tokenizer: Tokenizer) -> str:
    """The tokenizer as the text of a `tokenizer.json`. Raises JslmError where there is none with the same ids."""
    match tokenizer.kind:
        case "bpe" | "hf":
            found: str = tokenizer.tokenizers_json()  # type: ignore[attr-defined]
            return found
        case "char":
            return _characters(tokenizer)
        case "byte":
            return _byte_level(tokenizer, use_regex=False)
        case "gpt2":
            return _byte_level(tokenizer, use_regex=True)
        case "sentencepiece":
            return _sentencepiece(tokenizer)
        case kind:
            raise JslmError(f"tokenizer kind {kind!r} has no tokenizer.json; export with --format safetensors")


def _characters(tokenizer: Tokenizer) -> str:
    """Each character is a word; one outside the alphabet is the unknown one."""
    special = tokenizer.special_tokens
    unknown_id = special[UNKNOWN]
    names = {token: name for name, token in special.items()}
    words = {names.get(token) or tokenizer.decode([token]): token for token in range(tokenizer.vocab_size)}
    unknown = UNKNOWN
    if _REPLACEMENT not in words:
        # It stands for text, and so it is no special token there, and decodes as in jslm.
        words[_REPLACEMENT] = words.pop(UNKNOWN)
        unknown = _REPLACEMENT
        special.pop(UNKNOWN)
    assert words[unknown] == unknown_id
    library = LibraryTokenizer(models.WordLevel(words, unk_token=unknown))
    library.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    library.decoder = decoders.Fuse()
    return _with_special(library, special)


def _byte_level(tokenizer: Tokenizer, *, use_regex: bool) -> str:
    """Byte-level BPE: GPT-2's vocabulary, or the 256 bytes and no merges."""
    vocabulary = vocabulary_of(tokenizer)
    merges = [(left, right) for left, right in (merge.split(" ") for merge in vocabulary.merges)]
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    library = LibraryTokenizer(models.BPE(vocab=ids, merges=merges))
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    library.decoder = decoders.ByteLevel()
    return _with_special(library, tokenizer.special_tokens)


def _sentencepiece(tokenizer: Tokenizer) -> str:
    """SentencePiece's BPE as Llama 2's `tokenizer.json`: the merges are all pairs that make a piece, best first."""
    vocabulary = vocabulary_of(tokenizer)
    ids = {token: index for index, token in enumerate(vocabulary.tokens)}
    library = LibraryTokenizer(
        models.BPE(
            vocab=ids,
            merges=piece_merges(ids, vocabulary.scores),
            unk_token=vocabulary.tokens[vocabulary.unknown_id or 0],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    fields = json.loads(_with_special(library, tokenizer.special_tokens))
    return json.dumps(fields | piece_steps(prefix=True), ensure_ascii=False)


def _with_special(library: LibraryTokenizer, special_tokens: dict[str, int]) -> str:
    in_order = sorted(special_tokens, key=special_tokens.__getitem__)
    library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in in_order])
    for name, token in special_tokens.items():
        if library.token_to_id(name) != token:
            raise JslmError(
                f"special token {name!r} cannot keep its id {token} in a tokenizer.json; export with --format "
                "safetensors"
            )
    return library.to_str()


def _adds(fields: dict[str, Any], start: list[int]) -> bool:
    """Whether the file's post-processor puts the ids `start` before a text, and nothing behind it."""
    library = LibraryTokenizer.from_str(json.dumps(fields))
    return bool(library.encode("", add_special_tokens=True).ids == start)


def write_json(path: Path, fields: Mapping[str, Any]) -> None:
    """Writes an object as transformers lays it out."""
    path.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", "utf-8")
