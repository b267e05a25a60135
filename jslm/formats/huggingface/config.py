"""A model's options as `config.json` of Hugging Face transformers names them, both ways.

The names are those of transformers' `models/{llama,mistral,qwen2,qwen3,arcee,gpt2}/configuration_*.py`, and of
`modeling_rope_utils.py`; versions before 5 say `rope_theta` and `rope_scaling` where later ones say `rope_parameters`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jslm.config import ModelConfig, config_from_dict
from jslm.errors import JslmError
from jslm.formats.shapes import beyond_gpt2_shape, beyond_llama_shape, llama_family

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "arcee", "gpt2")
# Those whose `attention_bias` puts one on the attention's output too.
_ALL_BIASES = ("llama", "qwen3", "arcee")
_MAX_SIZE = 2**31
_GATED = {"silu": "swiglu", "swish": "swiglu", "gelu_pytorch_tanh": "geglu", "gelu_new": "geglu"}
_PLAIN = {
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu": "gelu_exact",
    "relu": "relu",
    "relu2": "relu2",
}
# GPT-2's own spelling of its GELU.
_SPELLED = {ours: theirs for theirs, ours in reversed(_PLAIN.items())} | {
    "swiglu": "silu",
    "geglu": "gelu_pytorch_tanh",
}


def family_of(model: ModelConfig) -> str:
    """`llama`, `qwen2`, `qwen3`, `arcee` or `gpt2`: the architecture of transformers that computes what `model` does.

    Raises JslmError that lists every option that the nearest of them lacks.
    """
    llama_like, gpt2_like = _beyond_llama(model), _beyond_gpt2(model)
    # Of two that are as near, a gate is Llama's.
    is_gpt2 = len(gpt2_like) < len(llama_like) + (not model.is_gated)
    missing, family = (gpt2_like, "gpt2") if is_gpt2 else (llama_like, "llama")
    if missing:
        nearest = "GPT-2" if family == "gpt2" else "Llama, Qwen and Arcee"
        raise JslmError(
            f"Hugging Face's {nearest} cannot express {'; '.join(missing)}; the nearest format that can is one file of "
            "safetensors: export with --format safetensors"
        )
    return family if family == "gpt2" else llama_family(model)


def target_model(model: ModelConfig, family: str) -> ModelConfig:
    """`model` with the biases that `family` always has: zeros in them change nothing."""
    if family == "gpt2":
        return model.model_copy(update=dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias", "norm_bias"), True))
    both = family != "qwen2" and (model.qkv_bias or model.out_bias)
    return model.model_copy(update={"qkv_bias": True, "out_bias": True}) if both else model


def config_fields(model: ModelConfig, family: str) -> dict[str, Any]:
    """The part of `config.json` that the architecture decides. Raises JslmError where a value has no spelling there."""
    if family == "gpt2":
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "vocab_size": model.vocab_size,
            "n_positions": model.context_length,
            "n_embd": model.d_model,
            "n_layer": model.n_layers,
            "n_head": model.n_heads,
            "n_inner": model.hidden_dim,
            "activation_function": _SPELLED[model.activation],
            "layer_norm_epsilon": model.norm_eps,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "tie_word_embeddings": model.tie_embeddings,
            "resid_pdrop": model.dropout,
            "embd_pdrop": model.dropout,
            "attn_pdrop": model.attention_dropout_rate,
            "initializer_range": model.initial_std,
        }
    base, scaling = _rope_fields(model)
    fields = {
        "architectures": [f"{family.capitalize()}ForCausalLM"],
        "model_type": family,
        "vocab_size": model.vocab_size,
        "hidden_size": model.d_model,
        "intermediate_size": model.hidden_dim,
        "num_hidden_layers": model.n_layers,
        "num_attention_heads": model.n_heads,
        "num_key_value_heads": model.kv_heads,
        "head_dim": model.dim_per_head,
        "hidden_act": _SPELLED[model.activation],
        "max_position_embeddings": model.context_length,
        "rms_norm_eps": model.norm_eps,
        "tie_word_embeddings": model.tie_embeddings,
        "attention_dropout": model.attention_dropout_rate,
        "initializer_range": model.initial_std,
        "rope_theta": base,
        "rope_scaling": scaling,
        "rope_parameters": {"rope_theta": base, **(scaling or {"rope_type": "default"})},
    }
    if family in ("llama", "arcee"):
        fields |= {"attention_bias": model.qkv_bias, "mlp_bias": model.mlp_bias}
    elif family == "qwen3":
        fields |= {"attention_bias": model.qkv_bias, "use_sliding_window": False}
    else:
        fields |= {"use_sliding_window": False}
    return fields


def model_from_config(fields: Mapping[str, Any], path: Path) -> tuple[ModelConfig, str]:
    """The decoder that `config.json` at `path` describes, and its family.

    Raises JslmError for an architecture or option that jslm's decoder lacks, and for a value that makes no sense.
    """
    values = _Fields(fields, path)
    family = values.text("model_type", "")
    if family not in FAMILIES:
        raise JslmError(
            f"{path}: model_type {family or None!r}; jslm reads {', '.join(FAMILIES)}"
            + ("" if family else " (an adapter, or no model of transformers?)")
        )
    options = _gpt2_options(values) if family == "gpt2" else _llama_options(values, family)
    return config_from_dict({"model": options}, str(path)).model, family


def _gpt2_options(values: _Fields) -> dict[str, Any]:
    values.refuse("scale_attn_weights", False, "attention without its scale")
    values.refuse("scale_attn_by_inverse_layer_idx", True, "attention scaled by layer")
    values.refuse("add_cross_attention", True, "cross-attention")
    return {
        "norm": "layernorm",
        "position": "learned",
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
        "vocab_size": values.size("vocab_size", 50257),
        "context_length": values.size("n_positions", 1024),
        "d_model": values.size("n_embd", 768),
        "n_layers": values.size("n_layer", 12),
        "n_heads": values.size("n_head", 12),
        "d_ff": values.size("n_inner", 4 * values.size("n_embd", 768)),
        "activation": values.choice("activation_function", "gelu_new", _PLAIN),
        "norm_eps": values.number("layer_norm_epsilon", 1e-5),
        "tie_embeddings": values.flag("tie_word_embeddings", True),
        "dropout": values.number("resid_pdrop", 0.1),
        "attention_dropout": values.number("attn_pdrop", 0.1),
    }


def _llama_options(values: _Fields, family: str) -> dict[str, Any]:
    context = values.size("max_position_embeddings", 2048)
    window = values.get("sliding_window")
    # Qwen's configs name a window that they turn off.
    active = window is not None and (family == "mistral" or values.flag("use_sliding_window", False))
    if active and isinstance(window, int) and window < context:
        raise JslmError(
            f"{values.path}: sliding_window = {window}, and jslm's attention sees all of the context of {context:,}; "
            f"a copy with max_position_embeddings = {window} and no window computes the same within it"
        )
    values.refuse_not("partial_rotary_factor", 1.0, "rotary positions on a part of each head")
    heads, width = values.size("num_attention_heads"), values.size("hidden_size")
    has_bias, is_plain = values.flag("attention_bias", False), family == "arcee"
    head_dim = values.size("head_dim", 0, smallest=0)
    return {
        "vocab_size": values.size("vocab_size"),
        "context_length": context,
        "d_model": width,
        "n_layers": values.size("num_hidden_layers"),
        "n_heads": heads,
        "n_kv_heads": values.size("num_key_value_heads", heads),
        "head_dim": 0 if head_dim * heads == width else head_dim,
        "d_ff": values.size("intermediate_size"),
        "activation": values.choice("hidden_act", "relu2" if is_plain else "silu", _PLAIN if is_plain else _GATED),
        "norm_eps": values.number("rms_norm_eps", 1e-6),
        "tie_embeddings": values.flag("tie_word_embeddings", False),
        "qkv_bias": has_bias or family == "qwen2",
        "out_bias": has_bias and family in _ALL_BIASES,
        "mlp_bias": values.flag("mlp_bias", False) and family in ("llama", "arcee"),
        "qk_norm": family == "qwen3",
        "attention_dropout": values.number("attention_dropout", 0.0),
        **_rope_options(values),
    }


def _rope_options(values: _Fields) -> dict[str, Any]:
    new, old = values.get("rope_parameters"), values.get("rope_scaling")
    scaling = next((found for found in (new, old) if isinstance(found, Mapping)), {})
    inner = _Fields(scaling, values.path, "rope_parameters" if scaling is new else "rope_scaling")
    inner.refuse_not("partial_rotary_factor", 1.0, "rotary positions on a part of each head")
    theta = inner.number("rope_theta", values.number("rope_theta", 10000.0))
    kind = inner.text("rope_type", inner.text("type", "default"))
    if kind == "default":
        return {"rope_theta": theta}
    if kind not in ("linear", "yarn", "llama3"):
        raise JslmError(
            f"{values.path}: rope scaling {kind!r}, whose frequencies change with the length of the text; jslm has "
            "linear, yarn and llama3"
        )
    found: dict[str, Any] = {"kind": kind, "factor": inner.number("factor")}
    if kind != "linear":
        original = inner.size("original_max_position_embeddings", values.size("max_position_embeddings", 2048))
        found["original_context_length"] = original
    if kind == "llama3":
        found |= {name: inner.number(name) for name in ("low_freq_factor", "high_freq_factor")}
    if kind == "yarn":
        inner.refuse("truncate", False, "YaRN's bounds without rounding")
        found |= {"beta_fast": inner.number("beta_fast", 32.0), "beta_slow": inner.number("beta_slow", 1.0)}
        found["attention_factor"] = inner.number("attention_factor", 0.0) or _mscale(inner, found["factor"])
    return {"rope_theta": theta, "rope_scaling": found}


def _mscale(inner: _Fields, factor: float) -> float:
    """DeepSeek's way to name the factor on the rotary tables; 0 where it is the usual one."""
    scale, over_all = inner.number("mscale", 0.0), inner.number("mscale_all_dim", 0.0)
    if not scale or not over_all or factor <= 1:
        return 0.0
    return (0.1 * scale * math.log(factor) + 1) / (0.1 * over_all * math.log(factor) + 1)


