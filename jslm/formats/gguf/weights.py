"""A model as llama.cpp knows it: architecture, hyperparameters and tensors.

The names and shapes are those of "GGUF" in the documentation of ggml and of llama.cpp's model files (`src/models/`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jslm.config import ModelConfig
from jslm.errors import JslmError
from jslm.extras import load_extra
from jslm.formats.shapes import beyond_gpt2_shape, beyond_llama_shape, llama_family
from jslm.formats.trees import Names, tree_tensors, with_zeros
from jslm.model.rope import rotary_frequencies

if TYPE_CHECKING:
    from gguf import GGUFWriter


def choose_architecture(model: ModelConfig) -> str:
    """`gpt2`, `qwen3`, `qwen2`, `arcee` or `llama`: llama.cpp's name for the shape of `model`.

    Raises JslmError that lists every option that none of the nearest one's programs has.
    """
    llama_like, gpt2_like = _beyond_llama(model), _beyond_gpt2(model)
    missing, kind = (gpt2_like, "gpt2") if len(gpt2_like) < len(llama_like) else (llama_like, "llama")
    if missing:
        raise JslmError(
            f"GGUF cannot express {'; '.join(missing)}; the nearest format that can is one file of safetensors: "
            "export with --format safetensors"
        )
    family = kind if kind == "gpt2" else llama_family(model)
    # Llama's program takes biases as well, and a table of frequencies, which Qwen's two have not.
    return "llama" if family == "qwen2" and _needs_frequencies(model) else family


def write_hyperparameters(writer: GGUFWriter, model: ModelConfig, architecture: str) -> None:
    """Adds the keys `<architecture>.*` to the file's metadata."""
    writer.add_vocab_size(model.vocab_size)
    writer.add_context_length(model.context_length)
    writer.add_embedding_length(model.d_model)
    writer.add_block_count(model.n_layers)
    writer.add_feed_forward_length(model.hidden_dim)
    writer.add_head_count(model.n_heads)
    writer.add_head_count_kv(model.kv_heads)
    if architecture == "gpt2":
        writer.add_layer_norm_eps(model.norm_eps)
        return
    writer.add_layer_norm_rms_eps(model.norm_eps)
    writer.add_key_length(model.dim_per_head)
    writer.add_value_length(model.dim_per_head)
    writer.add_rope_dimension_count(model.dim_per_head)
    writer.add_rope_freq_base(rope_base(model))
    _write_rope_scaling(writer, model)


def tensor_names(architecture: str) -> Names:
    """llama.cpp's names of an architecture's tensors, and how they are laid out."""
    parts = {"attention_norm": "attn_norm", "mlp_norm": "ffn_norm", "out": "attn_output"}
    parts |= {name: f"ffn_{name}" for name in ("gate", "up", "down")}
    # GPT-2's query, key and value are one.
    parts |= {name: f"attn_{name}" for name in (("qkv",) if architecture == "gpt2" else (*"qkv", "q_norm", "k_norm"))}
    return Names(
        tokens="token_embd.weight",
        positions="position_embd.weight",
        head="output.weight",
        final_norm="output_norm",
        layer="blk.{}",
        parts=parts,
        neighbours=architecture in ("llama", "arcee"),
    )


