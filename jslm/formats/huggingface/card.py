"""The model card (`README.md`) of an exported Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from jslm.model import count_parameters
from jslm.runs.bundle import Bundle

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


def model_card(bundle: Bundle, family: str, dtype: str) -> str:
    """Markdown with what is known of the model: its shape, its figures, how to run it."""
    model, data = bundle.config.model, bundle.config.data
    rows = [
        ("Parameters", f"{count_parameters(model)['total']:,}"),
        ("Layers", f"{model.n_layers}"),
        ("Width", f"{model.d_model}"),
        ("Heads (query / key-value)", f"{model.n_heads} / {model.kv_heads}"),
        ("MLP width", f"{model.hidden_dim} ({model.activation})"),
        ("Context", f"{model.context_length:,} tokens"),
        ("Vocabulary", f"{model.vocab_size:,} ({bundle.tokenizer.kind})"),
        ("Weights", dtype),
    ]
    for name, (title, unit) in _FIGURES.items():
        value = bundle.figures.get(name)
        if isinstance(value, int | float):
            shown = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
            rows.append((title, f"{shown} {unit}".strip()))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    # Names alone: the folders of the machine it was trained on are nobody's business.
    names = ", ".join(Path(source).name or source for source in data.sources)
    trained = f"It was trained with jslm{f' on {names}' if names else ''}." if "steps" in bundle.figures else ""
    losses = (
        "Losses are means over the tokens of the whole validation split; padding does not count."
        if "val/loss" in bundle.figures
        else ""
    )
    start = (
        "The tokenizer puts the token that begins a document before each prompt, as in training."
        if bundle.ends_documents and bundle.tokenizer.adds_bos
        else ""
    )
    paragraphs = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- jslm\n---",
        f"# {Path(bundle.source).name or 'model'}",
        f"A small language model of the {'GPT-2' if family == 'gpt2' else family.capitalize()} architecture. {trained}",
        f"| | |\n| --- | --- |\n{table}",
        losses,
        "## Use",
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n'
        'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
        f'prompt = tokenizer("{"" if start else "The"}", return_tensors="pt")\n'
        "print(tokenizer.decode(model.generate(**prompt)[0], skip_special_tokens=True))\n"
        "```",
        start,
    ]
    return "\n\n".join(paragraph.strip() for paragraph in paragraphs if paragraph) + "\n"
