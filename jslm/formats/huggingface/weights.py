"""The parameter tree as the tensors of Hugging Face transformers, both ways.

Linear layers are `[out, in]` there and `[in, out]` in GPT-2's `Conv1D`, as in jslm; rotary pairs are halves in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jslm.config import ModelConfig
from jslm.errors import JslmError
from jslm.formats.weights import TensorReader, is_causal_mask, layer_at, pad_rows, stack_layers, tied_by_its_tensors
from jslm.model.rope import rotary_frequencies

_PROJECTIONS = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "out": "o_proj"}
_HEAD = "lm_head.weight"


def with_its_head(tensors: TensorReader, model: ModelConfig, family: str) -> ModelConfig:
    """`model` with `tie_embeddings` as the tensors have it: a head of other weights than the embedding is kept.

    Raises JslmError where the config says that there is a head of its own, and there is none.
    """
    if _HEAD not in tensors:
        if not model.tie_embeddings:
            raise JslmError(
                f"{tensors.where}: no tensor {_HEAD}: either a model without its output head, or one whose config.json "
                "lacks tie_word_embeddings = true"
            )
        return model
    name, table = _embedding(family), (model.vocab_size, model.d_model)
    if not model.tie_embeddings or name not in tensors:
        return model
    is_tied = tied_by_its_tensors(tensors.where, True, tensors.take(name, *table), tensors.take(_HEAD, *table))
    return model.model_copy(update={"tie_embeddings": is_tied})


def read_params(tensors: TensorReader, model: ModelConfig, family: str) -> dict[str, Any]:
    """The parameter tree in float32. The names in `tensors` have no `model.` or `transformer.` before them.

    Raises JslmError where a tensor is missing, left over, or of another shape than `model` has.
    """
    _pass_over_buffers(tensors, model)
    is_gpt2 = family == "gpt2"
    table = (model.vocab_size, model.d_model)
    # Of one table with two names, some programs save the head's alone.
    source = _HEAD if model.tie_embeddings and _HEAD in tensors else _embedding(family)
    embed = {"tokens": pad_rows(tensors.take(source, *table), model.padded_vocab_size)}
    if is_gpt2:
        embed["positions"] = tensors.take("wpe.weight", model.context_length, model.d_model)
    read_layer = _read_gpt2_layer if is_gpt2 else _read_llama_layer
    params: dict[str, Any] = {
        "embed": embed,
        "layers": stack_layers(read_layer(tensors, model, index) for index in range(model.n_layers)),
        "final_norm": _read_norm(tensors, "ln_f" if is_gpt2 else "norm", model),
    }
    if not model.tie_embeddings:
        params["head"] = {"tokens": pad_rows(tensors.take(_HEAD, *table), model.padded_vocab_size)}
    tensors.finish()
    return params


def named_tensors(params: Mapping[str, Any], model: ModelConfig, family: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of each tensor, with the names that `from_pretrained` looks for."""
    is_gpt2 = family == "gpt2"
    prefix = "transformer." if is_gpt2 else "model."
    rows = slice(model.vocab_size)
    tokens = np.asarray(params["embed"]["tokens"], np.float32)[rows]
    yield prefix + ("wte.weight" if is_gpt2 else "embed_tokens.weight"), tokens
    if is_gpt2:
        yield prefix + "wpe.weight", np.asarray(params["embed"]["positions"], np.float32)
    write_layer = _gpt2_layer if is_gpt2 else _llama_layer
    for index in range(model.n_layers):
        for name, array in write_layer(layer_at(params["layers"], index), index):
            yield prefix + name, array
    for name, array in _norm(params["final_norm"], "ln_f" if is_gpt2 else "norm"):
        yield prefix + name, array
    if "head" in params:
        yield "lm_head.weight", np.asarray(params["head"]["tokens"], np.float32)[rows]


def _embedding(family: str) -> str:
    return "wte.weight" if family == "gpt2" else "embed_tokens.weight"


def _pass_over_buffers(tensors: TensorReader, model: ModelConfig) -> None:
    """Old versions of transformers saved what the config says anyway; where it says another thing, one of them lies."""
    plain = model.rope_theta ** -(np.arange(0, model.dim_per_head, 2) / model.dim_per_head)
    known = [plain] if model.position != "rope" else [plain, rotary_frequencies(model)[0]]

    def is_known(array: np.ndarray) -> bool:
        # They may have been saved in 16 bits.
        found = np.asarray(array, np.float64)
        return any(found.shape == one.shape and np.allclose(found, one, rtol=0.02, atol=1e-7) for one in known)

    def ends(*names: str) -> Callable[[str], bool]:
        return lambda name: f".{name}".endswith(names)

    counts = "the config counts, as in transformers"
    tensors.pass_over(ends(".rotary_emb.inv_freq"), is_known, "what its config's rope_theta gives", otherwise=counts)
    tensors.pass_over(ends(".attn.bias"), is_causal_mask, "a mask of the future")
    tensors.pass_over(ends(".attn.masked_bias"), lambda array: array.size == 1, "one number")