def model_tensors(params: Mapping[str, Any], model: ModelConfig, architecture: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of each tensor, matrices as `[out, in]`, tables cut to the true vocabulary."""
    if architecture == "gpt2":
        # llama.cpp's GPT-2 always adds biases; zeros change nothing.
        biases = dict.fromkeys(("qkv_bias", "out_bias", "mlp_bias", "norm_bias"), True)
        params = with_zeros(params, model.model_copy(update=biases))
    if (factors := frequency_factors(model)) is not None:
        yield "rope_freqs.weight", factors
    yield from tree_tensors(params, model, tensor_names(architecture))


def rope_keys(model: ModelConfig) -> dict[str, Any]:
    """The keys after `rope.scaling.` that say how the rotary frequencies are stretched, those that there are."""
    scaling = model.rope_scaling
    if _needs_frequencies(model):
        return {"attn_factor": rotary_frequencies(model)[1]}
    if scaling.kind == "linear":
        return {"type": "linear", "factor": scaling.factor}
    if scaling.kind == "yarn":
        # llama.cpp itself multiplies by 0.1 ln(factor) + 1.
        attention = rotary_frequencies(model)[1] / (0.1 * math.log(scaling.factor) + 1.0)
        original = int(_original_context(model))
        return {
            "type": "yarn",
            "factor": scaling.factor,
            "original_context_length": original,
            "attn_factor": attention,
        }
    return {}


def frequency_factors(model: ModelConfig) -> np.ndarray | None:
    """`rope_freqs.weight`, by which llama.cpp divides each plain frequency; None where its keys say it all."""
    if not _needs_frequencies(model):
        return None
    plain = model.rope_theta ** -(np.arange(0, model.dim_per_head, 2) / model.dim_per_head)
    return np.asarray(plain / rotary_frequencies(model)[0], np.float32)


def rope_base(model: ModelConfig) -> float:
    """The base of the frequencies; NTK scaling is another base and nothing else."""
    scaling, dim = model.rope_scaling, model.dim_per_head
    return model.rope_theta * scaling.factor ** (dim / max(dim - 2, 1)) if scaling.kind == "ntk" else model.rope_theta


def _write_rope_scaling(writer: GGUFWriter, model: ModelConfig) -> None:
    keys, scaling = rope_keys(model), model.rope_scaling
    if "type" in keys:
        writer.add_rope_scaling_type(load_extra("gguf", "convert", "writing GGUF").RopeScalingType(keys["type"]))
        writer.add_rope_scaling_factor(keys["factor"])
    if "original_context_length" in keys:
        writer.add_rope_scaling_orig_ctx_len(keys["original_context_length"])
    if "attn_factor" in keys:
        writer.add_rope_scaling_attn_factors(keys["attn_factor"])
    if scaling.kind != "none":
        # What these came from, in full precision: jslm reads it again where they still say the same.
        writer.add_string("jslm.rope_scaling", json.dumps({"rope_theta": model.rope_theta, **scaling.model_dump()}))


def _needs_frequencies(model: ModelConfig) -> bool:
    """Whether the scaling goes into the file as a factor for each frequency: llama.cpp has no name for it.

    Its own YaRN has betas of 32 and 1, whatever the file says, and a whole number of positions.
    """
    scaling = model.rope_scaling
    plain_yarn = (scaling.beta_fast, scaling.beta_slow) == (32.0, 1.0) and _original_context(model).is_integer()
    return scaling.kind == "llama3" or (scaling.kind == "yarn" and not plain_yarn)


def _original_context(model: ModelConfig) -> float:
    scaling = model.rope_scaling
    return float(scaling.original_context_length or model.context_length / scaling.factor)


def _beyond_llama(model: ModelConfig) -> list[str]:
    """What llama.cpp's Llama, Qwen2, Qwen3 and Arcee lack, an entry an option."""
    found = beyond_llama_shape(model)
    if model.activation not in ("swiglu", "relu2"):
        found.append(f"model.activation = {model.activation!r} (Llama has 'swiglu' and Arcee 'relu2')")
    if model.qk_norm:
        # Only Qwen3's program has the norms.
        if model.activation == "relu2":
            found.append("model.activation = 'relu2' with model.qk_norm (Qwen3 has 'swiglu')")
        found += [f"model.{name} with model.qk_norm" for name in ("out_bias", "mlp_bias") if getattr(model, name)]
        if _needs_frequencies(model):
            how = "" if model.rope_scaling.kind == "llama3" else " other than by YaRN's usual betas"
            found.append(f"model.rope_scaling.kind = {model.rope_scaling.kind!r}{how} with model.qk_norm")
    elif model.activation == "relu2":
        names = [name for name in ("out_bias", "mlp_bias") if getattr(model, name)]
        found += [f"model.{name} with model.activation = 'relu2' (Arcee has none)" for name in names]
    return found


def _beyond_gpt2(model: ModelConfig) -> list[str]:
    """What llama.cpp's GPT-2 lacks, an entry an option."""
    found = beyond_gpt2_shape(model)
    if model.activation != "gelu":
        found.append(f"model.activation = {model.activation!r} (GPT-2 has 'gelu')")
    return found
