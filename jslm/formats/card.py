"""The model card: one writer for every format that writes a folder, and for what is pushed to a hub.

What only people know comes from the config's `[card]`; what is unset there is named as not said, and nothing is made
up. The front matter is YAML in its subset JSON, as the Hugging Face Hub reads it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jslm.formats.running import ways_to_run
from jslm.model import count_parameters
from jslm.runs.bundle import Bundle

CARD_NAME = "README.md"
_FIGURES = {
    "val/loss": ("Validation loss", "nats a token"),
    "val/perplexity": ("Validation perplexity", ""),
    "val/bits_per_byte": ("Validation bits per byte", ""),
    "val/tokens": ("Validation tokens", ""),
    "val/accuracy": ("Chosen answer preferred", "of held-out preferences"),
    "val/margin": ("Reward margin of the chosen answer", ""),
    "val/pairs": ("Held-out preferences", ""),
    "steps": ("Optimizer steps", ""),
    "tokens_seen": ("Training tokens seen", ""),
    "train_seconds": ("Training time", "s"),
}
# Keys of `[card]`, and what they are called where they are not set.
_ASKED = {
    "description": "what it is",
    "use": "what it is for",
    "data": "the text it learned from and its terms",
    "license": "its licence",
    "language": "its languages",
    "authors": "who made it",
}
_MAX_SAMPLE = 2000
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class Card:
    """What a format adds to the card of a model.

    `format`: jslm's name of the format, whose way to run goes first. `kind`: the model in a few words, such as "of the
    Llama architecture". `weights`: their type. `library`: who opens the files, as the Hub calls it. `tags`: further
    ones. `sections`: (title, Markdown) of the format's own. `cost`: what quantisation cost, in words; empty where it
    was not measured, or nothing was rounded.
    """

    format: str
    kind: str
    weights: str
    library: str = "transformers"
    tags: Sequence[str] = ()
    sections: Sequence[tuple[str, str]] = ()
    cost: str = ""


def model_card(bundle: Bundle, card: Card) -> str:
    """Markdown with what is known of the model: what people said, its shape, figures, a sample, how to run it."""
    said = bundle.config.card
    left_out = [f"{words} (`card.{key}`)" for key, words in _ASKED.items() if not getattr(said, key)]
    title = Path(bundle.source).name or "model"
    parts = [
        _front_matter(bundle, card),
        f"# {title}",
        said.description or f"A small language model {card.kind}.",
        *([f"A model {card.kind}."] if said.description else []),
        *_section("What it is for", said.use),
        "## Data and licence",
        said.data,
        _trained_on(bundle),
        f"Licence: `{said.license}`." if said.license else "",
        f"Made by {', '.join(said.authors)}." if said.authors else "",
        f"Not said by whoever made this model: {'; '.join(left_out)}." if left_out else "",
        "## The model",
        _table(bundle, card.weights),
        "Losses are means over the tokens of the whole validation split; padding does not count."
        if "val/loss" in bundle.figures
        else "",
        f"What rounding the weights cost: {card.cost}" if card.cost else "",
        *(part for title, text in card.sections for part in _section(title, text)),
        *_section("A sample", _sample(bundle)),
        "## How to run it",
        *ways_to_run(bundle, card.format),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _section(title: str, text: str) -> list[str]:
    return [f"## {title}", text] if text else []


def _front_matter(bundle: Bundle, card: Card) -> str:
    said = bundle.config.card
    fields: dict[str, object] = {"library_name": card.library, "pipeline_tag": "text-generation"}
    if said.license:
        fields["license"] = said.license
    if said.language:
        fields["language"] = said.language
    fields["tags"] = ["jslm", *card.tags]
    # JSON is YAML, and needs no rules of quoting of its own.
    return "\n".join(
        ["---", *(f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in fields.items()), "---"]
    )


def _trained_on(bundle: Bundle) -> str:
    if "steps" not in bundle.figures:
        return ""
    # Names alone: the folders of the machine it was trained on are nobody's business.
    names = ", ".join(Path(source).name or source for source in bundle.config.data.sources)
    return f"It was trained with jslm{f' on {names}' if names else ''}."


def _table(bundle: Bundle, weights: str) -> str:
    model = bundle.config.model
    rows = [
        ("Parameters", f"{count_parameters(model)['total']:,}"),
        ("Layers", f"{model.n_layers}"),
        ("Width", f"{model.d_model}"),
        ("Heads (query / key-value)", f"{model.n_heads} / {model.kv_heads}"),
        ("MLP width", f"{model.hidden_dim} ({model.activation})"),
        ("Norm, positions", f"{model.norm}, {model.position}"),
        ("Context", f"{model.context_length:,} tokens"),
        ("Vocabulary", f"{model.vocab_size:,} ({bundle.tokenizer.kind})"),
        ("Weights", weights),
    ]
    for name, (title, unit) in _FIGURES.items():
        value = bundle.figures.get(name)
        if isinstance(value, int | float):
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            rows.append((title, f"{shown} {unit}".strip()))
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _sample(bundle: Bundle) -> str:
    """What the run wrote last, in a block that nothing in the text ends."""
    found = bundle.figures.get("sample")
    if not (isinstance(found, list | tuple) and len(found) == 3 and all(isinstance(part, str) for part in found[1:])):
        return ""
    step, prompt, text = found
    # What a terminal would obey is shown as unknown.
    whole = _CONTROL.sub("\N{REPLACEMENT CHARACTER}", prompt + text)
    shown = whole if len(whole) <= _MAX_SAMPLE else f"{whole[:_MAX_SAMPLE]} [...]"
    fence = "```"
    while fence in shown:
        fence += "`"
    of = f" after the prompt {json.dumps(prompt, ensure_ascii=False)}" if prompt else ""
    return f"Written at step {step:,}{of}:\n\n{fence}text\n{shown.strip(chr(10))}\n{fence}"
