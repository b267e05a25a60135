"""The decoder that the keys of a GGUF file describe.

What each architecture reads is in llama.cpp's `src/models/` and in `load_hparams` of `src/llama-model.cpp`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from jslm.config import ModelConfig, config_from_dict
from jslm.config.model_schema import RopeScalingConfig
from jslm.errors import JslmError
from jslm.formats.gguf.header import ArrayLength, Header
from jslm.formats.gguf.weights import frequency_factors, rope_base, rope_keys

ARCHITECTURES = ("llama", "qwen2", "qwen3", "arcee", "gpt2")
ROPE_KEY = "jslm.rope_scaling"
_MAX_SIZE = 2**31
_TOLERANCE = 1e-5
# Keys after `<architecture>.` that are read here, or say of a file what is no matter of computing.
_READ = frozenset(
    {
        "vocab_size", "context_length", "embedding_length", "block_count", "feed_forward_length",
        "attention.head_count", "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon", "rope.dimension_count", "rope.freq_base",
        "rope.scale_linear", "rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length",
        "rope.scaling.attn_factor", "rope.scaling.finetuned",
    }
)  # fmt: skip
# Those that change what is computed unless they have this value; any other key of the architecture is refused.
_NEUTRAL: dict[str, Any] = {
    "expert_count": 0, "expert_used_count": 0, "attention.causal": True, "use_parallel_residual": False,
    "attention.max_alibi_bias": 0.0, "attention.clamp_kqv": 0.0, "attention.scale": 0.0, "logit_scale": 0.0,
    "residual_scale": 0.0, "embedding_scale": 0.0, "attn_logit_softcapping": 0.0, "final_logit_softcapping": 0.0,
    "tensor_data_layout": "Meta AI original pth", "pooling_type": 0, "rope.scaling.yarn_beta_fast": 32.0,
    "rope.scaling.yarn_beta_slow": 1.0, "rope.scaling.yarn_log_multiplier": 0.0, "nextn_predict_layers": 0,
}  # fmt: skip

Tensors = Callable[[str], np.ndarray]


def model_from_header(header: Header, path: Path, vocab_size: int, take: Tensors) -> tuple[ModelConfig, str]:
    """The decoder and its architecture. `take` reads a tensor; what is asked for is `rope_freqs.weight` alone.

    Raises JslmError that lists every key that jslm's decoder has nothing for, and for a value that makes no sense.
    """
    architecture = header.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise JslmError(
            f"{path}: architecture {architecture!r}; jslm reads {', '.join(ARCHITECTURES)}"
            + ("" if architecture else " (a file without weights, or of another program?)")
        )
    keys = _Keys(header, path, architecture)
    keys.refuse_unknown()
    model = {
        "vocab_size": vocab_size,
        "context_length": keys.size("context_length"),
        "d_model": keys.size("embedding_length"),
        "n_layers": keys.size("block_count"),
        "n_heads": keys.size("attention.head_count"),
        "d_ff": keys.size("feed_forward_length"),
        "tie_embeddings": "output.weight" not in header.tensors,
        **(_gpt2_options(keys) if architecture == "gpt2" else _llama_options(keys, header)),
    }
    declared = keys.size("vocab_size", vocab_size)
    if declared != vocab_size:
        raise JslmError(
            f"{path}: {keys.named('vocab_size')} = {declared:,}, but its tokenizer has {vocab_size:,} tokens"
        )
    shape = config_from_dict({"model": model}, str(path)).model
    return (shape if architecture == "gpt2" else _with_rope(shape, keys, header.tensors, take)), architecture


def _gpt2_options(keys: _Keys) -> dict[str, Any]:
    heads = keys.size("attention.head_count")
    if (found := keys.size("attention.head_count_kv", heads)) != heads:
        raise JslmError(f"{keys.path}: gpt2.attention.head_count_kv = {found}, expected {heads}, as there are heads")
    return {
        "norm": "layernorm",
        "position": "learned",
        "activation": "gelu",
        **dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias"), True),
        "norm_eps": keys.number("attention.layer_norm_epsilon"),
    }


def _llama_options(keys: _Keys, header: Header) -> dict[str, Any]:
    heads, width = keys.size("attention.head_count"), keys.size("embedding_length")
    usual = width // heads
    head_dim = keys.size("attention.key_length", usual)
    for name in ("attention.value_length", "rope.dimension_count"):
        if (found := keys.size(name, head_dim if name.startswith("rope") else usual)) != head_dim:
            raise JslmError(
                f"{keys.path}: {keys.named(name)} = {found}, and heads are {head_dim} wide; jslm's are as wide for "
                "values as for keys, and rotate whole"
            )
    return {
        "n_kv_heads": keys.size("attention.head_count_kv", heads),
        "head_dim": 0 if head_dim * heads == width else head_dim,
        "activation": "relu2" if keys.architecture == "arcee" else "swiglu",
        "norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "rope_theta": keys.number("rope.freq_base", 10000.0),
        "qk_norm": keys.architecture == "qwen3",
        **{
            option: f"blk.0.{tensor}.bias" in header.tensors
            for option, tensor in (("qkv_bias", "attn_q"), ("out_bias", "attn_output"), ("mlp_bias", "ffn_up"))
        },
    }


def _with_rope(model: ModelConfig, keys: _Keys, tensors: Any, take: Tensors) -> ModelConfig:
    """`model` with the scaling of its rotary frequencies."""
    kind, attention = keys.text("rope.scaling.type", "linear"), keys.number("rope.scaling.attn_factor", 1.0)
    factor = keys.number("rope.scaling.factor", 0.0) or keys.number("rope.scale_linear", 0.0)
    if kind == "linear" and factor in (0.0, 1.0):
        kind = "none"
    stored = None
    if (table := tensors.get("rope_freqs.weight")) is not None:
        if table.shape != (model.dim_per_head // 2,):
            raise JslmError(
                f"{keys.path}: rope_freqs.weight is {list(table.shape)}, expected [{model.dim_per_head // 2}]"
            )
        if kind != "none":
            raise JslmError(
                f"{keys.path}: rope_freqs.weight beside rope.scaling.type = {kind!r}: jslm has one of the two"
            )
        stored = np.asarray(take("rope_freqs.weight"), np.float64)
    if kind in ("linear", "yarn") and factor < 1:
        raise JslmError(f"{keys.path}: {keys.named('rope.scaling.factor')} = {factor:g}, expected 1 or more")
    if (exact := _noted(model, keys, kind, factor, attention, stored)) is not None:
        return exact
    if kind not in ("none", "linear", "yarn"):
        raise JslmError(
            f"{keys.path}: {keys.named('rope.scaling.type')} = {kind!r}, whose frequencies change with the length of "
            "the text; jslm reads none, linear and yarn"
        )
    if kind != "yarn" and abs(attention - 1) > _TOLERANCE:
        raise JslmError(
            f"{keys.path}: {keys.named('rope.scaling.attn_factor')} = {attention:g} without yarn: jslm has no such"
        )
    if stored is not None:
        return _from_factors(model, stored, keys)
    if kind == "none":
        return model
    scaling: dict[str, Any] = {"kind": kind, "factor": factor}
    if kind == "yarn":
        scaling["original_context_length"] = keys.size("rope.scaling.original_context_length", model.context_length)
        if abs(attention - 1) > _TOLERANCE:
            scaling["attention_factor"] = attention * (0.1 * math.log(factor) + 1)
    return config_from_dict({"model": model.model_dump() | {"rope_scaling": scaling}}, str(keys.path)).model


def _noted(
    model: ModelConfig, keys: _Keys, kind: str, factor: float, attention: float, stored: np.ndarray | None
) -> ModelConfig | None:
    """What jslm noted when it wrote the file, where llama.cpp's own keys still say the same; they count."""
    try:
        fields = json.loads(keys.metadata.get(ROPE_KEY, ""))
        rope_theta = float(fields.pop("rope_theta"))
        noted = ModelConfig.model_validate(
            model.model_dump() | {"rope_theta": rope_theta, "rope_scaling": RopeScalingConfig(**fields)}
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    said = rope_keys(noted)
    here: dict[str, Any] = {"type": kind, "factor": factor or 1.0, "attn_factor": attention}
    here["original_context_length"] = keys.size("rope.scaling.original_context_length", 0)
    wanted: dict[str, Any] = {"type": "none", "factor": 1.0, "attn_factor": 1.0, "original_context_length": 0} | said
    same = wanted.pop("type") == here.pop("type") and math.isclose(rope_base(noted), model.rope_theta, rel_tol=1e-6)
    same = same and all(math.isclose(value, wanted[name], rel_tol=1e-6) for name, value in here.items())
    factors = frequency_factors(noted)
    if (factors is None) != (stored is None):
        return None
    if factors is not None and stored is not None:
        same = same and bool(np.allclose(factors, stored, rtol=_TOLERANCE, atol=0))
    return noted if same else None


def _from_factors(model: ModelConfig, factors: np.ndarray, keys: _Keys) -> ModelConfig:
    """Llama 3.1's bands, found in the factors that its files hold.

    A band has two bounds in turns over the original context, and between them 1 / factor rises evenly with the turns:
    a line through the factors between gives both. All that is found is computed again and compared.
    """
    plain = model.rope_theta ** -(np.arange(0, model.dim_per_head, 2) / model.dim_per_head)
    largest = float(factors.max())
    if np.isfinite(factors).all() and factors.min() > 0 and largest > 1:
        # Kept share of each frequency: 1 above the band, 0 below.
        share = (1 / factors - 1 / largest) / (1 - 1 / largest)
        between = (share > 1e-4) & (share < 1 - 1e-4)
        for original, high in _bands(plain, share, between):
            found: dict[str, Any] = {
                "low_freq_factor": 1.0,
                "high_freq_factor": high,
                "original_context_length": original,
            }
            try:
                bands = RopeScalingConfig(kind="llama3", factor=float(str(np.float32(largest))), **found)
                scaled = ModelConfig.model_validate(model.model_dump() | {"rope_scaling": bands})
            except ValidationError:
                continue
            computed = frequency_factors(scaled)
            if computed is not None and np.allclose(computed, factors, rtol=_TOLERANCE, atol=0):
                return scaled
    raise JslmError(
        f"{keys.path}: rope_freqs.weight holds factors that are not those of Llama 3's bands: jslm has no other"
    )


def _bands(plain: np.ndarray, share: np.ndarray, between: np.ndarray) -> list[tuple[int, float]]:
    """(original context, high_freq_factor) with a low_freq_factor of 1, the usual ones first."""
    found = [(original, 4.0) for original in (8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16)]
    turns = plain / (2 * math.pi)
    if between.sum() >= 2:
        slope, start = np.polyfit(turns[between], share[between], 1)
        if start < 0 < slope:
            high = 1 - 1 / start
            found.append((round(float(slope * (high - 1))), float(high)))
    elif between.sum() == 1:
        at = turns[between][0]
        found += [(round(float((1 + 3 * share[between][0]) / at)), 4.0)]
    return [(original, high) for original, high in found if 1 <= original < _MAX_SIZE]


class _Keys:
    """The keys of one architecture, checked as they are taken."""

    def __init__(self, header: Header, path: Path, architecture: str) -> None:
        self.metadata, self.path, self.architecture = header.metadata, path, architecture

    def named(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def size(self, key: str, default: int | None = None) -> int:
        value = self.metadata.get(self.named(key), default)
        if type(value) is not int or not (0 if default == 0 else 1) <= value < _MAX_SIZE:
            raise self._wrong(key, value, "a whole number of 1 or more")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value: Any = self.metadata.get(self.named(key), default)
        if type(value) not in (int, float) or not 0 <= value < 1e38:
            raise self._wrong(key, value, "a number of 0 or more")
        # A float32 as its shortest spelling: 1e-05, and not the 9.99999974e-06 that it is.
        return float(str(np.float32(value)))

    def text(self, key: str, default: str) -> str:
        value = self.metadata.get(self.named(key), default)
        if not isinstance(value, str):
            raise self._wrong(key, value, "text")
        return value

    def refuse_unknown(self) -> None:
        """Raises JslmError that lists the keys by which llama.cpp may compute what jslm does not."""
        found = []
        for name, value in self.metadata.items():
            key = name.removeprefix(f"{self.architecture}.")
            if key == name or key in _READ or (key in _NEUTRAL and value == _NEUTRAL[key]):
                continue
            if key == "attention.sliding_window" and type(value) is int:
                context = self.size("context_length")
                if value == 0 or value >= context:
                    continue
            shown = "[...]" if isinstance(value, ArrayLength | list | np.ndarray) else repr(value)[:60]
            found.append(f"{name[:80]} = {shown}")
        kind, parts = self.metadata.get("general.type", "model"), self.metadata.get("split.count", 1)
        if kind != "model":
            found.append(f"general.type = {kind!r}")
        if parts not in (0, 1):
            found.append(f"split.count = {parts} (one part of several: join them with llama-gguf-split --merge)")
        if found:
            more = f" and {len(found) - 8} more" if len(found) > 8 else ""
            raise JslmError(
                f"{self.path}: jslm's decoder has nothing for {'; '.join(found[:8])}{more}; it would compute something "
                "else than this model"
            )

    def _wrong(self, key: str, value: Any, expected: str) -> JslmError:
        found = "absent" if value is None else "an array" if isinstance(value, ArrayLength) else repr(value)[:60]
        return JslmError(f"{self.path}: {self.named(key)} is {found}, expected {expected}")
