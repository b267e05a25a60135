"""Passive and active English sentence pairs, without end: what a sentence rewriter learns from and is measured on.

jslm corpora rewrite --count 10 --seed 1
jslm corpora rewrite --count 400000 --out train.jsonl
jslm corpora rewrite --count 5000 --split verb --out held_out_verbs.jsonl
jslm corpora rewrite --text 10 --out text.jsonl
"""

from __future__ import annotations

from jslm.corpora.rewrite.generate import CATEGORIES, DIRECTIONS, Pair, generate_pairs
from jslm.corpora.rewrite.grammar import STYLES
from jslm.corpora.rewrite.lexicon import SPLITS, held_out_forms, held_out_nouns, held_out_verbs
from jslm.corpora.rewrite.plain_text import plain_text
from jslm.corpora.rewrite.words import DOMAINS

__all__ = [
    "CATEGORIES",
    "DIRECTIONS",
    "DOMAINS",
    "SPLITS",
    "STYLES",
    "Pair",
    "generate_pairs",
    "held_out_forms",
    "held_out_nouns",
    "held_out_verbs",
    "plain_text",
]
