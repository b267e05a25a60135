"""A run folder, or one model file, as a `LanguageModel`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from jslm.config import Config, apply_overrides, config_from_dict, parse_overrides
from jslm.errors import JslmError
from jslm.formats import load_model
from jslm.formats.onnx import is_onnx, open_decoder, read_folder
from jslm.infer.language_model import LanguageModel
from jslm.infer.onnx_programs import OnnxPrograms
from jslm.model import compute_dtype
from jslm.runs.remote import opened

# What may differ from training: nothing that the weights were shaped by.
_CHANGEABLE = (
    "model.context_length",
    "model.rope_theta",
    "model.rope_scaling.",
    "model.dtype",
    "model.attention",
    # How a text that is evaluated is read, and the characters of prompts.
    "data.cleaners",
    "sample.",
)
_log = logging.getLogger("jslm")


def load(path: str | Path, *, checkpoint: str = "best", overrides: Sequence[str] = ()) -> LanguageModel:
    """Opens a run folder (with the averaged parameters where there are some), or a model in any format of jslm.formats,
    here or at an address.

    `checkpoint` of a run is "best", "latest" or a step. `overrides` change how the model is used, such as
    `["model.context_length=1024", "model.rope_scaling.kind=yarn", "model.rope_scaling.factor=2"]`. A model that was
    trained in a 16-bit type writes in float32 where that is faster (CPUs), unless they name `model.dtype`. Raises
    JslmError where there is no model, it is damaged, has no such checkpoint, or its tokenizer is not the one of its
    checkpoint.
    """
    path, checkpoint = opened(path, checkpoint)
    if is_onnx(Path(path)):
        return load_onnx(Path(path), overrides)
    bundle = load_model(path, checkpoint=checkpoint)
    config = changed_config(bundle.config, overrides)
    return LanguageModel(
        config,
        bundle.params,
        bundle.tokenizer,
        ends_documents=bundle.ends_documents,
        chat_template=bundle.chat_template,
    )


def load_onnx(path: Path, overrides: Sequence[str] = ()) -> LanguageModel:
    """A folder that jslm exported as ONNX, run by onnxruntime.

    Raises JslmError where it is bad, for a graph without its folder, and for overrides other than of `[sample]` and
    `data.cleaners`: the rest is in the graph.
    """
    if path.is_file():
        raise JslmError(f"{path}: a graph alone, without tokenizer; give the folder that it was exported to")
    for key in _leaves(parse_overrides(overrides)):
        if not key.startswith(("sample.", "data.cleaners")):
            raise JslmError(f"command line: {key} is fixed in an ONNX graph; export the run again with another value")
    found, decoder = read_folder(path), open_decoder(path)
    if decoder.model != found.config.model:
        raise JslmError(f"{decoder.path}: its graph is of another model than jslm.json beside it; export the run again")
    model = LanguageModel(
        changed_config(found.config, overrides),
        None,
        found.tokenizer,
        programs=OnnxPrograms(decoder, decoder.model),
        dtype=jnp.dtype(jnp.float32),
        ends_documents=found.ends_documents,
        chat_template=found.chat_template,
    )
    model.fixed_conditions = found.folded
    return model


def changed_config(trained: Config, overrides: Sequence[str]) -> Config:
    """A run's config with `section.key=value` overrides for sampling. Raises JslmError for a key that can't change."""
    for key in _leaves(parse_overrides(overrides)):
        if key.startswith("rewrite."):
            raise JslmError(
                f"command line: {key} was settled when the model was calibrated; for one call there are `jslm sample "
                "--threshold` and `jslm sample --beams`, in Python threshold= and beams="
            )
        if not key.startswith(_CHANGEABLE):
            allowed = ", ".join(name + ("*" if name.endswith(".") else "") for name in _CHANGEABLE)
            raise JslmError(f"command line: {key} is fixed once a model is trained; sampling can change {allowed}")
    auto = trained.model.model_copy(update={"dtype": "auto"})
    if trained.model.dtype != "float32" and compute_dtype(auto, "writing") == jnp.float32:
        trained = trained.model_copy(update={"model": auto})
    config = apply_overrides(trained, overrides)
    context, before = config.model.context_length, trained.model.context_length
    if context > before and config.model.position == "learned":
        raise JslmError(
            f"model.context_length = {context}: this model has learned positions for {before} tokens and no more; "
            "leave model.context_length as it is; for longer texts jslm sample has --sliding-window"
        )
    scaling = config.model.rope_scaling
    if (
        context > before
        and config.model.position == "rope"
        and (scaling.kind == "none" or scaling.factor * before < context)
    ):
        _log.warning(
            "model.context_length = %d, but training saw %d tokens at once: expect poor text past them; "
            "try model.rope_scaling.kind=yarn model.rope_scaling.factor=%g",
            context,
            before,
            context / before,
        )
    if scaling.kind != "none" and trained.model.rope_scaling.kind == "none" and not scaling.original_context_length:
        # The default, context over factor, is right only where both were changed together.
        values = config.model_dump()
        values["model"]["rope_scaling"]["original_context_length"] = before
        config = config_from_dict(values, "command line")
    return config


def _leaves(values: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, value in values.items():
        key = f"{path}.{name}".removeprefix(".")
        if isinstance(value, dict):
            yield from _leaves(value, key)
        else:
            yield key
