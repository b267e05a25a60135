"""What the card of a Hugging Face folder says of its format."""

from __future__ import annotations

from jslm.formats.card import Card
from jslm.formats.card import model_card as whole_card
from jslm.runs.bundle import Bundle


def model_card(bundle: Bundle, family: str, dtype: str) -> str:
    """The card (`README.md`) of the folder: `family` is the architecture, `dtype` the type of all tensors."""
    warning = (
        "For onnxruntime and onnxruntime-genai, export the run with `jslm convert export RUN_DIR DIR --format onnx`. "
        "The model builder of onnxruntime-genai (0.18) must not be used on this folder: it takes any layer whose width "
        "equals the vocabulary for the head, and leaves linear scaling of positions out, without a word."
    )
    kind = f"of the {'GPT-2' if family == 'gpt2' else family.capitalize()} architecture"
    return whole_card(bundle, Card("hf", kind, dtype, sections=[("ONNX", warning)]))
