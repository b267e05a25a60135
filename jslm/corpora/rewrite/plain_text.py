"""Plain English for the model that the rewriter starts from: stories and sentences, without any held-out noun.

Held-out verbs are in it as in any English, in active sentences of their own: a speller may know that there is a verb
"ignore" before it meets "ignored". What no training text has is a passive of theirs, or a pair.
"""

from __future__ import annotations

import itertools
import re
import string
from collections.abc import Iterator

from jslm.corpora.rewrite.generate import generate_pairs
from jslm.corpora.rewrite.lexicon import held_out_forms
from jslm.corpora.stories import generate_stories

_SENTENCES_A_DOCUMENT = 4
# Of so many documents of sentences, one has held-out verbs.
_HELD_OUT_ONE_OF = 5
# Every character that a keyboard writes, so that a tokenizer made from this text knows them all.
_ALPHABET = "".join(char for char in string.printable if char not in "\r\x0b\x0c")


def plain_text(megabytes: float, seed: int = 0) -> Iterator[str]:
    """Documents of about that much text (10**6 characters each): half stories, half sentences, most in both voices.

    The first document is the alphabet. Always the same for a seed.
    """
    yield _ALPHABET
    left = megabytes * 1e6
    documents = _sentences(seed)
    held_out = held_out_forms()
    for story in generate_stories(megabytes, seed):
        if held_out.isdisjoint(re.findall("[a-z]+", story.text.lower())):
            yield story.text
            left -= len(story.text)
        written = 0
        while written < len(story.text) and left > 0:
            text = next(documents)
            yield text
            written += len(text)
        left -= written
        if left <= 0:
            return


def _sentences(seed: int) -> Iterator[str]:
    both_voices = generate_pairs(seed=seed, split="wide")
    held_out = generate_pairs(seed=seed, split="verb", direction="to_active")
    for number in itertools.count():
        if number % _HELD_OUT_ONE_OF:
            drawn = itertools.islice(both_voices, _SENTENCES_A_DOCUMENT)
            yield "\n".join(f"{pair.source}\n{pair.target}" for pair in drawn)
        else:
            yield "\n".join(pair.target for pair in itertools.islice(held_out, 2 * _SENTENCES_A_DOCUMENT))
