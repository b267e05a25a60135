"""Cutting long texts where GPT-2's pre-tokenisation would cut them anyway, so that the ids stay the same.

The pattern (Radford et al. 2019, section 2.2) never joins a character to white space after it, and looks behind
nothing: text can be cut before any white space that follows something else.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice, pairwise

# Unicode's White_Space, which is what `\s` means to both libraries; Python's `\s` also has U+001C to U+001F.
_WHITE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BEFORE_SPACE = re.compile(r"\S(?=[ \n])")
_RUN_LIMIT = 200_000
_LONG_RUN = re.compile(rf"[{_WHITE}]{{{_RUN_LIMIT},}}")
_WORD_LIMIT = 2048
# Anchored to the start of a word or gap: without, each of its characters would be tried as one.
_LONG_WORD = re.compile(rf"(?<!\S)\S{{{_WORD_LIMIT + 1},}}|(?<!\s)\s{{{_WORD_LIMIT + 1},}}")


def encode_in_pieces(
    texts: Sequence[str], split: Callable[[str], list[str]], encode_all: Callable[[list[str]], list[list[int]]]
) -> list[list[int]]:
    """Ids of each text by one `encode_all` call over the pieces of all of them."""
    pieces = [split(text) for text in texts]
    encoded = iter(encode_all(list(chain.from_iterable(pieces))))
    return [next(encoded) if len(part) == 1 else list(chain(*islice(encoded, len(part)))) for part in pieces]


def split_before_spaces(text: str, length: int) -> Iterator[str]:
    """Cuts `text` into pieces of `length` characters or a little more; together they encode as `text` does."""
    start = 0
    while len(text) - start > length and (match := _BEFORE_SPACE.search(text, start + length - 1)):
        yield text[start : match.end()]
        start = match.end()
    yield text[start:]


def split_long_runs(text: str) -> list[str]:
    """Cuts runs of white space of over 400,000 before their last character; the pieces encode as `text` does.

    `\\s+(?!\\S)` takes the run less that character, but tiktoken's regex engine gives up after a million steps.
    """
    # A long run fills at least one aligned block; asking each block costs less than a pass of the pattern.
    starts = range(0, len(text), _RUN_LIMIT)
    if len(text) < 2 * _RUN_LIMIT or not any(text[i : i + _RUN_LIMIT].isspace() for i in starts):
        return [text]
    inner_runs = (match for match in _LONG_RUN.finditer(text) if match.end() < len(text))
    cuts = [0, *(match.end() - 1 for match in inner_runs), len(text)]
    return [text[start:end] for start, end in pairwise(cuts)]


def split_long_words(text: str) -> Iterator[str]:
    """Cuts words and gaps of over 2,048 characters, for training alone: the ids of such a text do change.

    The trainer's time grows with the square of a word's length (2 s for 60,000 characters, minutes for a million),
    and nothing in base64 or a ruler of dashes deserves a token that long.
    """
    start = 0
    for word in _LONG_WORD.finditer(text):
        for cut in range(word.start() + _WORD_LIMIT, word.end(), _WORD_LIMIT):
            yield text[start:cut]
            start = cut
    yield text[start:]
