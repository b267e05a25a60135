"""nanoGPT's `ckpt.pt`: GPT-2's shape in plain linear layers, with or without biases.

`model.py` of karpathy/nanoGPT. The tokenizer is `meta.pkl` (a character model's table, beside the checkpoint or in
`data/<dataset>` beside its folder, as nanoGPT keeps it), else a `tokenizer.json`, else GPT-2's, whose 50,257 rows
nanoGPT pads to 50,304.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jslm.config import Config
from jslm.errors import JslmError
from jslm.formats.head_bias import fold_head_bias
from jslm.formats.pickles.reader import read_pickle
from jslm.formats.pickles.torch_checkpoint import (
    TorchCheckpoint,
    describe_checkpoint,
    has_tensors,
    is_unreadable,
    make_config,
    open_checkpoint,
    tokenizer_beside,
)
from jslm.formats.trees import GPT2_PARTS, Names, read_layer, read_norm, with_zeros
from jslm.formats.weights import is_causal_mask, pad_rows, stack_layers, tied_by_its_tensors
from jslm.runs.bundle import Bundle, Format
from jslm.tokenizer import CharTokenizer, Tokenizer

_log = logging.getLogger("jslm")
_TOKENS, _POSITIONS = "transformer.wte.weight", "transformer.wpe.weight"
_HEAD, _NORM = "lm_head.weight", "transformer.ln_f"
_NAMES = Names(_TOKENS, _HEAD, _NORM, "transformer.h.{}", GPT2_PARTS, _POSITIONS)
_KNOWN = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
_IDS = {"eos_token_id": 50256}
# exp(-1000) is 0, and bfloat16 holds the weights that it takes.
_NEVER = -1000.0


def detect(path: Path) -> bool:
    """Whether the checkpoint has nanoGPT's names, or is a `.pt` that cannot be read: then `read` tells why."""
    return has_tensors(path, _TOKENS, _POSITIONS) or is_unreadable(path)


def describe(path: Path) -> dict[str, Any]:
    """Shape and tokenizer, without reading the weights. Raises JslmError for a bad file."""
    checkpoint = open_checkpoint(path)
    meta = _meta_path(checkpoint)
    tokenizer = f"characters of {meta}" if meta else "tokenizer.json beside the file, or GPT-2's"
    config = _config(checkpoint, _settings(checkpoint), checkpoint.shape(_TOKENS)[0], None)
    return describe_checkpoint(checkpoint, "nanoGPT checkpoint", config, tokenizer)


def read(path: Path) -> Bundle:
    """The model. Raises JslmError where a tensor, a setting or the tokenizer is missing or does not fit."""
    checkpoint = open_checkpoint(path)
    settings = _settings(checkpoint)
    rows = checkpoint.shape(_TOKENS)[0]
    meta = _meta_path(checkpoint)
    order = _character_rows(meta, rows) if meta else None
    tokenizer = CharTokenizer(order) if order is not None else tokenizer_beside(checkpoint, rows, _IDS)
    config = _config(checkpoint, settings, tokenizer.vocab_size, tokenizer)
    model = config.model
    tensors = checkpoint.reader()
    # Masks of PyTorch before 2.0; with biases the names of weights end alike, but not in `.attn.bias`.
    tensors.pass_over(lambda name: name.endswith(".attn.bias"), is_causal_mask, "a mask of the future")
    tensors.pass_over(lambda name: name.endswith(".attn.masked_bias"), lambda array: array.size == 1, "one number")
    table = tensors.take(_TOKENS, rows, model.d_model)
    head = tensors.take(_HEAD, rows, model.d_model) if _HEAD in tensors else table
    # What the file has: a head of characters has all norms have a bias.
    stored = model.model_copy(update={"norm_bias": model.qkv_bias})
    final_norm = read_norm(tensors, _NORM, stored)
    params: dict[str, Any] = {
        "embed": {"positions": np.array(tensors.take(_POSITIONS, model.context_length, model.d_model))},
        "layers": stack_layers(read_layer(tensors, stored, index, _NAMES) for index in range(model.n_layers)),
    }
    tensors.finish()
    if order is not None:
        head, scale, bias = _head_of_characters(head, final_norm, order, tokenizer)
        final_norm = {"scale": scale, "bias": bias}
        table = _rows_of_characters(table, order, tokenizer)
        _log.info(
            "%s: rows put into the order of jslm's characters; <|endoftext|> and <|unk|>, which nanoGPT has not, have "
            "rows of zeros and are never sampled",
            path,
        )
    else:
        if tokenizer.kind == "gpt2":
            _log.info("%s: no tokenizer beside it: taken to be GPT-2's, for its %s rows", path, f"{rows:,}")
        table, head = table[: tokenizer.vocab_size], head[: tokenizer.vocab_size]
    params["embed"]["tokens"] = pad_rows(table, model.padded_vocab_size)
    params["final_norm"] = {name: np.array(vector) for name, vector in final_norm.items()}
    if not model.tie_embeddings:
        params["head"] = {"tokens": pad_rows(head, model.padded_vocab_size)}
    figures = checkpoint.figures(val__loss="best_val_loss", steps="iter_num")
    params = with_zeros(params, model)
    return Bundle(config, params, tokenizer, ends_documents=order is None, figures=figures, source=str(path))


