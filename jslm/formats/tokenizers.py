"""The tokenizer of a model from elsewhere, by the files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jslm.tokenizer as kinds
from jslm.errors import JslmError
from jslm.tokenizer import Tokenizer, load_tokenizer

_GPT2_SIZES = (50257, 50304)
_MAX_JSON = 200_000_000
# Of an added token that matches as it is spelled.
PLAIN_TOKEN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


def find_tokenizer(folder: Path, vocab_size: int, where: str) -> Tokenizer:
    """The tokenizer in `folder` for a model of `vocab_size` rows; `where` names the model's file in errors.

    Looked for: `tokenizer.json` (jslm's or Hugging Face's), `vocab.json` with `merges.txt`; else GPT-2's own for a
    model of its size (50,257, or 50,304 with padding). Raises JslmError where there is none, or one of another size.
    """
    path = folder / "tokenizer.json"
    if path.is_file():
        fields = read_json(path)
        if fields.get("format") == "jslm-tokenizer":
            return _of_size(load_tokenizer(path), vocab_size, where, path)
    if path.is_file() or (folder / "vocab.json").is_file():
        return read_huggingface_tokenizer(folder, {}, vocab_size)
    if vocab_size in _GPT2_SIZES:
        return kinds.Gpt2Tokenizer()
    raise JslmError(
        f"{where}: no tokenizer beside it (tokenizer.json, or vocab.json and merges.txt); put the one that the model "
        f"of {vocab_size:,} tokens was trained with into {folder}"
    )


def read_huggingface_tokenizer(folder: Path, config: dict[str, Any], vocab_size: int) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: `tokenizer.json`, or GPT-2's `vocab.json` and `merges.txt`.

    `config` is the model's `config.json`, which may name the tokens that begin and end a document; so may
    `tokenizer_config.json`, which counts for more. Raises JslmError where files are missing or contradict each other.
    """
    settings = read_json(folder / "tokenizer_config.json", absent_ok=True)
    specials = read_json(folder / "special_tokens_map.json", absent_ok=True)
    named = {key: _content(settings.get(key, specials.get(key))) for key in ("bos_token", "eos_token", "unk_token")}
    path = folder / "tokenizer.json"
    if path.is_file():
        fields = read_json(path)
    elif (folder / "vocab.json").is_file():
        path = folder / "vocab.json"
        fields = _gpt2_tokenizer_json(folder, settings, [token for token in named.values() if token])
    else:
        also = "; tokenizer.model alone is not read: save it once with transformers' AutoTokenizer"
        raise JslmError(
            f"{folder}: no tokenizer.json, nor vocab.json and merges.txt"
            + (also if (folder / "tokenizer.model").is_file() else "")
        )
    added = fields.get("added_tokens") or []
    vocabulary = (fields.get("model") or {}).get("vocab") or {}
    try:
        ids = dict(vocabulary) if isinstance(vocabulary, dict) else {entry[0]: i for i, entry in enumerate(vocabulary)}
        ids |= {token["content"]: token["id"] for token in added}
    except (TypeError, KeyError, ValueError) as error:
        raise JslmError(f"{path}: damaged ({error!r}); take it from the model's source again") from None
    bos_id, eos_id = (
        _token_id(key, named[key], key in settings or key in specials, config, ids, path)
        for key in ("bos_token", "eos_token")
    )
    if eos_id is None:
        eos_id = bos_id
    if eos_id is None:
        raise JslmError(
            f"{folder}: no eos_token in tokenizer_config.json nor eos_token_id in config.json; name the token that "
            "ends a document there"
        )
    fields = {**fields, "added_tokens": _with_settings(added, [settings, specials], ids)}
    try:
        return kinds.HuggingFaceTokenizer(fields, vocab_size=vocab_size, bos_id=bos_id, eos_id=eos_id)
    except JslmError as error:
        raise JslmError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise JslmError(f"{path}: damaged ({error!r}); take it from the model's source again") from None


