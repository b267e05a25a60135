"""The shapes that are measured, as jslm's `[model]` section says them. Imports nothing: both interpreters read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_GPT2: dict[str, Any] = {
    "norm": "layernorm",
    "position": "learned",
    "activation": "gelu",
    "qkv_bias": True,
    "out_bias": True,
    "mlp_bias": True,
}


@dataclass(frozen=True)
class Size:
    """A model's shape, and the batch of a training step: `batch` sequences on a CPU, `gpu_batch` on an accelerator."""

    name: str
    vocab_size: int
    context: int
    batch: int
    gpu_batch: int
    model: dict[str, Any] = field(default_factory=dict)

    @property
    def is_gpt2(self) -> bool:
        """Whether transformers' GPT-2 class is the peer; Llama's where not."""
        return self.model.get("position") == "learned"

    def model_section(self) -> dict[str, Any]:
        """The whole `[model]` section but for `vocab_size`, which the tokenizer gives."""
        return {**self.model, "context_length": self.context}


SIZES = {
    size.name: size
    for size in (
        # nanoGPT's Shakespeare model for CPUs.
        Size("tiny", 65, 64, 12, 12, {"n_layers": 4, "d_model": 128, "n_heads": 4, **_GPT2}),
        Size("small", 4096, 256, 16, 64, {"n_layers": 6, "d_model": 256, "n_heads": 8, "n_kv_heads": 4, "d_ff": 704}),
        # llama2.c's stories15M.
        Size("15m", 32000, 256, 8, 64, {"n_layers": 6, "d_model": 288, "n_heads": 6, "d_ff": 768}),
        # lilLM's.
        Size("39m", 8192, 512, 4, 64, {"n_layers": 12, "d_model": 512, "n_heads": 16, "n_kv_heads": 8, "d_ff": 1408}),
        Size("124m", 50257, 1024, 1, 16, {"n_layers": 12, "d_model": 768, "n_heads": 12, **_GPT2}),
    )
}