def _settings(checkpoint: TorchCheckpoint) -> dict[str, Any]:
    settings = checkpoint.settings("model_args", _KNOWN, "nanoGPT")
    if "n_head" not in settings:
        raise JslmError(f"{checkpoint.path}: model_args has no n_head; expected a checkpoint of nanoGPT's train.py")
    return settings


def _config(
    checkpoint: TorchCheckpoint, settings: Mapping[str, Any], vocab_size: int, tokenizer: Tokenizer | None
) -> Config:
    has_bias = "transformer.h.0.attn.c_attn.bias" in checkpoint.tensors
    embedding = checkpoint.tensors[_TOKENS]
    # nanoGPT's own are tied.
    is_tied = tied_by_its_tensors(str(checkpoint.path), True, embedding, checkpoint.tensors.get(_HEAD))
    is_char = tokenizer is not None and tokenizer.kind == "char" and _meta_path(checkpoint) is not None
    model = {
        "n_layers": checkpoint.count(r"transformer\.h\.(\d+)\."),
        "d_model": checkpoint.shape(_TOKENS)[1],
        "n_heads": settings["n_head"],
        "d_ff": checkpoint.shape("transformer.h.0.mlp.c_fc.weight")[0],
        "context_length": checkpoint.shape(_POSITIONS)[0],
        "vocab_size": vocab_size,
        "norm": "layernorm",
        "norm_eps": 1e-5,
        "norm_bias": has_bias or is_char,
        "position": "learned",
        # By tanh before there was a setting for biases, exactly some months after: those between do not say, and are
        # off by 0.0005 at most.
        "activation": "gelu_exact" if "bias" in settings else "gelu",
        "qkv_bias": has_bias,
        "out_bias": has_bias,
        "mlp_bias": has_bias,
        "tie_embeddings": is_tied and not is_char,
    }
    return make_config(checkpoint, model, tokenizer)


def _meta_path(checkpoint: TorchCheckpoint) -> Path | None:
    """The `meta.pkl` of the checkpoint, beside it or where nanoGPT keeps it."""
    folder = checkpoint.path.parent
    candidates = [folder / "meta.pkl"]
    settings = checkpoint.fields.get("config")
    dataset = settings.get("dataset") if isinstance(settings, dict) else None
    # The name comes from the file: it is to name a folder, and no way out of here.
    if isinstance(dataset, str) and re.fullmatch(r"\w[\w.-]*", dataset):
        candidates.append(folder.absolute().parent / "data" / dataset / "meta.pkl")
    return next((path for path in candidates if path.is_file()), None)


def _character_rows(path: Path, rows: int) -> dict[str, int]:
    """Each character's row, of a `meta.pkl`. Raises JslmError where it does not fit a table of `rows`."""
    meta = read_pickle(path)
    found = meta.get("stoi") if isinstance(meta, dict) else None
    if not isinstance(found, dict) or not all(isinstance(char, str) and len(char) == 1 for char in found):
        raise JslmError(f"{path}: no table 'stoi' of single characters; expected the meta.pkl of a character data set")
    if sorted(map(str, found.values())) != sorted(map(str, range(rows))):
        raise JslmError(
            f"{path}: {len(found):,} characters, but the checkpoint has {rows:,} rows; they do not belong together"
        )
    order = {char: int(row) for char, row in found.items()}
    if any("\ud800" <= char <= "\udfff" for char in order):
        raise JslmError(f"{path}: a lone surrogate is among its characters, which no text in UTF-8 has")
    return order


def _rows_of_characters(table: np.ndarray, order: dict[str, int], tokenizer: Tokenizer) -> np.ndarray:
    """`table` in the order of `tokenizer`, rows of zeros for its special tokens."""
    result = np.zeros((tokenizer.vocab_size, *table.shape[1:]), np.float32)
    for char, row in order.items():
        result[tokenizer.encode(char)[0]] = table[row]
    return result


def _head_of_characters(
    head: np.ndarray, norm: dict[str, np.ndarray], order: dict[str, int], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Head, and scale and bias of the final norm, that never give a special token.

    With rows of zeros alone its logit would be 0, as likely as some characters.
    """
    weights = _rows_of_characters(head, order, tokenizer)
    bias = np.full(tokenizer.vocab_size, _NEVER, np.float32)
    bias[[tokenizer.encode(char)[0] for char in order]] = 0.0
    scale = norm["scale"]
    return fold_head_bias(weights, scale, norm.get("bias", np.zeros_like(scale)), bias)


FORMAT = Format(
    name="nanogpt",
    summary="nanoGPT's ckpt.pt, for characters with its meta.pkl",
    detect=detect,
    describe=describe,
    read=read,
)