def read_json(path: Path, *, absent_ok: bool = False) -> dict[str, Any]:
    """The object of a JSON file; empty where it is absent and may be. Raises JslmError where it is bad."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise JslmError(f"{path}: {path.stat().st_size:,} bytes; no such JSON file of a model is that large")
        found = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        if absent_ok:
            return {}
        raise JslmError(f"{path}: no such file") from None
    except OSError as error:
        raise JslmError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, RecursionError) as error:
        raise JslmError(f"{path}: no JSON, or cut short ({str(error)[:100]})") from None
    if not isinstance(found, dict):
        raise JslmError(f"{path}: a JSON {type(found).__name__}, expected an object")
    return found


def _of_size(tokenizer: Tokenizer, vocab_size: int, where: str, path: Path) -> Tokenizer:
    if tokenizer.vocab_size != vocab_size:
        raise JslmError(
            f"{path}: {tokenizer.vocab_size:,} tokens, but {where} has {vocab_size:,}; "
            "put the tokenizer that the model was trained with beside it"
        )
    return tokenizer


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def _with_settings(
    added: list[dict[str, Any]], settings: list[dict[str, Any]], ids: dict[str, int]
) -> list[dict[str, Any]]:
    """The added tokens, with those as special ones that the settings beside the file call so, as in transformers."""
    names: set[str | None] = set()
    for part in settings:
        names |= {_content(token) for key, token in part.items() if key.endswith("_token")}
        for key in ("additional_special_tokens", "extra_special_tokens"):
            listed = part.get(key) or []
            names |= set(map(_content, listed.values() if isinstance(listed, dict) else listed))
        decoder = part.get("added_tokens_decoder") or {}
        names |= {_content(token) for token in decoder.values() if token.get("special")}
    flags = {**PLAIN_TOKEN, "special": True}
    listed = {token["content"] for token in added}
    # One of a single character may be all that spells it.
    more = sorted((ids[name], name) for name in names - listed if name in ids and len(name) > 1)
    return [
        *({**token, "special": True} if token["content"] in names else token for token in added),
        *({**flags, "id": index, "content": name} for index, name in more),
    ]


def _token_id(
    key: str, name: str | None, is_settled: bool, config: dict[str, Any], ids: dict[str, int], path: Path
) -> int | None:
    """The id of `bos_token` or `eos_token`: by the tokenizer's settings, else by the model's config."""
    if name is not None:
        if name not in ids:
            raise JslmError(f"{path}: no token {name!r}, which tokenizer_config.json names as {key}")
        return int(ids[name])
    found = config.get(f"{key}_id")
    # Newer models may end in several ways; the first is that of plain text.
    found = found[0] if isinstance(found, list) and found else found
    if key == "bos_token" and is_settled:
        return None
    return found if isinstance(found, int) else None


def _gpt2_tokenizer_json(folder: Path, settings: dict[str, Any], special: list[str]) -> dict[str, Any]:
    """GPT-2's two files as the one that replaced them."""
    vocabulary = read_json(folder / "vocab.json")
    path = folder / "merges.txt"
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise JslmError(
            f"{path}: missing or no UTF-8 text ({type(error).__name__}); it belongs to vocab.json"
        ) from None
    merges = [line.split(" ") for line in lines if line.strip() and not line.startswith("#version")]
    if bad := next((number for number, merge in enumerate(merges, 1) if len(merge) != 2), 0):
        raise JslmError(f"{path}: merge {bad:,} is not two tokens with a space between them")
    # Newer folders list them with their flags; in older ones they are names alone.
    flags = {**PLAIN_TOKEN, "special": True}
    listed = settings.get("added_tokens_decoder")
    added = [{**flags, **token, "id": int(index)} for index, token in (listed or {}).items()]
    known = {token["content"] for token in added}
    for name in dict.fromkeys(special):
        if name in vocabulary and name not in known:
            added.append({**flags, "content": name, "id": vocabulary[name]})
    prefix = bool(settings.get("add_prefix_space", False))
    # Without a tokenizer.json this setting counts.
    bos = _content(settings.get("bos_token")) if settings.get("add_bos_token") else None
    level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": True}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
    }
    return {
        "version": "1.0",
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": starting_with(bos, vocabulary[bos]) if bos in vocabulary else None,
        "decoder": level,
        "model": {**model, "fuse_unk": False, "byte_fallback": False, "vocab": vocabulary, "merges": merges},
    }


def starting_with(name: str, token: int) -> dict[str, Any]:
    """A post-processor that puts one token before each text."""
    start = {"SpecialToken": {"id": name, "type_id": 0}}
    first, second = ({"Sequence": {"id": part, "type_id": 0}} for part in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [start, first],
        "pair": [start, first, second],
        "special_tokens": {name: {"id": name, "ids": [token], "tokens": [name]}},
    }


def piece_merges(ids: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges of SentencePiece's BPE: all pairs of pieces that make a piece, that of the best score first."""
    pairs = [
        (-scores[index], index, piece[:cut], piece[cut:])
        for piece, index in ids.items()
        for cut in range(1, len(piece))
        if piece[:cut] in ids and piece[cut:] in ids
    ]
    return [(left, right) for _, _, left, right in sorted(pairs)]


def piece_steps(*, prefix: bool) -> dict[str, Any]:
    """What Llama 2's `tokenizer.json` does to a text before and after its pieces; `prefix`: a space goes before it."""
    space = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    first = [{"type": "Prepend", "prepend": _SPACE}] if prefix else []
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*first, space]},
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
    }
