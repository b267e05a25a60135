"""Text as the ids come."""

from __future__ import annotations

import codecs
from collections.abc import Iterable

from jslm.tokenizer.base import Tokenizer


class StreamDecoder:
    """Decodes ids bit by bit and holds back the bytes of a character until it is whole.

    All that `push` and the last `finish` return, joined, equals `tokenizer.decode` of all the ids, invalid UTF-8
    included.
    """

    def __init__(self, tokenizer: Tokenizer, *, skip_special: bool = False, begins_text: bool = True) -> None:
        """`skip_special` leaves special tokens out, as in `Tokenizer.decode`.

        `begins_text`: the ids are a text from its start, and not what follows another's end.
        """
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._begins_text = begins_text
        self._drops_space = begins_text and tokenizer.leading_space
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """The text that is certain now, often empty. Raises JslmError where an id is outside the vocabulary."""
        text = self._decoder.decode(self._tokenizer.decode_bytes(ids, skip_special=self._skip_special))
        if text and self._drops_space:
            self._drops_space = False
            return text.removeprefix(" ")
        return text

    def finish(self) -> str:
        """What was held back: U+FFFD where the ids ended inside a character. The decoder can then be used anew."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._drops_space = self._begins_text and self._tokenizer.leading_space
        return rest
