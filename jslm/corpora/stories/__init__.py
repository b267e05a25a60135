"""Short children's stories whose exact probability is known: the corpus of `make quickstart`.

    jslm corpora stories --count 3 --seed 1
    jslm corpora stories --megabytes 20 --out stories.jsonl

A model trained on them can be held against the truth: its bits per byte against the grammar's entropy, its samples
against `check_story`.
"""

from __future__ import annotations

from jslm.corpora.stories.check import check_story
from jslm.corpora.stories.generate import (
    Facts,
    Story,
    generate_stories,
    generate_story,
    story_bits,
)

__all__ = [
    "Facts",
    "Story",
    "check_story",
    "generate_stories",
    "generate_story",
    "story_bits",
]
