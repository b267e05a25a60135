"""One id a byte: nothing to learn, nothing unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jslm.tokenizer.base import END_OF_TEXT, Tokenizer, extra_special_tokens, replace_surrogates, special_token_ids


class ByteTokenizer(Tokenizer):
    """Ids 0 to 255 are the bytes of UTF-8 text, 256 is `<|endoftext|>`, and the extra special tokens follow."""

    kind = "byte"
    cuts = "anywhere"

    def __init__(self, special_tokens: Sequence[str] = ()) -> None:
        """`special_tokens` are extra ones. Raises JslmError where one is empty or comes twice."""
        special = special_token_ids([END_OF_TEXT], special_tokens, first_id=256)
        super().__init__([*(bytes([byte]) for byte in range(256)), *(name.encode() for name in special)], special)

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> ByteTokenizer:
        """The tokenizer of a saved file's JSON object."""
        return cls(extra_special_tokens(fields, [END_OF_TEXT]))

    def _encode_ordinary(self, text: str) -> list[int]:
        return list(replace_surrogates(text).encode("utf-8"))
