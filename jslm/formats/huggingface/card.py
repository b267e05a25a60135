"""What the card of a Hugging Face folder says of its format."""

from __future__ import annotations

from jslm.formats.card import Card
from jslm.formats.card import model_card as whole_card
from jslm.runs.bundle import Bundle


def model_card(bundle: Bundle, family: str, dtype: str) -> str:
    """The card (`README.md`) of the folder: `family` is the architecture, `dtype` the type of all tensors."""
    kind = f"of the {'GPT-2' if family == 'gpt2' else family.capitalize()} architecture"
    return whole_card(bundle, Card("hf", kind, dtype))
