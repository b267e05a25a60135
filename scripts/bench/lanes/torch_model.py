"""transformers' models of jslm's shapes, and what a lane of PyTorch says about itself."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from scripts.bench.sizes import Size

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def make_model(size: Size) -> torch.nn.Module:
    """The shape in transformers' class for it: random weights, float32, SDPA, on the accelerator where there is one."""
    torch.manual_seed(0)
    # On GPUs, JAX too multiplies float32 matrices in TF32 unless told otherwise.
    torch.set_float32_matmul_precision("high")
    shape = size.model
    common = {"vocab_size": size.vocab_size, "attn_implementation": "sdpa", "bos_token_id": 0, "eos_token_id": 0}
    model: torch.nn.Module
    if size.is_gpt2:
        no_dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2LMHeadModel(
            GPT2Config(
                n_embd=shape["d_model"], n_layer=shape["n_layers"], n_head=shape["n_heads"],
                n_positions=size.context, **no_dropout, **common,
            )
        )  # fmt: skip
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                hidden_size=shape["d_model"], intermediate_size=shape["d_ff"], num_hidden_layers=shape["n_layers"],
                num_attention_heads=shape["n_heads"], num_key_value_heads=shape.get("n_kv_heads", shape["n_heads"]),
                max_position_embeddings=size.context, tie_word_embeddings=True, **common,
            )
        )  # fmt: skip
    return model.to(DEVICE)


def check_compiler() -> None:
    """Raises RuntimeError where `torch.compile` can't work: on CPUs it writes C++."""
    if DEVICE == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        raise RuntimeError("torch.compile needs a C++ compiler, and there is no g++ or clang++ here")


def autocast(dtype: str) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 autocast, or nothing for float32."""
    return torch.autocast(DEVICE, torch.bfloat16) if dtype == "bfloat16" else contextlib.nullcontext()


def synchronize() -> None:
    """Waits for the accelerator."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def torch_facts() -> dict[str, Any]:
    """Versions and device."""
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
    device = torch.cuda.get_device_name() if DEVICE == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"versions": {"python": platform.python_version(), **versions}, "device": device}


def device_memory() -> int | None:
    """Most memory in use at once on the accelerator, in bytes; None on CPUs."""
    return torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None
