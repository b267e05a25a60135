"""What a run takes from the model that it starts from (`train.init_from`), where its own config leaves it out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from jslm.config import Config, ModelConfig, TokenizerConfig, config_from_dict, start_differences
from jslm.errors import JslmError
from jslm.files import write_text
from jslm.formats.opening import load_model
from jslm.prompts.chat import find_template, template_source
from jslm.prompts.chat_templates import BUILT_IN
from jslm.runs.checkpoint import CheckpointStore
from jslm.runs.folder import RunFolder, is_run_folder, resolve_checkpoint
from jslm.runs.remote import opened
from jslm.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class _Start:
    """A model without its weights; `key` is what names it in the config, and `folder` its run folder, if it has one."""

    key: str
    config: Config
    tokenizer: Tokenizer
    chat_template: str
    folder: RunFolder | None


def with_start(config: Config, *, writes: bool = True) -> Config:
    """The config with what its `model`, `tokenizer` and `data.chat_template` leave out taken from `train.init_from`.

    A run that goes on takes it from its own folder, as the other model may be gone by then. The tokenizer and template
    of a model file are written into `run_dir`, unless `writes` is off: then the tokenizer stays as it is. Without
    `train.init_from` the config is returned as it is. Raises JslmError where there is no such model, and where the
    config says otherwise than it: naming the key, what is said and what is there.
    """
    if not config.train.init_from:
        return config
    begun = _begun(config)
    start = begun or _open(config)
    values = config.model_dump()
    values["model"] = _model(config, start, compares=begun is None).model_dump()
    if begun is None:
        _compare_tokenizer(config.tokenizer, start)
    if not config.tokenizer.path and (writes or start.folder):
        values["tokenizer"]["path"] = str(_tokenizer_file(config, start))
    if config.data.messages and start.chat_template:
        _take_template(values["data"], config, start, writes=writes)
    return config_from_dict(values, f"config with what it takes from {start.key}")


def _begun(config: Config) -> _Start | None:
    """The run itself, where it has saved something: what it began with."""
    folder = RunFolder(config.run_dir)
    if not (folder.config.is_file() and folder.tokenizer.is_file() and CheckpointStore(folder.checkpoints).steps()):
        return None
    return _of_run(folder, f"run_dir = {folder.path}")


def _of_run(folder: RunFolder, key: str) -> _Start:
    return _Start(key, folder.read_config(), load_tokenizer(folder.tokenizer), find_template(folder.path), folder)


def _open(config: Config) -> _Start:
    key = f"train.init_from = {config.train.init_from}"
    name, asked = opened(config.train.init_from, config.train.init_checkpoint)
    path = Path(name)
    if not is_run_folder(path):
        # Its format may have no part that can be read alone.
        bundle = load_model(path, checkpoint=asked)
        return _Start(key, bundle.config, bundle.tokenizer, bundle.chat_template, None)
    folder = RunFolder(path)
    # Whether it is there; which one is the best, and whether it is whole, is found when it is opened.
    resolve_checkpoint(CheckpointStore(folder.checkpoints).steps(), None, asked, path)
    return _of_run(folder, key)


def _model(config: Config, start: _Start, *, compares: bool) -> ModelConfig:
    said = config.model.model_dump(exclude_unset=True)
    for key in ("vocab_size", "conditions"):
        if not said.get(key):
            # Spelled out or not, the default says that it is to be found out.
            said.pop(key, None)
    taken = start.config.model.model_dump()
    scaling = taken["rope_scaling"]
    if "context_length" in said and scaling["kind"] != "none" and not scaling["original_context_length"]:
        # Its default hangs on the context, and the trained one stays what it was.
        scaling["original_context_length"] = round(taken["context_length"] / scaling["factor"])
    if config.train.objective == "dpo":
        # It can't be had there, and is no part of what the weights mean.
        taken["dropout"] = 0.0
    merged = taken | said | {"rope_scaling": scaling | said.get("rope_scaling", {})}
    try:
        model = ModelConfig.model_validate(merged)
    except ValidationError as error:
        # The start's own settings go together, so one of those that were said is another.
        for key, value in said.items():
            if value != taken[key]:
                _refuse(start, f"model.{key}", value, taken[key])
        raise JslmError(f"config: {error.errors()[0]['ctx']['error']}") from None
    differences = start_differences(model, start.config.model) if compares else []
    # One that was said, before those that follow from it (the width of a head from their number).
    for difference in sorted(differences, key=lambda one: one.key.split(".")[1] not in said):
        _refuse(start, *difference)
    return model


def _compare_tokenizer(said: TokenizerConfig, start: _Start) -> None:
    """A `path` by what it holds; else what names a tokenizer, as none is built anew for a trained model."""
    tokenizer = start.tokenizer
    if said.path:
        if Path(said.path).is_file() and (found := load_tokenizer(said.path).fingerprint) != tokenizer.fingerprint:
            _refuse(start, "tokenizer.path", f"{said.path} ({found})", tokenizer.fingerprint)
        return
    if "kind" in said.model_fields_set and said.kind != tokenizer.kind:
        _refuse(start, "tokenizer.kind", said.kind, tokenizer.kind)
    # What was asked for, or came of it where the corpus ran out of pairs.
    sizes = (tokenizer.vocab_size, start.config.tokenizer.vocab_size)
    if "vocab_size" in said.model_fields_set and said.kind == "bpe" and said.vocab_size not in sizes:
        _refuse(start, "tokenizer.vocab_size", said.vocab_size, tokenizer.vocab_size)
    for token in said.special_tokens:
        if token not in tokenizer.special_tokens:
            _refuse(start, "tokenizer.special_tokens", said.special_tokens, list(tokenizer.special_tokens))


def _tokenizer_file(config: Config, start: _Start) -> Path:
    if start.folder:
        return start.folder.tokenizer
    path = RunFolder(config.run_dir).path / "init_tokenizer.json"
    write_text(path, start.tokenizer.to_json())
    return path


def _take_template(data: dict[str, Any], config: Config, start: _Start, *, writes: bool) -> None:
    if "chat_template" in config.data.model_fields_set:
        if template_source(config.data.chat_template) != start.chat_template:
            name = next((name for name, source in BUILT_IN.items() if source == start.chat_template), "another one")
            _refuse(start, "data.chat_template", config.data.chat_template, name)
        return
    for name, source in BUILT_IN.items():
        if source == start.chat_template:
            data["chat_template"] = name
            return
    if start.folder and start.folder.chat_template.is_file():
        data["chat_template"] = str(start.folder.chat_template)
    elif writes:
        path = RunFolder(config.run_dir).path / "init_chat_template.jinja"
        write_text(path, start.chat_template)
        data["chat_template"] = str(path)


def _refuse(start: _Start, key: str, found: Any, expected: Any) -> NoReturn:
    there, here = (repr(value) if len(repr(value)) < 200 else f"{repr(value)[:197]}..." for value in (expected, found))
    raise JslmError(
        f"{start.key}: {key} is {there} there, and this config says {here}; leave it out, so that it is taken from "
        "there, or start from another model"
    )
