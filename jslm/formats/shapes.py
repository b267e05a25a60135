"""What the two families of architecture that other programs know have in common, and what a model has beyond them."""

from __future__ import annotations

from typing import Any

from jslm.config import ModelConfig
from jslm.model import count_parameters


def beyond_llama_shape(model: ModelConfig) -> list[str]:
    """What no Llama or Qwen of any program has, an entry an option; activations and biases differ by program."""
    return [*_beyond_all(model), *_not(model, "Llama", norm="rmsnorm", position="rope")]


def beyond_gpt2_shape(model: ModelConfig) -> list[str]:
    """What no GPT-2 of any program has, an entry an option; activations and key-value heads differ by program."""
    found = [*_beyond_all(model), *_not(model, "GPT-2", norm="layernorm", position="learned")]
    if model.qk_norm:
        found.append("model.qk_norm (GPT-2 has none)")
    if not _is_square(model):
        found.append(f"model.head_dim = {model.dim_per_head} (GPT-2 has d_model / n_heads)")
    return found


def llama_family(model: ModelConfig) -> str:
    """`arcee`, `qwen3`, `qwen2` or `llama`: which of them computes what `model` does, where one of them can."""
    if not model.is_gated:
        return "arcee"
    if model.qk_norm:
        return "qwen3"
    is_qwen2 = model.qkv_bias and not (model.out_bias or model.mlp_bias) and _is_square(model)
    return "qwen2" if is_qwen2 else "llama"


def _is_square(model: ModelConfig) -> bool:
    """Whether all heads together are as wide as the residual stream."""
    return model.n_heads * model.dim_per_head == model.d_model


def describe_model(model: ModelConfig) -> dict[str, Any]:
    """The shape as `inspect` prints it, defaults resolved."""
    return {
        "n_layers": model.n_layers,
        "d_model": model.d_model,
        "n_heads": model.n_heads,
        "n_kv_heads": model.kv_heads,
        "d_ff": model.hidden_dim,
        "context_length": model.context_length,
    }


def describe_decoder(model: ModelConfig) -> dict[str, Any]:
    """The size, where it is known, the shape, and the options that formats differ in."""
    return {
        **({"parameters": count_parameters(model)["total"]} if model.vocab_size else {}),
        **describe_model(model),
        "norm": model.norm,
        "position": model.position,
        "activation": model.activation,
    }


def _not(model: ModelConfig, family: str, **wanted: str) -> list[str]:
    return [
        f"model.{key} = {getattr(model, key)!r} ({family} has {value!r})"
        for key, value in wanted.items()
        if getattr(model, key) != value
    ]


def _beyond_all(model: ModelConfig) -> list[str]:
    found = [f"model.logit_softcap = {model.logit_softcap:g}"] if model.logit_softcap else []
    if model.conditions:
        found.append(f"model.conditions ({', '.join(condition.name for condition in model.conditions)})")
    return found
