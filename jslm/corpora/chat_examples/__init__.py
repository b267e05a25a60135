"""Small conversations without end: what a tiny model learns to chat and to follow instructions from.

jslm corpora chat-examples --count 10 --seed 1
jslm corpora chat-examples --count 20000 --out chat.jsonl
"""

from __future__ import annotations

from jslm.corpora.chat_examples.generate import KINDS, Example, generate_examples

__all__ = ["KINDS", "Example", "generate_examples"]
