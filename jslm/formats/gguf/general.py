"""The keys `general.*` of a GGUF file: what the model is, and whose."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from jslm.extras import load_extra
from jslm.model import count_parameters
from jslm.runs.bundle import Bundle

if TYPE_CHECKING:
    from gguf import GGUFWriter

# Of a model whose config says nothing.
DESCRIPTION = "a language model made with jslm"


def write_general(writer: GGUFWriter, bundle: Bundle, name: str, dtype: str) -> None:
    """Adds them; `name` is the model's where it came from nowhere."""
    gguf = load_extra("gguf", "convert", "writing GGUF")
    n_parameters = count_parameters(bundle.config.model)["total"]
    writer.add_type("model")
    writer.add_name(Path(bundle.source).name or name)
    writer.add_size_label(gguf.size_label(n_parameters, n_parameters, 0, 0))
    writer.add_uint64("general.parameter_count", n_parameters)
    card = bundle.config.card
    writer.add_license(card.license or "unknown")
    writer.add_description(card.description or _description(bundle))
    if card.authors:
        writer.add_author(", ".join(card.authors))
    if card.language:
        writer.add_languages(card.language)
    types = {"float32": "ALL_F32", "float16": "MOSTLY_F16", "bfloat16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}
    writer.add_file_type(gguf.LlamaFileType[types[dtype]])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_string("jslm.tokenizer.fingerprint", bundle.tokenizer.fingerprint)


def _description(bundle: Bundle) -> str:
    figures = [
        f"{name} {bundle.figures[name]}"
        for name in ("steps", "val/loss", "val/bits_per_byte")
        if name in bundle.figures
    ]
    return f"{DESCRIPTION} ({', '.join(figures)})" if figures else DESCRIPTION
