"""SentencePiece's BPE as llama2.c runs it: pieces with scores, and 256 bytes for what they lack.

Encoding follows `encode` of llama2.c's `run.c`; Kudo and Richardson 2018, "SentencePiece".
"""

from __future__ import annotations

import functools
import heapq
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from jslm.tokenizer.base import Tokenizer, replace_surrogates

_SPECIAL_TOKENS = {"<unk>": 0, "<s>": 1, "</s>": 2}
_BYTES = len(_SPECIAL_TOKENS)
_ORDINARY = _BYTES + 256
# run.c starts its search for the best pair here.
_LOWEST_SCORE = -1e10
_WORD = re.compile(r" *[^ ]+| +")
_CACHED_WORDS, _CACHED_LENGTH = 2**16, 64


class SentencePieceTokenizer(Tokenizer):
    """`<unk>` is 0, `<s>` 1, `</s>` 2, then the 256 bytes as `<0x00>` to `<0xFF>`, then the pieces.

    A space goes before each text, and `decode` takes it away again. `<s>` begins a document and `end_of_text` closes
    it: `</s>`, or `<s>` for models that saw nothing else between documents, as those of llama2.c.
    """

    kind = "sentencepiece"
    leading_space = True

    def __init__(self, pieces: Sequence[str], scores: Sequence[float], *, end_of_text: str = "</s>") -> None:
        """`pieces[id]` with plain spaces, as in llama2.c's `tokenizer.bin`, and the float32 score of each.

        Raises ValueError where the special tokens or the bytes are not where they belong, a piece is empty, a score is
        not finite, or `end_of_text` is neither `</s>` nor `<s>`.
        """
        _check(pieces, scores)
        if end_of_text not in ("<s>", "</s>"):
            raise ValueError(f"end_of_text is {end_of_text!r}; expected '</s>' or '<s>'")
        control = [name.encode() for name in _SPECIAL_TOKENS]
        ordinary = [piece.encode() for piece in pieces[_ORDINARY:]]
        super().__init__([*control, *(bytes([byte]) for byte in range(256)), *ordinary], _SPECIAL_TOKENS)
        self.pieces = list(pieces)
        self.scores = [float(score) for score in np.asarray(scores, np.float32)]
        self._end_of_text = end_of_text
        # Backwards, so that the first of two equal pieces wins.
        self._ids = {pieces[token]: token for token in range(len(pieces) - 1, _ORDINARY - 1, -1)}
        # Where no piece goes on after a space, no pair is joined across the start of a word.
        self._has_words = not any(re.search("[^ ] ", piece) for piece in self._ids)
        self._encode_cached = functools.lru_cache(_CACHED_WORDS)(self._encode_word)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> SentencePieceTokenizer:
        """The tokenizer of a saved file's JSON object."""
        return cls(fields["pieces"], fields["scores"], end_of_text=fields["end_of_text"])

    @property
    def bos_id(self) -> int:
        """The id of `<s>`, which begins a document."""
        return self._special_tokens["<s>"]

    @property
    def eot_id(self) -> int:
        """The id that closes a document."""
        return self._special_tokens[self._end_of_text]

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`, which gets a space before it unless it begins with a special token."""
        if not allow_special:
            return self._encode_ordinary(text)
        first, *rest = self._special_pattern.split(text)
        ids = self._encode_ordinary(first)
        # The pattern's one group makes every second part a special token.
        for name, part in zip(rest[::2], rest[1::2], strict=True):
            ids += [self._special_tokens[name], *self._encode_plain(part)]
        return ids

    def _encode_ordinary(self, text: str) -> list[int]:
        return self._encode_plain(f" {text}") if text else []

    def _encode_plain(self, text: str) -> list[int]:
        text = replace_surrogates(text)
        words = _WORD.findall(text) if self._has_words else [text]
        return list(chain.from_iterable(map(self._encode_either_way, words)))

    def _encode_either_way(self, word: str) -> tuple[int, ...]:
        return self._encode_cached(word) if len(word) <= _CACHED_LENGTH else self._encode_word(word)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        """Joins, again and again, the two neighbours that make the piece of the best score, the leftmost of equals."""
        symbols: list[str | None] = list(word)
        before, after = list(range(-1, len(word) - 1)), list(range(1, len(word) + 1))
        queue: list[tuple[float, int, str]] = []

        def propose(left: int) -> None:
            right = after[left] if left >= 0 else len(symbols)
            # A character that is no piece is bytes from the start, which join to nothing.
            if right < len(symbols) and symbols[left] in self._ids and symbols[right] in self._ids:
                joined = f"{symbols[left]}{symbols[right]}"
                token = self._ids.get(joined)
                if token is not None and self.scores[token] > _LOWEST_SCORE:
                    heapq.heappush(queue, (-self.scores[token], left, joined))

        for left in range(len(symbols)):
            propose(left)
        while queue:
            _, left, joined = heapq.heappop(queue)
            right = after[left]
            # Either of the two may have been joined to another since.
            if symbols[left] is None or right == len(symbols) or f"{symbols[left]}{symbols[right]}" != joined:
                continue
            symbols[left], symbols[right] = joined, None
            after[left] = after[right]
            if after[left] < len(symbols):
                before[after[left]] = left
            propose(before[left])
            propose(left)
        return tuple(chain.from_iterable(map(self._ids_of, filter(None, symbols))))

    def _ids_of(self, symbol: str) -> tuple[int, ...]:
        token = self._ids.get(symbol)
        return (token,) if token is not None else tuple(_BYTES + byte for byte in symbol.encode())

    def _fields(self) -> dict[str, Any]:
        return {"pieces": self.pieces, "scores": self.scores, "end_of_text": self._end_of_text}

    def _identity(self) -> Iterator[bytes]:
        yield from super()._identity()
        yield np.asarray(self.scores, "<f4").tobytes()
        yield self._end_of_text.encode()


def _check(pieces: Sequence[str], scores: Sequence[float]) -> None:
    if len(pieces) != len(scores):
        raise ValueError(f"{len(pieces)} pieces, but {len(scores)} scores")
    # llama2.c puts line breaks around <s> and </s>.
    expected = [*_SPECIAL_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
    for token, name in enumerate(expected):
        found = pieces[token] if token < len(pieces) else "missing"
        if (found.strip() if token < _BYTES else found) != name:
            raise ValueError(f"token {token} is {found!r}; expected {name!r}")
    if "" in pieces:
        raise ValueError(f"token {pieces.index('')} is empty")
    for token, score in enumerate(scores):
        if not math.isfinite(score):
            raise ValueError(f"the score of token {token} is {score}; expected a number")