def _rope_fields(model: ModelConfig) -> tuple[float, dict[str, Any] | None]:
    """(base, scaling), as versions before 5 name them."""
    scaling, dim = model.rope_scaling, model.dim_per_head
    if scaling.kind == "none":
        return model.rope_theta, None
    if scaling.kind == "ntk":
        # Another base, and nothing else.
        return model.rope_theta * scaling.factor ** (dim / max(dim - 2, 1)), None
    fields: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "linear":
        return model.rope_theta, fields
    original = scaling.original_context_length or model.context_length / scaling.factor
    if original != int(original):
        raise JslmError(
            f"model.rope_scaling: trained on {original:g} tokens at once by context_length / factor, and transformers "
            "takes a whole number; set model.rope_scaling.original_context_length"
        )
    fields["original_max_position_embeddings"] = int(original)
    if scaling.kind == "llama3":
        return model.rope_theta, fields | {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
        }
    fields |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
    if scaling.attention_factor:
        fields["attention_factor"] = scaling.attention_factor
    return model.rope_theta, fields


def _beyond_llama(model: ModelConfig) -> list[str]:
    """What transformers' Llama, Qwen2, Qwen3 and Arcee lack, an entry an option."""
    found = beyond_llama_shape(model)
    if model.qk_norm:
        # Only Qwen3 has the norms, and Arcee alone has no gate.
        found += ["model.mlp_bias with model.qk_norm"] if model.mlp_bias else []
        if not model.is_gated:
            found.append(f"model.activation = {model.activation!r} with model.qk_norm (Qwen3 has 'swiglu' and 'geglu')")
    elif model.d_model % model.n_heads:
        found.append(f"model.n_heads = {model.n_heads} (Llama and Arcee have a divisor of d_model = {model.d_model})")
    return found


