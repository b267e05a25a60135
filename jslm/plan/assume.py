"""A config made complete enough to compile, without reading data; what was assumed or changed is said."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.learn import objective_kind
from jslm.storage import data_folder
from jslm.tokenizer import load_tokenizer
from jslm.tokens.example_tokens import ExampleTokens
from jslm.tokens.loader import count_examples, count_tokens, packing_of
from jslm.tokens.token_file import META_NAME, TokenFile, open_tokens, read_meta

# The GPT-2 vocabulary, and 256 bytes with the end-of-text token: `jslm.tokenizer` has no other sizes for these.
_FIXED_VOCABULARY = {"gpt2": 50257, "byte": 257}
# What the embedding of any alphabet is padded to; English text with its punctuation stays under it.
_CHARACTERS = 128


def resolve(config: Config, shards: int) -> tuple[Config, list[str]]:
    """The config with `model.vocab_size` and `train.steps` set and batches that divide over `shards` devices.

    Also one line for each assumption and each change. `train.steps` stays 0 where only prepared data could tell it.
    """
    notes: list[str] = []
    values = config.model_dump()
    vocabulary, note = _vocabulary(config)
    values["model"]["vocab_size"] = vocabulary
    notes += [note] if note else []
    train = config.train
    micro = train.micro_rows
    fitting = -(-micro // shards) * shards
    batch = -(-train.batch_size // fitting) * fitting
    if fitting != micro or batch != train.batch_size:
        notes.append(
            f"changed to divide over {shards} devices: train.batch_size={batch} train.micro_batch={fitting} "
            f"(was {train.batch_size} and {micro})"
        )
    values["train"] |= {"batch_size": batch, "micro_batch": fitting, "eval_batch_size": 0}
    if not train.steps:
        values["train"]["steps"], note = _steps(config, batch)
        notes.append(note)
    return config_from_dict(values, "config"), notes


def _vocabulary(config: Config) -> tuple[int, str]:
    tokenizer = config.tokenizer
    if config.model.vocab_size:
        return config.model.vocab_size, ""
    if meta := _prepared(config):
        size = meta["tokenizer"].get("vocab_size")
        if isinstance(size, int):
            return size, ""
    if tokenizer.path and Path(tokenizer.path).is_file():
        return load_tokenizer(tokenizer.path).vocab_size, ""
    if tokenizer.kind in _FIXED_VOCABULARY:
        return _FIXED_VOCABULARY[tokenizer.kind] + len(set(tokenizer.special_tokens)), ""
    if tokenizer.kind == "bpe":
        return tokenizer.vocab_size, ""
    return _CHARACTERS, f"assumed: a vocabulary of {_CHARACTERS} characters, as the data is not prepared"


def _steps(config: Config, batch: int) -> tuple[int, str]:
    if config.train.minutes:
        return 0, f"train.minutes = {config.train.minutes:g}: in as many steps as that allows"
    files = _train_files(config)
    if not files:
        return 0, (
            f"unknown: the length of the run ({config.train.epochs:g} epochs of data that is not prepared); "
            "give train.steps, or prepare the data"
        )
    examples = count_examples(files, config.model.context_length, packing_of(config), config.data.stride)
    steps = max(1, math.ceil(config.train.epochs * examples / batch))
    tokens = sum(len(file.tokens) for file in files)
    return steps, f"counted: {steps:,} steps from the {tokens:,} tokens of {config.data_dir}"


def tokens_of(config: Config) -> tuple[ExampleTokens, str]:
    """What a sequence (or pair of answers) of the run's prepared data holds, and a note; full where there is none."""
    if files := _train_files(config):
        weights = [corpus.weight for corpus in config.data.mixture]
        context = config.model.context_length
        found = count_tokens(files, context, packing_of(config), config.data.stride, weights)
        return found, f"counted: {found.padding:.1%} of a batch is padding, {found.prompts:.1%} prompts"
    places = config.model.context_length * objective_kind(config).rows
    return ExampleTokens(places, places, places), "assumed: batches without padding, as the data is not prepared"


def _train_files(config: Config) -> list[TokenFile]:
    """Empty where one is not prepared, or is damaged, of which training will tell."""
    folders = [corpus.dir for corpus in config.data.mixture] or [config.data_dir]
    try:
        return [open_tokens(data_folder(folder), "train") for folder in folders]
    except JslmError:
        return []


def _prepared(config: Config) -> dict[str, Any] | None:
    try:
        folder = data_folder(config.data_dir)
        return read_meta(folder) if (folder / META_NAME).is_file() else None
    except JslmError:
        # Training will say what is wrong with it; a plan needs none.
        return None


def with_settings(config: Config, **sections: dict[str, Any]) -> Config:
    """The config with some keys of some sections replaced."""
    values = config.model_dump()
    for section, changes in sections.items():
        values[section] |= changes
    return config_from_dict(values, "config")