def _read_llama_layer(tensors: TensorReader, model: ModelConfig, index: int) -> dict[str, Any]:
    at, width = f"layers.{index}", model.d_model
    heads, kv_heads = model.n_heads * model.dim_per_head, model.kv_heads * model.dim_per_head

    def linear(name: str, d_in: int, d_out: int, bias: bool) -> dict[str, Any]:
        weight = {"kernel": tensors.take(f"{at}.{name}.weight", d_out, d_in).T}
        return weight | ({"bias": tensors.take(f"{at}.{name}.bias", d_out)} if bias else {})

    attention: dict[str, Any] = {
        name: linear(f"self_attn.{theirs}", heads if name == "out" else width, size, bias)
        for (name, theirs), size, bias in zip(
            _PROJECTIONS.items(),
            (heads, kv_heads, kv_heads, width),
            (model.qkv_bias, model.qkv_bias, model.qkv_bias, model.out_bias),
            strict=True,
        )
    }
    if model.qk_norm:
        for name in ("q_norm", "k_norm"):
            attention[name] = {"scale": tensors.take(f"{at}.self_attn.{name}.weight", model.dim_per_head)}
    sizes = {"gate": (width, model.hidden_dim)} if model.is_gated else {}
    sizes |= {"up": (width, model.hidden_dim), "down": (model.hidden_dim, width)}
    return {
        "attention_norm": _read_norm(tensors, f"{at}.input_layernorm", model),
        "attention": attention,
        "mlp_norm": _read_norm(tensors, f"{at}.post_attention_layernorm", model),
        "mlp": {name: linear(f"mlp.{name}_proj", *size, model.mlp_bias) for name, size in sizes.items()},
    }


def _read_gpt2_layer(tensors: TensorReader, model: ModelConfig, index: int) -> dict[str, Any]:
    at, width = f"h.{index}", model.d_model

    def linear(name: str, d_in: int, d_out: int) -> dict[str, np.ndarray]:
        return {
            "kernel": tensors.take(f"{at}.{name}.weight", d_in, d_out),
            "bias": tensors.take(f"{at}.{name}.bias", d_out),
        }

    joined = linear("attn.c_attn", width, 3 * width)
    parts = {name: np.split(array, 3, axis=-1) for name, array in joined.items()}
    attention = {
        name: {kind: split[part] for kind, split in parts.items()} for part, name in enumerate(("q", "k", "v"))
    }
    return {
        "attention_norm": _read_norm(tensors, f"{at}.ln_1", model),
        "attention": {**attention, "out": linear("attn.c_proj", width, width)},
        "mlp_norm": _read_norm(tensors, f"{at}.ln_2", model),
        "mlp": {
            "up": linear("mlp.c_fc", width, model.hidden_dim),
            "down": linear("mlp.c_proj", model.hidden_dim, width),
        },
    }


def _read_norm(tensors: TensorReader, name: str, model: ModelConfig) -> dict[str, np.ndarray]:
    norm = {"scale": tensors.take(f"{name}.weight", model.d_model)}
    return norm | ({"bias": tensors.take(f"{name}.bias", model.d_model)} if model.norm == "layernorm" else {})


def _llama_layer(layer: Mapping[str, Any], index: int) -> Iterator[tuple[str, np.ndarray]]:
    at, attention = f"layers.{index}", layer["attention"]
    yield from _norm(layer["attention_norm"], f"{at}.input_layernorm")
    yield from _norm(layer["mlp_norm"], f"{at}.post_attention_layernorm")
    linears = {f"self_attn.{theirs}": attention[name] for name, theirs in _PROJECTIONS.items()}
    linears |= {f"mlp.{name}_proj": linear for name, linear in layer["mlp"].items()}
    for name, linear in linears.items():
        yield f"{at}.{name}.weight", linear["kernel"].T
        if "bias" in linear:
            yield f"{at}.{name}.bias", linear["bias"]
    for name in ("q_norm", "k_norm"):
        if name in attention:
            yield from _norm(attention[name], f"{at}.self_attn.{name}")


def _gpt2_layer(layer: Mapping[str, Any], index: int) -> Iterator[tuple[str, np.ndarray]]:
    at, attention = f"h.{index}", layer["attention"]
    yield from _norm(layer["attention_norm"], f"{at}.ln_1")
    yield from _norm(layer["mlp_norm"], f"{at}.ln_2")
    joined = {
        kind: np.concatenate([attention[name][kind] for name in ("q", "k", "v")], axis=-1)
        for kind in ("kernel", "bias")
    }
    linears = {"attn.c_attn": joined, "attn.c_proj": attention["out"]}
    linears |= {"mlp.c_fc": layer["mlp"]["up"], "mlp.c_proj": layer["mlp"]["down"]}
    for name, linear in linears.items():
        yield f"{at}.{name}.weight", linear["kernel"]
        yield f"{at}.{name}.bias", linear["bias"]


def _norm(norm: Mapping[str, Any], name: str) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.weight", np.asarray(norm["scale"], np.float32)
    if "bias" in norm:
        yield f"{name}.bias", np.asarray(norm["bias"], np.float32)
