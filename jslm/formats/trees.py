"""The parameter tree under another program's names, both ways.

What a program calls the parts is a table, `Names`. How it lays them out differs in four ways, which are fields of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jslm.config import ModelConfig
from jslm.formats.weights import TensorReader, layer_at, pad_rows, stack_layers
from jslm.model import param_shapes

# In a layer of GPT-2 and of what follows its code.
GPT2_PARTS = {
    "attention_norm": "ln_1",
    "mlp_norm": "ln_2",
    "qkv": "attn.c_attn",
    "out": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}
_NORMS = ("attention_norm", "mlp_norm")


@dataclass(frozen=True)
class Names:
    """Names of tensors; those of norms, and of what is in `parts`, without `.weight` and `.bias`.

    `layer`: what stands before the names of a layer, with `{}` for its number. `parts`: jslm's name of each projection
    and norm of a layer, and theirs; with `qkv`, query, key and value are one matrix. `scale`: how names of norms'
    scales end. `turned`: matrices are `[out, in]`; else `[in, out]`, as here. `neighbours`: rotation turns row 2i of a
    head's query and key with row 2i + 1, as in Meta's files; else i with i + head_dim / 2, as here.
    """

    tokens: str
    head: str
    final_norm: str
    layer: str
    parts: Mapping[str, str]
    positions: str = ""
    scale: str = "weight"
    turned: bool = True
    neighbours: bool = False


def read_tree(tensors: TensorReader, model: ModelConfig, names: Names) -> dict[str, Any]:
    """The whole tree in float32. Raises JslmError where a tensor is missing, left over, or of another shape than
    `model` has."""
    table = (model.vocab_size, model.d_model)
    # Of one table with two names, some programs save the head's alone.
    is_head = model.tie_embeddings and names.head in tensors
    embed = {"tokens": pad_rows(tensors.take(names.head if is_head else names.tokens, *table), model.padded_vocab_size)}
    if is_head and names.tokens in tensors:
        tensors.take(names.tokens, *table)
    if model.position == "learned":
        embed["positions"] = np.array(tensors.take(names.positions, model.context_length, model.d_model))
    final_norm = read_norm(tensors, names.final_norm, model, names.scale)
    params: dict[str, Any] = {
        "embed": embed,
        "layers": stack_layers(read_layer(tensors, model, index, names) for index in range(model.n_layers)),
        # Copies: what is taken may be a view of the file.
        "final_norm": {name: np.array(vector) for name, vector in final_norm.items()},
    }
    if not model.tie_embeddings:
        params["head"] = {"tokens": pad_rows(tensors.take(names.head, *table), model.padded_vocab_size)}
    tensors.finish()
    return params


def read_layer(tensors: TensorReader, model: ModelConfig, index: int, names: Names) -> dict[str, Any]:
    """The tree of one layer. Raises JslmError where a tensor is missing or of another shape than `model` has."""
    at, width = names.layer.format(index), model.d_model
    heads, kv_heads = model.n_heads * model.dim_per_head, model.kv_heads * model.dim_per_head

    def linear(part: str, d_in: int, d_out: int, has_bias: bool) -> dict[str, np.ndarray]:
        name = f"{at}.{names.parts[part]}"
        weight = tensors.take(f"{name}.weight", *((d_out, d_in) if names.turned else (d_in, d_out)))
        found = {"kernel": weight.T if names.turned else weight}
        return found | ({"bias": tensors.take(f"{name}.bias", d_out)} if has_bias else {})

    attention: dict[str, Any]
    if "qkv" in names.parts:
        joined = linear("qkv", width, heads + 2 * kv_heads, model.qkv_bias)
        split = {kind: np.split(array, [heads, heads + kv_heads], axis=-1) for kind, array in joined.items()}
        attention = {name: {kind: arrays[place] for kind, arrays in split.items()} for place, name in enumerate("qkv")}
    else:
        sizes = zip("qkv", (heads, kv_heads, kv_heads), strict=True)
        attention = {name: linear(name, width, size, model.qkv_bias) for name, size in sizes}
    if names.neighbours:
        for name, count in (("q", model.n_heads), ("k", model.kv_heads)):
            attention[name] = {kind: to_halves(array, count) for kind, array in attention[name].items()}
    attention["out"] = linear("out", heads, width, model.out_bias)
    if model.qk_norm:
        for part in ("q_norm", "k_norm"):
            attention[part] = {"scale": tensors.take(f"{at}.{names.parts[part]}.{names.scale}", model.dim_per_head)}
    mlp = {"gate": (width, model.hidden_dim)} if model.is_gated else {}
    mlp |= {"up": (width, model.hidden_dim), "down": (model.hidden_dim, width)}
    return {
        "attention": attention,
        "mlp": {part: linear(part, *size, model.mlp_bias) for part, size in mlp.items()},
        **{part: read_norm(tensors, f"{at}.{names.parts[part]}", model, names.scale) for part in _NORMS},
    }


def read_norm(tensors: TensorReader, name: str, model: ModelConfig, scale: str = "weight") -> dict[str, np.ndarray]:
    """A norm over the residual stream. Raises JslmError where a tensor is missing or of another shape."""
    found = {"scale": tensors.take(f"{name}.{scale}", model.d_model)}
    has_bias = model.norm == "layernorm" and model.norm_bias
    return found | ({"bias": tensors.take(f"{name}.bias", model.d_model)} if has_bias else {})


def tree_tensors(params: Mapping[str, Any], model: ModelConfig, names: Names) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of each tensor of `params`, layer by layer, tables cut to the true vocabulary."""
    yield names.tokens, _float32(params["embed"]["tokens"])[: model.vocab_size]
    if "positions" in params["embed"]:
        yield names.positions, _float32(params["embed"]["positions"])
    if "head" in params:
        yield names.head, _float32(params["head"]["tokens"])[: model.vocab_size]
    yield from _norm(params["final_norm"], names.final_norm, names)
    for index in range(model.n_layers):
        yield from _layer_tensors(layer_at(params["layers"], index), names.layer.format(index), model, names)


