"""Checkpoints of CohleM/lilLM: Llama's shape, with neighbours rotated together and the config pickled as a dataclass.

Its `model/model.py` turns the pair (2i, 2i + 1) of each head as one complex number; jslm turns i with
i + head_dim / 2, so the rows of the query and key projections change places. The base is 10,000, and the head is the
token embedding. Its tokenizer's `tokenizer.json` is to be put beside the checkpoint; `<s>` is 1 and `</s>` is 2.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config, ModelConfig
from jslm.errors import JslmError
from jslm.formats.pickles.torch_checkpoint import (
    TorchCheckpoint,
    describe_checkpoint,
    has_tensors,
    make_config,
    open_checkpoint,
    tokenizer_beside,
)
from jslm.formats.trees import Names, read_tree
from jslm.formats.weights import is_causal_mask, tied_by_its_tensors
from jslm.runs.bundle import Bundle, Format
from jslm.tokenizer import Tokenizer

_TOKENS, _NORM, _HEAD = "tok_emb.weight", "norm", "lm_head.weight"
_PARTS = {
    "attention_norm": "attn_norm",
    "mlp_norm": "ffn_norm",
    "q": "attn.wq",
    "k": "attn.wk",
    "v": "attn.wv",
    "out": "attn.wo",
    "gate": "ffn.w1",
    "down": "ffn.w2",
    "up": "ffn.w3",
}
_NAMES = Names(_TOKENS, _HEAD, _NORM, "transformer_blocks.{}", _PARTS, scale="gain", neighbours=True)
_KNOWN = (
    *("vocab_size", "d_model", "n_layers", "max_seq_len", "q_heads", "kv_heads", "hidden_dim", "eps"),
    # How it is trained and run.
    *("multiple_of", "dropout", "max_batch_size", "flash"),
)
_IDS = {"bos_token_id": 1, "eos_token_id": 2}


def detect(path: Path) -> bool:
    """Whether the checkpoint has the names of lilLM."""
    return has_tensors(path, _TOKENS, f"{_NORM}.gain")


def describe(path: Path) -> dict[str, Any]:
    """Shape, without reading the weights. Raises JslmError for a bad file."""
    checkpoint = open_checkpoint(path)
    config = _config(checkpoint, _settings(checkpoint), None)
    return describe_checkpoint(checkpoint, "lilLM checkpoint", config, "tokenizer.json beside the file")


def read(path: Path) -> Bundle:
    """The model. Raises JslmError where a tensor, the config or the tokenizer is missing or does not fit."""
    checkpoint = open_checkpoint(path)
    settings = _settings(checkpoint)
    tokenizer = tokenizer_beside(checkpoint, checkpoint.shape(_TOKENS)[0], _IDS)
    config = _config(checkpoint, settings, tokenizer)
    model = config.model
    tensors = checkpoint.reader()
    # Masks and rotary tables, which some versions saved.
    tensors.pass_over(lambda name: name.endswith(".mask"), is_causal_mask, "a mask of the future")
    tensors.pass_over("freq_cis".__eq__, functools.partial(_turns_as, model), "the rotation of base 10,000")
    params = read_tree(tensors, model, _NAMES)
    figures = checkpoint.figures(val__loss="best_val_loss", steps="num_iter")
    return Bundle(config, params, tokenizer, ends_documents=True, figures=figures, source=str(path))


def _turns_as(model: ModelConfig, found: np.ndarray) -> bool:
    """Whether `found`, complex `[..., positions, head_dim / 2]` or pairs of its parts, turns as jslm does."""
    turns = (
        found if np.iscomplexobj(found) else found[..., 0] + 1j * found[..., 1] if found.shape[-1:] == (2,) else None
    )
    if turns is None or turns.ndim < 2 or turns.shape[-1] != model.dim_per_head // 2:
        return False
    frequencies = 10000.0 ** -(np.arange(0, model.dim_per_head, 2) / model.dim_per_head)
    wanted = np.exp(1j * np.outer(np.arange(turns.shape[-2]), frequencies))
    return np.allclose(turns, wanted, rtol=0.0, atol=1e-2)


def _settings(checkpoint: TorchCheckpoint) -> dict[str, Any]:
    settings = checkpoint.settings("config", _KNOWN, "lilLM")
    missing = [name for name in ("q_heads", "kv_heads", "max_seq_len") if name not in settings]
    if missing:
        raise JslmError(f"{checkpoint.path}: its config has no {', '.join(missing)}; the file is incomplete")
    return settings


def _config(checkpoint: TorchCheckpoint, settings: Mapping[str, Any], tokenizer: Tokenizer | None) -> Config:
    vocab_size, d_model = checkpoint.shape(_TOKENS)
    embedding = checkpoint.tensors[_TOKENS]
    model = {
        "n_layers": checkpoint.count(r"transformer_blocks\.(\d+)\."),
        "d_model": d_model,
        "n_heads": settings["q_heads"],
        "n_kv_heads": settings["kv_heads"],
        "d_ff": checkpoint.shape("transformer_blocks.0.ffn.w1.weight")[0],
        "context_length": settings["max_seq_len"],
        "vocab_size": vocab_size,
        "norm": "rmsnorm",
        "norm_eps": settings.get("eps", 1e-6),
        "position": "rope",
        "rope_theta": 10000.0,
        "activation": "swiglu",
        # lilLM's own are tied.
        "tie_embeddings": tied_by_its_tensors(str(checkpoint.path), True, embedding, checkpoint.tensors.get(_HEAD)),
    }
    return make_config(checkpoint, model, tokenizer)


FORMAT = Format(
    name="lillm",
    summary="lilLM's .pt, with its tokenizer.json beside it",
    detect=detect,
    describe=describe,
    read=read,
)
