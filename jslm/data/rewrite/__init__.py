"""Passive and active English sentence pairs, without end: what a sentence rewriter learns from and is measured on.

jslm data rewrite --count 10 --seed 1
jslm data rewrite --count 400000 --out train.jsonl
jslm data rewrite --count 5000 --split verb --out held_out_verbs.jsonl
jslm data rewrite --text 10 --out text.jsonl
"""

from __future__ import annotations

from jslm.data.rewrite.generate import CATEGORIES, DIRECTIONS, Pair, generate_pairs
from jslm.data.rewrite.grammar import STYLES
from jslm.data.rewrite.lexicon import SPLITS, held_out_forms, held_out_nouns, held_out_verbs
from jslm.data.rewrite.plain_text import plain_text
from jslm.data.rewrite.words import DOMAINS

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