def with_zeros(params: Mapping[str, Any], model: ModelConfig) -> dict[str, Any]:
    """`params` with zeros for the biases that `model` has and they have not."""
    return _filled(params, param_shapes(model))


def to_halves(columns: np.ndarray, heads: int) -> np.ndarray:
    """The last axis of each head from pairs (0, d/2, 1, d/2+1, ...) to halves (0..d/2, d/2..d)."""
    pairs = columns.reshape(*columns.shape[:-1], heads, -1, 2)
    return pairs.swapaxes(-1, -2).reshape(columns.shape)


def to_pairs(columns: np.ndarray, heads: int) -> np.ndarray:
    """The last axis of each head from halves (0..d/2, d/2..d) to pairs (0, d/2, 1, d/2+1, ...)."""
    halves = columns.reshape(*columns.shape[:-1], heads, 2, -1)
    return halves.swapaxes(-1, -2).reshape(columns.shape)


def _filled(tree: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, leaf in wanted.items():
        if isinstance(leaf, Mapping):
            found[name] = _filled(tree.get(name, {}), leaf)
        else:
            found[name] = tree[name] if name in tree else np.zeros(leaf.shape, np.float32)
    return found


def _layer_tensors(
    layer: Mapping[str, Any], at: str, model: ModelConfig, names: Names
) -> Iterator[tuple[str, np.ndarray]]:
    linears: dict[str, Any] = {**layer["attention"], **layer["mlp"]}
    for part in _NORMS:
        yield from _norm(layer[part], f"{at}.{names.parts[part]}", names)
    for part in ("q_norm", "k_norm"):
        if part in linears:
            yield from _norm(linears.pop(part), f"{at}.{names.parts[part]}", names)
    if names.neighbours:
        for part, heads in (("q", model.n_heads), ("k", model.kv_heads)):
            linears[part] = {kind: to_pairs(array, heads) for kind, array in linears[part].items()}
    if "qkv" in names.parts:
        separate = [linears.pop(part) for part in "qkv"]
        linears["qkv"] = {kind: np.concatenate([one[kind] for one in separate], axis=-1) for kind in separate[0]}
    for part, linear in linears.items():
        kernel = _float32(linear["kernel"])
        yield f"{at}.{names.parts[part]}.weight", kernel.T if names.turned else kernel
        if "bias" in linear:
            yield f"{at}.{names.parts[part]}.bias", _float32(linear["bias"])


def _norm(norm: Mapping[str, Any], name: str, names: Names) -> Iterator[tuple[str, np.ndarray]]:
    yield f"{name}.{names.scale}", _float32(norm["scale"])
    if "bias" in norm:
        yield f"{name}.bias", _float32(norm["bias"])


def _float32(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)
