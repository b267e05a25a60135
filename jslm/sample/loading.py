"""A run folder as a `LanguageModel`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jslm.checkpoint import CheckpointStore, flatten_tree
from jslm.config import Config, apply_overrides, config_from_dict, parse_overrides
from jslm.errors import JslmError
from jslm.model import Params, param_shapes
from jslm.run_folder import RunFolder, resolve_checkpoint
from jslm.sample.language_model import LanguageModel
from jslm.tokenizer import load_tokenizer

# What may differ from training: nothing that the weights were shaped by.
_CHANGEABLE = (
    "model.context_length",
    "model.rope_theta",
    "model.rope_scaling.",
    "model.dtype",
    "model.attention",
    "sample.",
)
_log = logging.getLogger("jslm")


def load(path: str | Path, *, checkpoint: str = "best", overrides: Sequence[str] = ()) -> LanguageModel:
    """Opens a run folder: its config, tokenizer, and the averaged parameters where there are some, else the last ones.

    `checkpoint` is "best", "latest" or a step. `overrides` change how the model is used, such as
    `["model.context_length=1024", "model.rope_scaling.kind=yarn", "model.rope_scaling.factor=2"]`. Raises JslmError
    where the folder is no run, has no such checkpoint, or its tokenizer is not the one of its checkpoint.
    """
    folder = RunFolder(path)
    trained = folder.read_config()
    config = changed_config(trained, overrides)
    tokenizer = load_tokenizer(folder.tokenizer)
    store = CheckpointStore(folder.checkpoints)
    step = resolve_checkpoint(store.steps(), store.best_step(), str(checkpoint), folder.path)
    found = store.metadata(step).get("tokenizer_fingerprint")
    if found != tokenizer.fingerprint:
        raise JslmError(
            f"{folder.tokenizer}: tokenizer {tokenizer.fingerprint}, but {store.path(step)} was trained with {found}; "
            "put back the tokenizer.json that training wrote"
        )
    params = store.load_part(step, "ema" if trained.train.ema_decay else "params")
    _check_shapes(params, trained, folder.config, store.path(step))
    return LanguageModel(config, params, tokenizer, ends_documents=_ends_documents(folder, trained))


def changed_config(trained: Config, overrides: Sequence[str]) -> Config:
    """A run's config with `section.key=value` overrides for sampling. Raises JslmError for a key that can't change."""
    for key in _leaves(parse_overrides(overrides)):
        if not key.startswith(_CHANGEABLE):
            allowed = ", ".join(name + ("*" if name.endswith(".") else "") for name in _CHANGEABLE)
            raise JslmError(f"command line: {key} is fixed once a model is trained; sampling can change {allowed}")
    config = apply_overrides(trained, overrides)
    context, before = config.model.context_length, trained.model.context_length
    if context > before and config.model.position == "learned":
        raise JslmError(
            f"model.context_length = {context}: this model has learned positions for {before} tokens and no more; "
            "use --sliding-window for longer texts"
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


def _check_shapes(params: Params, config: Config, config_path: Path, where: Path) -> None:
    wanted, found = flatten_tree(param_shapes(config.model)), flatten_tree(params)
    for name in sorted(wanted.keys() | found.keys()):
        there, here = (list(tree[name].shape) if name in tree else "absent" for tree in (found, wanted))
        if there != here:
            raise JslmError(
                f"{where}: {name} is {there}, and {here} by {config_path}; put back the run's own config.toml"
            )


def _ends_documents(folder: RunFolder, config: Config) -> bool:
    """Whether the training data had end-of-text tokens, as `run.json` says; where that is lost, as the config asked."""
    data = folder.read_info().get("data")
    if isinstance(data, dict) and isinstance(data.get("end_of_text"), bool):
        return bool(data["end_of_text"])
    return config.data.end_of_text != "never"
