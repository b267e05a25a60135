"""Checkpoints of broskicodes/slms: a small GPT with ReLU and every head's projections apart.

Its `model.py` scales attention by `d_model**-0.5`, not by the width of a head: the queries take the difference. Its
head has a bias, which goes into the final norm (see `head_bias`). The tokenizer is a Hugging Face one, to be put beside
the checkpoint as `tokenizer.json`; `<|im_end|>`, id 2, closes and pads each story.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config
from jslm.formats.head_bias import fold_head_bias
from jslm.formats.pickles.torch_checkpoint import (
    TorchCheckpoint,
    describe_checkpoint,
    has_tensors,
    make_config,
    open_checkpoint,
    tokenizer_beside,
)
from jslm.formats.trees import read_norm
from jslm.formats.weights import TensorReader, is_causal_mask, pad_rows, stack_layers
from jslm.runs.bundle import Bundle, Format
from jslm.tokenizer import Tokenizer

_log = logging.getLogger("jslm")
_TOKENS, _POSITIONS = "token_embedding_table.weight", "position_embedding_table.weight"
_IDS = {"eos_token_id": 2}


def detect(path: Path) -> bool:
    """Whether the checkpoint has the names of slms."""
    return has_tensors(path, _TOKENS, _POSITIONS)


def describe(path: Path) -> dict[str, Any]:
    """Shape, without reading the weights. Raises JslmError for a bad file."""
    checkpoint = open_checkpoint(path)
    config = _config(checkpoint, None)
    return describe_checkpoint(checkpoint, "slms checkpoint", config, "tokenizer.json beside the file")


def read(path: Path) -> Bundle:
    """The model. Raises JslmError where a tensor or the tokenizer is missing or does not fit."""
    checkpoint = open_checkpoint(path)
    tokenizer = tokenizer_beside(checkpoint, checkpoint.shape(_TOKENS)[0], _IDS)
    config = _config(checkpoint, tokenizer)
    model = config.model
    tensors = checkpoint.reader()
    tensors.pass_over(lambda name: name.endswith(".tril"), is_causal_mask, "a mask of the future")
    table, scale, bias = fold_head_bias(
        tensors.take("lm_head.weight", model.vocab_size, model.d_model),
        tensors.take("ln_f.weight", model.d_model),
        tensors.take("ln_f.bias", model.d_model),
        tensors.take("lm_head.bias", model.vocab_size),
    )
    _log.info("%s: the head's bias went into the final norm, and attention's scale into the queries", path)
    params = {
        "embed": {
            "tokens": pad_rows(tensors.take(_TOKENS, model.vocab_size, model.d_model), model.padded_vocab_size),
            "positions": np.array(tensors.take(_POSITIONS, model.context_length, model.d_model)),
        },
        "layers": stack_layers(_layer(tensors, index, config) for index in range(model.n_layers)),
        "final_norm": {"scale": scale, "bias": bias},
        "head": {"tokens": pad_rows(table, model.padded_vocab_size)},
    }
    tensors.finish()
    figures = checkpoint.figures(val__loss="val_loss")
    return Bundle(config, params, tokenizer, ends_documents=True, figures=figures, source=str(path))


def _config(checkpoint: TorchCheckpoint, tokenizer: Tokenizer | None) -> Config:
    vocab_size, d_model = checkpoint.shape(_TOKENS)
    model = {
        "n_layers": checkpoint.count(r"blocks\.(\d+)\."),
        "d_model": d_model,
        "n_heads": checkpoint.count(r"blocks\.0\.sa_heads\.heads\.(\d+)\."),
        "head_dim": checkpoint.shape("blocks.0.sa_heads.heads.0.query.weight")[0],
        "d_ff": checkpoint.shape("blocks.0.ffwd.net.0.weight")[0],
        "context_length": checkpoint.shape(_POSITIONS)[0],
        "vocab_size": vocab_size,
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "position": "learned",
        "activation": "relu",
        "out_bias": True,
        "mlp_bias": True,
        "tie_embeddings": False,
    }
    return make_config(checkpoint, model, tokenizer)


def _layer(tensors: TensorReader, index: int, config: Config) -> dict[str, Any]:
    model, prefix = config.model, f"blocks.{index}"
    d_model, width = model.d_model, model.n_heads * model.dim_per_head

    def heads(name: str) -> np.ndarray:
        parts = [
            tensors.take(f"{prefix}.sa_heads.heads.{head}.{name}.weight", model.dim_per_head, d_model)
            for head in range(model.n_heads)
        ]
        return np.concatenate(parts).T

    def linear(name: str, d_in: int, d_out: int) -> dict[str, np.ndarray]:
        weight = tensors.take(f"{prefix}.{name}.weight", d_out, d_in)
        return {"kernel": weight.T, "bias": tensors.take(f"{prefix}.{name}.bias", d_out)}

    return {
        "attention_norm": read_norm(tensors, f"{prefix}.ln1", model),
        "attention": {
            "q": {"kernel": heads("query") * np.float32((model.dim_per_head / d_model) ** 0.5)},
            "k": {"kernel": heads("key")},
            "v": {"kernel": heads("value")},
            "out": linear("sa_heads.fc", width, d_model),
        },
        "mlp_norm": read_norm(tensors, f"{prefix}.ln2", model),
        "mlp": {
            "up": linear("ffwd.net.0", d_model, model.hidden_dim),
            "down": linear("ffwd.net.2", model.hidden_dim, d_model),
        },
    }


FORMAT = Format(
    name="slms",
    summary="broskicodes/slms' .pt, with its tokenizer.json beside it",
    detect=detect,
    describe=describe,
    read=read,
)
