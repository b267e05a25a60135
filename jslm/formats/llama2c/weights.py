"""The tensors of llama2.c's models, by its names and in the order of its `.bin` files, and the same as jslm's tree.

llama2.c: `model.py` for the names, `legacy_export` in `export.py` for the order. Three things differ from jslm's:
matrices are `[out, in]`, rotation turns neighbours (2i, 2i + 1) and not i with i + head_dim / 2, and tables aren't
padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32

from jslm.config import ModelConfig
from jslm.formats.trees import to_halves, to_pairs

# In a layer: llama2.c's name, and ours.
LAYER_TENSORS = {
    "attention_norm": ("attention_norm", "scale"),
    "attention.wq": ("attention", "q", "kernel"),
    "attention.wk": ("attention", "k", "kernel"),
    "attention.wv": ("attention", "v", "kernel"),
    "attention.wo": ("attention", "out", "kernel"),
    "ffn_norm": ("mlp_norm", "scale"),
    "feed_forward.w1": ("mlp", "gate", "kernel"),
    "feed_forward.w2": ("mlp", "down", "kernel"),
    "feed_forward.w3": ("mlp", "up", "kernel"),
}
TABLES = ("freqs_cos", "freqs_sin")


def tensor_shapes(model: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors in the order of the file, those of layers with `n_layers` in front."""
    d_model, kv_dim = model.d_model, model.kv_heads * model.dim_per_head
    layer = {
        "attention_norm": (d_model,),
        "attention.wq": (d_model, d_model),
        "attention.wk": (kv_dim, d_model),
        "attention.wv": (kv_dim, d_model),
        "attention.wo": (d_model, d_model),
        "ffn_norm": (d_model,),
        "feed_forward.w1": (model.hidden_dim, d_model),
        "feed_forward.w2": (d_model, model.hidden_dim),
        "feed_forward.w3": (model.hidden_dim, d_model),
    }
    table = (model.context_length, model.dim_per_head // 2)
    return {
        "tok_embeddings": (model.vocab_size, d_model),
        **{name: (model.n_layers, *shape) for name, shape in layer.items()},
        "norm": (d_model,),
        **dict.fromkeys(TABLES, table),
        **({} if model.tie_embeddings else {"output": (model.vocab_size, d_model)}),
    }


def params_of(tensors: Mapping[str, np.ndarray], model: ModelConfig) -> dict[str, Any]:
    """jslm's tree, in arrays of its own, from tensors with the names and shapes of `tensor_shapes`."""
    params: dict[str, Any] = {"embed": {"tokens": _padded(tensors["tok_embeddings"], model)}}
    for name, path in LAYER_TENSORS.items():
        array = tensors[name]
        if path[-1] == "kernel":
            array = array.swapaxes(1, 2)
            if heads := _rotated_heads(name, model):
                array = to_halves(array, heads)
        branch = params.setdefault("layers", {})
        for part in path[:-1]:
            branch = branch.setdefault(part, {})
        branch[path[-1]] = np.array(array, np.float32, order="C")
    params["final_norm"] = {"scale": np.array(tensors["norm"], np.float32)}
    if not model.tie_embeddings:
        params["head"] = {"tokens": _padded(tensors["output"], model)}
    return params


def tensor_of(name: str, params: Mapping[str, Any], model: ModelConfig) -> np.ndarray:
    """The tensor that llama2.c calls `name`, of the shape that `tensor_shapes` says; not for the rotary tables."""
    if name == "norm":
        return np.asarray(params["final_norm"]["scale"], np.float32)
    if name in ("tok_embeddings", "output"):
        table = params["embed" if name == "tok_embeddings" else "head"]["tokens"]
        return np.asarray(table[: model.vocab_size], np.float32)
    array: Any = params["layers"]
    for part in LAYER_TENSORS[name]:
        array = array[part]
    if LAYER_TENSORS[name][-1] == "kernel":
        if heads := _rotated_heads(name, model):
            array = to_pairs(np.asarray(array), heads)
        array = np.swapaxes(array, 1, 2)
    return np.asarray(array, np.float32)


def rotary_tables(model: ModelConfig) -> Float32[np.ndarray, "2 context_length half_head_dim"]:
    """Cosines and sines of position * 10000**(-2i / head_dim), of angles rounded to float32 as llama2.c's are."""
    exponents = np.arange(0, model.dim_per_head, 2, dtype=np.float32) / np.float32(model.dim_per_head)
    frequencies = np.float32(1) / np.float32(10000) ** exponents
    angles = np.outer(np.arange(model.context_length, dtype=np.float32), frequencies).astype(np.float64)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def _rotated_heads(name: str, model: ModelConfig) -> int:
    return {"attention.wq": model.n_heads, "attention.wk": model.kv_heads}.get(name, 0)


def _padded(table: np.ndarray, model: ModelConfig) -> np.ndarray:
    padded = np.zeros((model.padded_vocab_size, model.d_model), np.float32)
    padded[: model.vocab_size] = table
    return padded
