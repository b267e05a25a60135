"""Any `tokenizer.json` of Hugging Face's `tokenizers`, as it came with a model."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from tokenizers import Tokenizer as LibraryTokenizer

from jslm.errors import JslmError
from jslm.tokenizer.base import Tokenizer, replace_surrogates
from jslm.tokenizer.bpe import byte_spelling
from jslm.tokenizer.ordinary import ordinary_only, unknown_token

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class HuggingFaceTokenizer(Tokenizer):
    """Ids, special tokens and spelling are those of the file; nothing is added.

    Text is normalised as the file says, so that `decode(encode(text))` may differ from `text`. The tokens that begin
    and end a document are special whether the file calls them so or not, unless one is a single character.
    """

    kind = "hf"

    def __init__(self, fields: Mapping[str, Any], *, vocab_size: int = 0, bos_id: int | None, eos_id: int) -> None:
        """`fields` is the JSON object of a `tokenizer.json`.

        `vocab_size` is the model's where that has more rows than the file has tokens: the ids between are reserved and
        stand for no text. `bos_id` begins a document and `eos_id` ends one; without a `bos_id` it is `eos_id`. Raises
        JslmError where the library cannot read the file, decoding it needs more than a table of pieces, it has more
        tokens than `vocab_size`, or an id is outside it.
        """
        # Padding and truncation are a matter of batches, which are made elsewhere.
        self._json = {**fields, "padding": None, "truncation": None}
        library = _read(self._json)
        added = _added_tokens(self._json, [token for token in (bos_id, eos_id) if token is not None])
        whole = {**self._json, "added_tokens": added}
        self._whole = library if added == self._json.get("added_tokens") else _read(whole)
        ids = self._whole.get_vocab(with_added_tokens=True)
        for entry in added:
            if ids[entry["content"]] != entry["id"]:
                raise JslmError(
                    f"the added token {entry['content']!r} has the id {entry['id']} in it, but {ids[entry['content']]} "
                    "by its place; the ids have a gap or are out of order: save it anew from its source"
                )
        special = {entry["content"]: entry["id"] for entry in added if entry.get("special")}
        # Those that are not special are text, and always count.
        self.added_words = frozenset(entry["content"] for entry in added if not entry.get("special"))
        self._plain = _read(ordinary_only(whole, set(special)))
        found = max(ids.values(), default=-1) + 1
        if vocab_size and found > vocab_size:
            raise JslmError(
                f"the tokenizer has {found:,} tokens and the model {vocab_size:,}; they do not belong together"
            )
        size = vocab_size or found
        self._bos_id, self._eos_id = bos_id, eos_id
        for name, token in (("begins", bos_id), ("ends", eos_id)):
            if token is not None and not 0 <= token < size:
                raise JslmError(f"the token that {name} a document is {token}, outside the vocabulary of {size:,}")
        names = {token["id"]: token["content"] for token in added}
        spell = _PieceBytes(self._json.get("decoder"))
        pieces = [b""] * size
        # Without a decoder the library joins the tokens with spaces.
        joint = b"" if self._json.get("decoder") else b" "
        for text, token in ids.items():
            pieces[token] = joint + (names[token].encode() if token in names else spell(text))
        super().__init__(pieces, special)
        # As special as the others, whatever the file says of them: they are never text.
        self._control_ids |= {token for token in (bos_id, eos_id) if token is not None}
        self._unused = frozenset(range(size)) - frozenset(ids.values())
        self.leading_space = _strips_space(self._json.get("decoder"))
        self.adds_bos = self._whole.encode("", add_special_tokens=True).ids[:1] == [self.bos_id] and self._leads(ids)

    @property
    def eot_id(self) -> int:
        """The id that ends a document, as the model's files say."""
        return self._eos_id

    @property
    def bos_id(self) -> int:
        """The id that begins a document; where the files name none, the one that ends the document before."""
        return self._eos_id if self._bos_id is None else self._bos_id

    @property
    def named_tokens(self) -> dict[str, str]:
        """As in transformers: no `bos_token` where the files name none, and the file's `unk_token`."""
        found = super().named_tokens
        if self._bos_id is None:
            found.pop("bos_token", None)
        for name in unknown_token(self._json["model"]):
            found["unk_token"] = name
        return found

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> HuggingFaceTokenizer:
        """The tokenizer of a saved file's JSON object."""
        bos_id, eos_id, size = fields["bos_id"], fields["eos_id"], fields["vocab_size"]
        return cls(fields["tokenizers"], vocab_size=size, bos_id=bos_id, eos_id=eos_id)

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`. The spelling of a special token is ordinary text unless `allow_special`.

        Raises JslmError for a text that the vocabulary cannot spell and the file has no unknown token for.
        """
        library = self._whole if allow_special else self._plain
        with _refusals():
            ids: list[int] = library.encode(replace_surrogates(text), add_special_tokens=False).ids
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, by the library's threads (`TOKENIZERS_PARALLELISM=false` turns them off)."""
        clean = [replace_surrogates(text) for text in texts]
        with _refusals():
            return [found.ids for found in self._plain.encode_batch_fast(clean, add_special_tokens=False)]

    def tokenizers_json(self) -> str:
        """The `tokenizer.json` it was made from."""
        return json.dumps(self._json, ensure_ascii=False)

    def _encode_ordinary(self, text: str) -> list[int]:
        return self.encode(text)

    def _leads(self, words: Iterable[str]) -> bool:
        """Whether what goes around a text goes before it: T5's files put the end of a text behind, as some do both."""
        for word in ("a", *islice(words, 1000)):
            with contextlib.suppress(Exception):  # the library raises bare Exception for what it can't spell
                plain, whole = (self._whole.encode(word, add_special_tokens=adds).ids for adds in (False, True))
                if plain and plain[:1] != [self.bos_id]:
                    return bool(whole[:1] == [self.bos_id])
        return True

    def _fields(self) -> dict[str, Any]:
        return {"tokenizers": self._json, "bos_id": self._bos_id, "eos_id": self._eos_id}

    def _identity(self) -> Iterator[bytes]:
        listed = {token["content"] for token in self._json.get("added_tokens") or [] if token.get("special")}
        yield from self._identity_of({token: name for token, name in self._special_names.items() if name in listed})
        yield json.dumps([self._json, self._bos_id, self._eos_id], sort_keys=True).encode()


def _read(fields: Mapping[str, Any]) -> LibraryTokenizer:
    try:
        return LibraryTokenizer.from_str(json.dumps(fields, ensure_ascii=False))
    except Exception as error:  # the library raises bare Exception
        raise JslmError(f"no tokenizer.json of the library tokenizers: {str(error).splitlines()[0][:200]}") from None


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the library raises bare Exception
        raise JslmError(
            f"a text has characters that this tokenizer.json cannot spell, and it has no unknown token ({error}); "
            "leave them out"
        ) from None


def _added_tokens(fields: Mapping[str, Any], ends: Sequence[int]) -> list[Mapping[str, Any]]:
    """The added tokens, with those that begin and end documents, `ends`, as special ones among them.

    One of a single character or byte stays text: nothing else could spell it.
    """
    added = list(fields.get("added_tokens") or [])
    names = {token["id"]: token["content"] for token in added}
    if not set(ends) <= names.keys():
        vocabulary = fields["model"]["vocab"]
        is_table = isinstance(vocabulary, Mapping)
        pieces = (
            ((i, text) for text, i in vocabulary.items()) if is_table else enumerate(text for text, _ in vocabulary)
        )
        names = dict(pieces) | names
    controls = {token for token in ends if len(names.get(token, "")) > 1 and not _BYTE_TOKEN.fullmatch(names[token])}
    listed = {token["id"] for token in added}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return [
        *({**token, "special": True} if token["id"] in controls else token for token in added),
        *({**flags, "id": token, "content": names[token]} for token in sorted(controls - listed)),
    ]


def _steps(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if not decoder:
        return []
    return [step for part in decoder["decoders"] for step in _steps(part)] if "decoders" in decoder else [decoder]


def _strips_space(decoder: Mapping[str, Any] | None) -> bool:
    """Whether decoding takes one space from the start of a text, which encoding or the join has put there."""
    if not decoder:
        return True
    for step in _steps(decoder):
        if step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return True
        if step["type"] == "Strip" and step.get("content") == " " and step.get("start") == 1:
            return True
    return False


class _PieceBytes:
    """The bytes of one token, by the decoder's steps. Raises JslmError for a decoder that looks at several at once."""

    def __init__(self, decoder: Mapping[str, Any] | None) -> None:
        self._steps = _steps(decoder)
        for step in self._steps:
            known = step["type"] in ("ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Strip")
            if not known and not (step["type"] == "Replace" and "String" in step.get("pattern", {})):
                raise JslmError(
                    f"this tokenizer.json decodes by {step['type']!r}, which joins tokens in a way of its own; jslm "
                    "reads those of byte-level BPE (GPT-2, Llama 3, Qwen) and SentencePiece's (Llama 2, Mistral)"
                )

    def __call__(self, text: str) -> bytes:
        for step in self._steps:
            match step["type"]:
                case "ByteLevel":
                    byte_of = {char: byte for byte, char in byte_spelling().items()}
                    # A token in other characters (`<unk>`) is no spelling of bytes.
                    return bytes(byte_of[char] for char in text) if byte_of.keys() >= set(text) else text.encode()
                case "ByteFallback":
                    if found := _BYTE_TOKEN.fullmatch(text):
                        return bytes([int(found[1], 16)])
                case "Metaspace":
                    text = text.replace(step.get("replacement", "\N{LOWER ONE EIGHTH BLOCK}"), " ")
                case "Replace":
                    text = text.replace(step["pattern"]["String"], step["content"])
        return text.encode()
