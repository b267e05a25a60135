"""Byte-level BPE trained on the corpus, by Hugging Face's `tokenizers`.

Sennrich et al. 2016; over bytes, with words cut by the pattern of GPT-2 (Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as LibraryTokenizer

from jslm.errors import JslmError
from jslm.tokenizer.base import END_OF_TEXT, Tokenizer, extra_special_tokens, replace_surrogates, special_token_ids
from jslm.tokenizer.splitting import encode_in_pieces, split_before_spaces, split_long_words

# The library takes five times as long over a megabyte in one piece as over the same in many, on two cores.
_PIECE_LENGTH = 16_384


class BpeTokenizer(Tokenizer):
    """`<|endoftext|>` is 0, the extra special tokens follow, then the 256 bytes and the merged pieces by rank.

    Every byte is in the vocabulary, so any text round-trips, whatever the corpus was.
    """

    kind = "bpe"
    cuts = "before_spaces"

    def __init__(
        self, tokens: Sequence[str], merges: Sequence[tuple[str, str]], special_tokens: Sequence[str] = ()
    ) -> None:
        """`tokens` in the order of their ids and `merges` by rank, both in GPT-2's spelling of bytes (`Ġthe`).

        Raises JslmError where a special token is empty, comes twice, or is spelled like one of `tokens`, and
        ValueError where the tokens lack a byte or a merge names a piece that is no token.
        """
        special = special_token_ids([END_OF_TEXT], special_tokens, first_id=0)
        for name in special:
            if name in tokens:
                raise JslmError(
                    f"tokenizer.special_tokens: {name!r} is also an ordinary token of this vocabulary, and one file "
                    f"cannot hold both; spell it in a way that no word is spelled, such as '<|{name}|>'"
                )
        spelling = byte_spelling()
        if missing := set(spelling.values()) - set(tokens):
            raise ValueError(f"the vocabulary lacks the byte {min(missing)!r}")
        byte_of = {char: byte for byte, char in spelling.items()}
        if strange := set("".join(tokens)) - byte_of.keys():
            raise ValueError(f"a token has the character {min(strange)!r}, which spells no byte")
        pieces = [name.encode() for name in special] + [bytes(map(byte_of.__getitem__, token)) for token in tokens]
        super().__init__(pieces, special)
        self._merges = [(left, right) for left, right in merges]
        self._vocab = {token: len(special) + index for index, token in enumerate(tokens)}
        # No special tokens in here: the library would find them in ordinary text.
        self._library = _library_tokenizer(self._vocab, self._merges)

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int, special_tokens: Sequence[str] = ()) -> BpeTokenizer:
        """Learns up to `vocab_size` ids, special tokens included, from `texts`; fewer where the corpus runs out.

        A pair that occurs once is never merged: a token seen once teaches nothing. The same texts always give the same
        tokenizer. Raises JslmError where `vocab_size` has no room for the 256 bytes, where there is no text, or where a
        special token is bad.
        """
        n_special = len(special_token_ids([END_OF_TEXT], special_tokens, first_id=0))
        check_vocab_size(vocab_size, n_special)
        n_characters = 0

        def pieces() -> Iterator[str]:
            nonlocal n_characters
            for text in texts:
                n_characters += len(text)
                for piece in split_before_spaces(replace_surrogates(text), _PIECE_LENGTH):
                    yield from split_long_words(piece)

        library = _library_tokenizer({}, [])
        trainer = trainers.BpeTrainer(
            # Learnt without the special tokens: one spelled like a word would share that word's id.
            vocab_size=vocab_size - n_special,
            min_frequency=2,
            initial_alphabet=sorted(byte_spelling().values()),
            show_progress=False,
        )
        library.train_from_iterator(pieces(), trainer)
        if not n_characters:
            raise JslmError("tokenizer.kind = 'bpe': the corpus has no text to learn from; see data.source")
        return cls(*_tokens_and_merges(json.loads(library.to_str())), special_tokens)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> BpeTokenizer:
        """The tokenizer of a saved file's JSON object."""
        extra = extra_special_tokens(fields, [END_OF_TEXT])
        model = fields["tokenizers"]["model"]
        words = {token: index for token, index in model["vocab"].items() if token not in fields["special_tokens"]}
        if sorted(words.values()) != list(range(1 + len(extra), 1 + len(extra) + len(words))):
            raise ValueError("the ids of the vocabulary have gaps")
        return cls(*_tokens_and_merges({"model": {"vocab": words, "merges": model["merges"]}}), extra)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, by the library's threads (`TOKENIZERS_PARALLELISM=false` turns them off)."""
        return encode_in_pieces(texts, _split, self._encode_all)

    def tokenizers_json(self) -> str:
        """The same vocabulary as a `tokenizer.json` that `tokenizers` and `transformers` read.

        Those turn the spelling of a special token into its id, as `encode(..., allow_special=True)` does.
        """
        library = _library_tokenizer(self._special_tokens | self._vocab, self._merges)
        library.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in self._special_tokens])
        return library.to_str()

    def _encode_ordinary(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def _encode_all(self, texts: list[str]) -> list[list[int]]:
        return [found.ids for found in self._library.encode_batch_fast(texts, add_special_tokens=False)]

    def _fields(self) -> dict[str, Any]:
        return {"tokenizers": json.loads(self.tokenizers_json())}

    def _identity(self) -> Iterator[bytes]:
        yield from super()._identity()
        for left, right in self._merges:
            yield left.encode()
            yield right.encode()


def check_vocab_size(vocab_size: int, n_special: int) -> None:
    """Raises JslmError where it has no room for the 256 bytes and the special tokens."""
    if vocab_size < 256 + n_special:
        raise JslmError(
            f"tokenizer.vocab_size = {vocab_size} has no room for the 256 bytes and {n_special} special token(s); "
            f"use at least {256 + n_special}"
        )


def _split(text: str) -> list[str]:
    return list(split_before_spaces(replace_surrogates(text), _PIECE_LENGTH))


def _library_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> LibraryTokenizer:
    try:
        library = LibraryTokenizer(models.BPE(vocab=vocab, merges=merges))
    except Exception as error:
        # The library raises bare Exception where a merge names a piece that is no token.
        raise ValueError(f"{error}") from error
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    library.decoder = decoders.ByteLevel()
    return library


def _tokens_and_merges(library: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens in the order of their ids, and merges by rank, from the library's JSON."""
    vocab = library["model"]["vocab"]
    return sorted(vocab, key=vocab.__getitem__), [(left, right) for left, right in library["model"]["merges"]]


@functools.cache
def byte_spelling() -> dict[int, str]:
    """GPT-2's printable character for each byte: itself where Latin-1 prints it, else the next one from U+0100 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
