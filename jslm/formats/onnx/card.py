"""The model card (`README.md`) of an exported ONNX folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jslm.formats.card import Card
from jslm.formats.card import model_card as whole_card
from jslm.formats.onnx.folder import FILES
from jslm.formats.onnx.products import Layout
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
    files = [
        _table(("file", "MB", "how weights are held", *(("loss", "cost") if held else ())), _graph_rows(graphs, held)),
        f"Operators of ONNX opset {layout.opset}, no others.",
        f"Losses are nats a token over {held}; the cost is beside jslm's own float32 loss there."
        if held
        else "What rounding costs was not measured: no held-out text was at hand. `--text FILE` names some.",
        *_conditions(layout),
        f"Inputs: `input_ids`, `attention_mask`{'' if model.position == 'none' else ', `position_ids`'} (int64), "
        "`past_key_values.N.key` and `.value`; outputs: `logits` and `present.N.key`, `.value`. Positions end at "
        f"{model.context_length:,}.",
        f"onnxruntime-genai opens the folder by its `genai_config.json`; put {bundle.tokenizer.bos_id}, which begins a "
        "document, before its ids."
        if bundle.ends_documents and bundle.tokenizer.adds_bos
        else "onnxruntime-genai opens the folder by its `genai_config.json`.",
    ]
    card = Card(
        "onnx",
        "as ONNX graphs with a cache",
        ", ".join(graphs),
        library="transformers.js",
        tags=["onnx"],
        sections=[("Files", "\n\n".join(files))],
        cost="; ".join(f"{kind} {facts['cost']:+.4f} nats a token" for kind, facts in graphs.items()) + f" over {held}"
        if held
        else "",
    )
    return whole_card(bundle, card)


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