def _beyond_gpt2(model: ModelConfig) -> list[str]:
    """What transformers' GPT-2 lacks, an entry an option."""
    found = beyond_gpt2_shape(model)
    if model.is_gated:
        found.append(f"model.activation = {model.activation!r} (GPT-2 has no gated one)")
    if model.kv_heads != model.n_heads:
        found.append(f"model.n_kv_heads = {model.kv_heads} (GPT-2 has as many as n_heads)")
    return found


class _Fields:
    """A JSON object whose values are checked as they are taken; a null counts as absent."""

    def __init__(self, fields: Mapping[str, Any], path: Path, prefix: str = "") -> None:
        self.path = path
        self._fields, self._prefix = fields, prefix

    def get(self, key: str) -> Any:
        return self._fields.get(key)

    def size(self, key: str, default: int | None = None, smallest: int = 1) -> int:
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not smallest <= value < _MAX_SIZE:
            raise self._wrong(key, value, f"a whole number of {smallest} or more")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise self._wrong(key, value, "a number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise self._wrong(key, value, "true or false")
        return value

    def text(self, key: str, default: str) -> str:
        value = self._value(key, default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "text")
        return value

    def choice(self, key: str, default: str, table: Mapping[str, str]) -> str:
        value = self.text(key, default)
        if value not in table:
            raise self._wrong(key, value, f"one of {', '.join(table)}, which are those that jslm computes")
        return table[value]

    def refuse(self, key: str, value: Any, what: str) -> None:
        if self._fields.get(key) == value:
            raise JslmError(f"{self.path}: {self._named(key)} = {value!r}: {what}, which jslm does not have")

    def refuse_not(self, key: str, value: Any, what: str) -> None:
        found = self._fields.get(key)
        if found is not None and found != value:
            raise JslmError(f"{self.path}: {self._named(key)} = {found!r}: {what}, which jslm does not have")

    def _value(self, key: str, default: Any) -> Any:
        value = self._fields.get(key)
        return default if value is None else value

    def _named(self, key: str) -> str:
        return f"{self._prefix}.{key}" if self._prefix else key

    def _wrong(self, key: str, value: Any, expected: str) -> JslmError:
        found = "absent" if value is None else repr(value)[:60]
        return JslmError(f"{self.path}: {self._named(key)} is {found}, expected {expected}")
