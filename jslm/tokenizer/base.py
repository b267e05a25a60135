"""What every tokenizer is: a table of byte pieces, some special tokens, and one way from text to ids."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int32, UInt32

from jslm.errors import JslmError
from jslm.files import write_text

END_OF_TEXT = "<|endoftext|>"
FILE_FORMAT = "jslm-tokenizer"
FILE_VERSION = 1


class Tokenizer(ABC):
    """Text to ids and back. Immutable, picklable, and safe to share between threads.

    `decode(encode(text)) == text` for every text, with three exceptions: `char` has characters it never saw
    (`unknown_characters`), a lone surrogate, which UTF-8 cannot hold, becomes U+FFFD, and tokenizers from elsewhere
    (`hf`) may normalise text.
    """

    kind: ClassVar[str]
    # Where a text may be cut so that its parts, encoded one by one, give the ids of the whole.
    cuts: ClassVar[Literal["anywhere", "before_spaces", "nowhere"]] = "nowhere"
    # Whether `bos_id` goes before a prompt that begins a document; tokenizers from elsewhere may leave it out.
    adds_bos: bool = True
    # Whether `encode` puts a space before a text, which `decode` takes away again.
    leading_space: bool = False
    # Words that are one token wherever a text has them, though no special one; tokenizers from elsewhere have such.
    added_words: frozenset[str] = frozenset()

    def __init__(self, pieces: Sequence[bytes], special_tokens: Mapping[str, int]) -> None:
        """`pieces[id]` is the UTF-8 text (or the part of it) that `id` stands for, special tokens included."""
        self._pieces = list(pieces)
        self._special_tokens = dict(special_tokens)
        self._special_names = {token: name for name, token in special_tokens.items()}
        self._control_ids = frozenset(special_tokens.values())
        # The longest first, so that `<|a|>` does not win over `<|a|>b` where both are special.
        names = sorted(special_tokens, key=lambda name: (-len(name), name))
        # Without any, a pattern that matches nothing: an empty one matches everywhere.
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, names)) or '(?!)'})")

    @property
    def vocab_size(self) -> int:
        """The number of ids, special tokens included and padding not."""
        return len(self._pieces)

    @property
    def special_tokens(self) -> dict[str, int]:
        """Special tokens and their ids."""
        return dict(self._special_tokens)

    @property
    def eot_id(self) -> int:
        """The id that ends a document: `<|endoftext|>`, or what a tokenizer from elsewhere has for it."""
        return self._special_tokens[END_OF_TEXT]

    @property
    def bos_id(self) -> int:
        """The id that begins a document: the one that ended the document before, unless there is one of its own."""
        return self.eot_id

    @property
    def named_tokens(self) -> dict[str, str]:
        """The spellings of the tokens that begin and end a document: `bos_token`, `eos_token`, those that there are."""
        ids = {"bos_token": self.bos_id, "eos_token": self.eot_id}
        return {key: self._special_names[token] for key, token in ids.items() if token in self._special_names}

    def encode(self, text: str, *, allow_special: bool = False) -> list[int]:
        """Ids of `text`. The spelling of a special token is ordinary text unless `allow_special`."""
        if not allow_special:
            return self._encode_ordinary(text)
        ids: list[int] = []
        for index, part in enumerate(self._special_pattern.split(text)):
            # The pattern's one group makes every second part a special token.
            if index % 2:
                ids.append(self._special_tokens[part])
            elif part:
                ids.extend(self._encode_ordinary(part))
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, as `encode` without special tokens gives them; in parallel where the library can."""
        return [self._encode_ordinary(text) for text in texts]

    def encode_arrays(self, texts: Sequence[str]) -> list[UInt32[np.ndarray, " ids"]]:
        """`encode_batch` as vectors, which some libraries give without the Python list in between."""
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts)]

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of `ids`; bytes that are no valid UTF-8 become U+FFFD, as in `bytes.decode(errors="replace")`.

        Raises JslmError where an id is outside the vocabulary.
        """
        text = self.decode_bytes(ids, skip_special=skip_special).decode("utf-8", errors="replace")
        return text.removeprefix(" ") if self.leading_space else text

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False) -> bytes:
        """Bytes of `ids` (a list, or a numpy or JAX vector), which may start or end inside a character.

        They may be any part of a text: a leading space stays.

        Raises JslmError where an id is outside the vocabulary.
        """
        # One transfer for an array: iterating over a JAX array makes a device read for each element.
        numbers = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if numbers and (min(numbers) < 0 or max(numbers) >= self.vocab_size):
            self._check_id(next(token for token in numbers if not 0 <= token < self.vocab_size))
        if skip_special:
            numbers = [token for token in numbers if token not in self._control_ids]
        return b"".join(map(self._pieces.__getitem__, numbers))

    def token_bytes(self) -> Int32[np.ndarray, " vocab_size"]:
        """UTF-8 bytes of text that each id stands for; 0 for special tokens. Bits per byte divides by these."""
        lengths = np.fromiter(map(len, self._pieces), dtype=np.int32, count=self.vocab_size)
        lengths[sorted(self._control_ids)] = 0
        return lengths

    def id_to_token(self, token: int) -> str:
        r"""One id for people to read: control characters escaped (`\n`), part of a character as `\xNN`.

        Raises JslmError where the id is outside the vocabulary.
        """
        self._check_id(token)
        if token in self._special_names:
            return self._special_names[token]
        text = self._pieces[token].decode("utf-8", errors="backslashreplace")
        return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)

    def unknown_characters(self, text: str) -> list[str]:
        """The distinct characters of `text` that `encode` cannot represent, sorted; only `char` has any."""
        del text
        return []

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a SHA-256 over all that decides how text maps to ids, and nothing else.

        Equal after save and load, and on every machine and library version; different where any id may differ.
        """
        digest = hashlib.sha256()
        for part in self._identity():
            # The length goes before each part, so that ("ab", "c") and ("a", "bc") differ.
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        return digest.hexdigest()[:16]

    def to_json(self) -> str:
        """The whole tokenizer as one JSON object, which `tokenizer_from_json` reads."""
        fields = {
            "format": FILE_FORMAT,
            "version": FILE_VERSION,
            "kind": self.kind,
            "vocab_size": self.vocab_size,
            "fingerprint": self.fingerprint,
            "special_tokens": self._special_tokens,
        }
        return json.dumps(fields | self._fields(), ensure_ascii=False) + "\n"

    def save(self, path: str | PathLike[str]) -> None:
        """Writes `to_json()` to `path`; a reader sees the old file or the new one, never a half.

        Raises JslmError where the file cannot be written.
        """
        write_text(Path(path), self.to_json())

    @classmethod
    @abstractmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> Tokenizer:
        """The tokenizer of a saved file's JSON object. Raises KeyError, TypeError, ValueError or JslmError."""

    @abstractmethod
    def _encode_ordinary(self, text: str) -> list[int]:
        """Ids of text without special tokens."""

    def _fields(self) -> dict[str, Any]:
        """What a saved file holds besides the common keys."""
        return {}

    def _identity(self) -> Iterator[bytes]:
        """The parts that the fingerprint is made of; a subclass adds what else decides its mapping."""
        yield from self._identity_of(self._special_names)

    def _identity_of(self, special_names: Mapping[int, str]) -> Iterator[bytes]:
        yield b"jslm tokenizer fingerprint 1"
        yield self.kind.encode()
        yield str(len(special_names)).encode()
        for token, name in sorted(special_names.items()):
            yield f"{token} {name}".encode()
        yield str(len(self._pieces)).encode()
        yield from self._pieces

    def _check_id(self, token: int) -> None:
        if not 0 <= token < self.vocab_size:
            raise JslmError(
                f"token id {token} is outside the vocabulary of {self.vocab_size} (ids 0 to {self.vocab_size - 1}); "
                "these ids come from another tokenizer, or from a model's padded vocabulary"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}(vocab_size={self.vocab_size}, fingerprint={self.fingerprint!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        # Worker processes get the saved form: neither library promises a stable pickle.
        from jslm.tokenizer.build import tokenizer_from_json

        return tokenizer_from_json, (self.to_json(),)


def special_token_ids(always: Sequence[str], extra: Sequence[str], first_id: int) -> dict[str, int]:
    """Ids from `first_id` on for `always` and then `extra`, the user's `tokenizer.special_tokens`, in order.

    Raises JslmError for an empty name, one that comes twice, or one that is no valid Unicode.
    """
    names = [*always, *extra]
    for index, name in enumerate(names):
        where = f"tokenizer.special_tokens: {name!r}"
        if not name:
            raise JslmError(f"{where} is empty; give it a spelling such as '<|user|>', or remove it")
        if has_surrogates(name):
            raise JslmError(f"{where} holds a lone surrogate, which UTF-8 cannot store; spell it without")
        if name in names[:index]:
            reason = "is always there" if name in always else "comes twice"
            raise JslmError(f"{where} {reason}; list each extra special token once")
    return {name: first_id + index for index, name in enumerate(names)}


def extra_special_tokens(fields: Mapping[str, Any], always: Sequence[str]) -> list[str]:
    """The user's special tokens of a saved file, in the order of their ids. Raises KeyError or TypeError."""
    saved = fields["special_tokens"]
    return [name for name in sorted(saved, key=saved.__getitem__) if name not in always]


def replace_surrogates(text: str) -> str:
    """`text` that UTF-8 can store: surrogate pairs joined, each lone surrogate replaced by U+FFFD.

    Python strings get them from `errors="surrogateescape"` and from JSON's `\\ud800`; the libraries refuse them.
    """
    if not has_surrogates(text):
        return text
    return text.encode("utf-16-le", errors="surrogatepass").decode("utf-16-le", errors="replace")


def has_surrogates(text: str) -> bool:
    """Whether UTF-8 cannot store `text`."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
