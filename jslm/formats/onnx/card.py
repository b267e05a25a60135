"""The model card (`README.md`) of an exported ONNX folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jslm.formats.onnx.folder import FILES
from jslm.formats.onnx.products import Layout
from jslm.model import count_parameters
from jslm.runs.bundle import Bundle

_HELD = {
    "float32": "32-bit floats: nothing is rounded",
    "float16": "matrices in 16-bit floats, arithmetic in 32",
    "int8": "matrices in 8 bits, a scale a column; activations rounded to 8 bits as they come",
    "int7": "as int8, weights in 7 bits, for x86 without VNNI",
}


def model_card(bundle: Bundle, layout: Layout, graphs: Mapping[str, Mapping[str, Any]], held: str) -> str:
    """Markdown with what is known of the model, its graphs and their losses. `held`: the text they were measured on,
    in words; "" where there was none."""
    model = bundle.config.model
    shape: list[tuple[str, ...]] = [
        ("Parameters", f"{count_parameters(model)['total']:,}"),
        ("Layers x width", f"{model.n_layers} x {model.d_model}"),
        ("Heads (query / key-value)", f"{model.n_heads} / {model.kv_heads}"),
        ("MLP width", f"{model.hidden_dim} ({model.activation})"),
        ("Norm, positions", f"{model.norm}, {model.position}"),
        ("Context", f"{model.context_length:,} tokens"),
        ("Vocabulary", f"{model.vocab_size:,} ({bundle.tokenizer.kind})"),
        ("Operators", f"ONNX opset {layout.opset}, no others"),
    ]
    if loss := bundle.figures.get("val/loss"):
        shape.append(("Validation loss", f"{loss:.4g} nats a token"))
    first = next(iter(graphs))
    paragraphs = [
        "---\nlibrary_name: transformers.js\npipeline_tag: text-generation\ntags:\n- jslm\n- onnx\n---",
        f"# {Path(bundle.source).name or 'model'}",
        "A small language model, trained with jslm, as ONNX graphs with a cache.",
        _table(("", ""), shape),
        "## Files",
        _table(("file", "MB", "how weights are held", *(("loss", "cost") if held else ())), _graph_rows(graphs, held)),
        f"Losses are nats a token over {held}; the cost is beside jslm's own float32 loss there."
        if held
        else "What rounding costs was not measured: no held-out text was at hand. `--text FILE` names some.",
        *_conditions(layout),
        "## Use",
        "In a browser or node, with transformers.js:",
        "```js\n"
        'import { pipeline } from "@huggingface/transformers";\n\n'
        f'const generate = await pipeline("text-generation", "FOLDER", {{ dtype: "{_JS_TYPES[first]}" }});\n'
        f'console.log(await generate("The", {{ max_new_tokens: 50 }}));\n'
        "```",
        "In Python, with onnxruntime (`onnxruntime-genai` opens the folder by its `genai_config.json`):",
        "```python\n"
        "from jslm.formats.onnx.runtime import OnnxDecoder\n\n"
        f'decoder = OnnxDecoder("FOLDER", kind="{first}")\n'
        "cache, logits = decoder.prefill([[1, 2, 3]], [3])\n"
        "```",
        f"Inputs: `input_ids`, `attention_mask`{'' if model.position == 'none' else ', `position_ids`'} (int64), "
        "`past_key_values.N.key` and `.value`; outputs: `logits` and `present.N.key`, `.value`. Positions end at "
        f"{model.context_length:,}.",
        "The tokenizer puts the token that begins a document before each prompt, as in training; onnxruntime-genai's "
        f"does not, so put {bundle.tokenizer.bos_id} before its ids."
        if bundle.ends_documents and bundle.tokenizer.adds_bos
        else "",
    ]
    return "\n\n".join(paragraph.strip() for paragraph in paragraphs if paragraph) + "\n"


_JS_TYPES = {"float32": "fp32", "float16": "fp16", "int8": "q8", "int7": "q8"}


def _graph_rows(graphs: Mapping[str, Mapping[str, Any]], held: str) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for kind, facts in graphs.items():
        row = (f"`{FILES[kind]}`", f"{facts['bytes'] / 1e6:.2f}", _HELD[kind])
        rows.append((*row, f"{facts['loss']:.4f}", f"{facts['cost']:+.4f}") if held else row)
    return rows


def _conditions(layout: Layout) -> list[str]:
    found = []
    if built_in := {name: label or "none" for name, label in layout.folded.items()}:
        found.append("Built in: " + ", ".join(f"{name} = {label}" for name, label in built_in.items()) + ".")
    kinds = {condition.name: condition.labels for condition in layout.model.conditions}
    if layout.open_conditions:
        columns = "; ".join(
            f"{name}: " + ", ".join(f"{number} {label}" for number, label in enumerate(kinds[name]))
            for name in layout.open_conditions
        )
        found.append(
            "A further input `conditions` (int64, `[batch, "
            f"{len(layout.open_conditions)}]`) says what the text is to be, a column a condition, -1 for none: "
            f"{columns}."
        )
    return found


def _table(titles: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [titles, tuple("---" for _ in titles), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
