"""Plain English for the model that the rewriter starts from: stories and sentences, without any held-out word."""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterator

from jslm.data.rewrite.generate import generate_pairs
from jslm.data.rewrite.lexicon import held_out_forms
from jslm.data.stories import generate_stories

_SENTENCES_A_DOCUMENT = 4
# Every character that a keyboard writes, so that a tokenizer made from this text knows them all.
_ALPHABET = "".join(char for char in string.printable if char not in "\r\x0b\x0c")


def plain_text(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documents of about that much text (10**6 characters each): half stories, half sentences in both voices.

    The first document is the alphabet. Always the same for a seed.
    """
    yield _ALPHABET
    left = megabytes * 1e6
    pairs = generate_pairs(seed=seed, split="wide")
    held_out = held_out_forms()
    for story in generate_stories(megabytes, seed):
        if held_out.isdisjoint(re.findall("[a-z]+", story.text.lower())):
            yield story.text
            left -= len(story.text)
        written = 0
        while written < len(story.text) and left > 0:
            drawn = itertools.islice(pairs, _SENTENCES_A_DOCUMENT)
            text = "\n".join(f"{pair.source}\n{pair.target}" for pair in drawn)
            yield text
            written += len(text)
        left -= written
        if left <= 0:
            return
