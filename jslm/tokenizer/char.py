"""One id a character of the corpus."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt32

from jslm.errors import JslmError
from jslm.tokenizer.base import END_OF_TEXT, Tokenizer, extra_special_tokens, has_surrogates, special_token_ids

UNKNOWN = "<|unk|>"


class CharTokenizer(Tokenizer):
    """`<|endoftext|>` is 0, `<|unk|>` is 1, the extra special tokens follow, then the characters in code point order.

    A character that the corpus did not have becomes `<|unk|>`, which decodes as U+FFFD, even where special tokens are
    skipped: it stands for text. `unknown_characters` tells which they are.
    """

    kind = "char"
    cuts = "anywhere"

    def __init__(self, characters: Iterable[str], special_tokens: Sequence[str] = ()) -> None:
        """`characters` is the alphabet in any order; `special_tokens` are extra ones.

        Raises JslmError where a special token is empty or comes twice.
        """
        special = special_token_ids([END_OF_TEXT, UNKNOWN], special_tokens, first_id=0)
        self._unknown_id = special[UNKNOWN]
        self._characters = sorted(char for char in set(characters) if not has_surrogates(char))
        pieces = [name.encode() for name in special] + [char.encode() for char in self._characters]
        pieces[self._unknown_id] = "\N{REPLACEMENT CHARACTER}".encode()
        super().__init__(pieces, special)
        self._control_ids -= {self._unknown_id}

        code_points = [ord(char) for char in self._characters]
        # One slot past the last character catches every code point above it.
        self._table = np.full(max(code_points, default=-1) + 2, self._unknown_id, dtype=np.int32)
        self._table[code_points] = np.arange(len(special), self.vocab_size, dtype=np.int32)

    @classmethod
    def train(cls, texts: Iterable[str], special_tokens: Sequence[str] = ()) -> CharTokenizer:
        """A tokenizer of the characters in `texts`. Raises JslmError where there are none."""
        characters: set[str] = set()
        for text in texts:
            characters.update(text)
        if not characters:
            raise JslmError("tokenizer.kind = 'char': the corpus has no text to take characters from; see data.source")
        return cls(characters, special_tokens)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> CharTokenizer:
        """The tokenizer of a saved file's JSON object."""
        return cls(fields["characters"], extra_special_tokens(fields, [END_OF_TEXT, UNKNOWN]))

    def unknown_characters(self, text: str) -> list[str]:
        """The distinct characters of `text` that `encode` turns into `<|unk|>`, sorted."""
        code_points = _code_points(text)
        unknown = np.unique(code_points[self._lookup(code_points) == self._unknown_id])
        return [chr(code_point) for code_point in unknown]

    def token_bytes(self) -> Int32[np.ndarray, " vocab_size"]:
        """UTF-8 bytes of each id; 0 for special tokens, 1 for `<|unk|>`, whose true length nobody knows."""
        lengths = super().token_bytes()
        lengths[self._unknown_id] = 1
        return lengths

    def _encode_ordinary(self, text: str) -> list[int]:
        ids: list[int] = self._lookup(_code_points(text)).tolist()
        return ids

    def _lookup(self, code_points: UInt32[np.ndarray, " length"]) -> Int32[np.ndarray, " length"]:
        ids: Int32[np.ndarray, " length"] = self._table[np.minimum(code_points, len(self._table) - 1)]
        return ids

    def _fields(self) -> dict[str, Any]:
        return {"characters": "".join(self._characters)}


def _code_points(text: str) -> UInt32[np.ndarray, " length"]:
    # A Python loop over the characters takes four times as long.
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), dtype="<u4")
