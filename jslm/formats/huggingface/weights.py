"""The parameter tree as the tensors of Hugging Face transformers, both ways.

Linear layers are `[out, in]` there and `[in, out]` in GPT-2's `Conv1D`, as in jslm; rotary pairs are halves in both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jslm.config import ModelConfig
from jslm.errors import JslmError
from jslm.formats.trees import GPT2_PARTS, Names, read_tree, tree_tensors
from jslm.formats.weights import TensorReader, is_causal_mask, tied_by_its_tensors
from jslm.model.rope import rotary_frequencies

_HEAD = "lm_head.weight"
_LLAMA = Names(
    tokens="embed_tokens.weight",
    head=_HEAD,
    final_norm="norm",
    layer="layers.{}",
    parts={
        "attention_norm": "input_layernorm",
        "mlp_norm": "post_attention_layernorm",
        **{name: f"self_attn.{name}_proj" for name in "qkv"},
        "out": "self_attn.o_proj",
        **{name: f"self_attn.{name}" for name in ("q_norm", "k_norm")},
        **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
    },
)
_GPT2 = Names("wte.weight", _HEAD, "ln_f", "h.{}", GPT2_PARTS, "wpe.weight", turned=False)


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
    name, table = _names(family).tokens, (model.vocab_size, model.d_model)
    if not model.tie_embeddings or name not in tensors:
        return model
    is_tied = tied_by_its_tensors(tensors.where, True, tensors.take(name, *table), tensors.take(_HEAD, *table))
    return model.model_copy(update={"tie_embeddings": is_tied})


def read_params(tensors: TensorReader, model: ModelConfig, family: str) -> dict[str, Any]:
    """The parameter tree in float32. The names in `tensors` have no `model.` or `transformer.` before them.

    Raises JslmError where a tensor is missing, left over, or of another shape than `model` has.
    """
    _pass_over_buffers(tensors, model)
    return read_tree(tensors, model, _names(family))


def named_tensors(params: Mapping[str, Any], model: ModelConfig, family: str) -> Iterator[tuple[str, np.ndarray]]:
    """(name, float32 array) of each tensor, with the names that `from_pretrained` looks for."""
    prefix = "transformer." if family == "gpt2" else "model."
    for name, array in tree_tensors(params, model, _names(family)):
        yield name if name == _HEAD else prefix + name, array


def _names(family: str) -> Names:
    return _GPT2 if family == "gpt2" else _LLAMA


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
