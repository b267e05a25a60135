"""The prepared corpora of a run: one, or the several of `data.mixture`."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jslm.config import Config, config_from_dict
from jslm.errors import JslmError
from jslm.formats import load_model
from jslm.prepare import PreparedData, ensure_prepared, stale_corpus
from jslm.prompts.chat import find_template
from jslm.runs.remote import opened
from jslm.storage import data_folder
from jslm.tokens.preferences import REJECTED
from jslm.tokens.token_file import Split, TokenFile, open_tokens, read_meta, verify

log = logging.getLogger("jslm")

_COUNTS = ("tokens", "documents", "bytes", "characters")


def open_prepared(config: Config) -> PreparedData:
    """The run's prepared data, made now where it is absent; of a mixture, the first folder and the counts of all.

    Raises JslmError as `ensure_prepared`, and where a folder of a mixture is not prepared or has another tokenizer.
    """
    if not config.data.mixture:
        return ensure_prepared(config)
    folders = corpus_folders(config)
    for folder in folders:
        if changed := stale_corpus(folder):
            log.warning(
                "data.mixture: %s: since it was prepared, %s; prepare it again with its own config", folder, changed
            )
    metas = [read_meta(folder) for folder in folders]
    prints = [meta["tokenizer"]["fingerprint"] for meta in metas]
    tokenizer_file = str(folders[0] / "tokenizer.json")
    for folder, found in zip(folders, prints, strict=True):
        if found != prints[0]:
            raise JslmError(
                f"data.mixture: {folder} was made with tokenizer {found}, but {folders[0]} with {prints[0]}; prepare "
                f"the one again with tokenizer.path = {tokenizer_file!r}"
            )
    values = config.model_dump()
    # The tokenizer of a mixture is that of its folders, unless the config names one, which has to be the same.
    values["tokenizer"]["path"] = config.tokenizer.path or tokenizer_file
    first = ensure_prepared(config_from_dict(values, "config"))
    return dataclasses.replace(first, meta=first.meta | _merged(metas))


def corpus_folders(config: Config) -> list[Path]:
    """The folders of prepared data that the run trains on."""
    if config.data.mixture:
        return [data_folder(corpus.dir) for corpus in config.data.mixture]
    return [data_folder(config.data_dir)]


def corpus_weights(config: Config) -> list[float]:
    """The weight of each folder."""
    return [corpus.weight for corpus in config.data.mixture] or [1.0]


def open_splits(config: Config, split: Split) -> list[TokenFile]:
    """One split of every corpus; raises JslmError as `open_tokens`."""
    return [open_tokens(folder, split) for folder in corpus_folders(config)]


def verify_corpora(config: Config, fingerprint: str, *, check_sha: bool) -> None:
    """Checks the files of every corpus as `jslm.tokens.verify` does, and that they suit the objective; raises
    JslmError."""
    for folder in corpus_folders(config):
        meta = verify(folder, fingerprint, check_sha)
        if config.train.objective == "sft" and not {"prompt_tokens", "learned_tokens"} & meta["train"].keys():
            raise JslmError(
                f"{folder}: text without completions, and train.objective = 'sft' learns those alone; prepare it with "
                "data.prompt_end or data.messages, or set train.objective = 'text'"
            )
        if config.train.objective == "dpo" and REJECTED in read_meta(folder):
            verify(folder / REJECTED, fingerprint, check_sha)


def chat_template(config: Config) -> str:
    """The source of the chat template that goes with the run: that of its conversations, or of `train.init_from`.

    Empty where there is none. Raises JslmError where the corpora of a mixture have different ones.
    """
    found = {source: folder for folder in corpus_folders(config) if (source := find_template(folder))}
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise JslmError(
            f"data.mixture: the conversations of {first} and {second} were rendered with different chat templates, and "
            "a model has one; prepare both with the same data.chat_template"
        )
    if found or not config.train.init_from:
        return next(iter(found), "")
    start = Path(opened(config.train.init_from, config.train.init_checkpoint)[0])
    return load_model(start).chat_template if start.is_file() else find_template(start)


def pair_format(config: Config) -> dict[str, str]:
    """How the pairs of a mixture were written, as keys of `data`, where the config does not say: sampling needs it.

    Raises JslmError where the corpora differ.
    """
    data = config.data
    if not data.mixture or data.packing != "documents" or data.prompt_end or data.template or data.messages:
        return {}
    found: dict[tuple[str, str], Path] = {}
    for folder in corpus_folders(config):
        settings = read_meta(folder).get("settings", {})
        if prompt_end := settings.get("data.prompt_end"):
            found.setdefault((prompt_end, settings.get("data.template", "")), folder)
    if len(found) > 1:
        first, second = list(found.values())[:2]
        raise JslmError(
            f"data.mixture: the pairs of {first} and {second} were prepared with another data.prompt_end or "
            "data.template; say with data.prompt_end and data.template how this model is to be asked"
        )
    return dict(zip(("prompt_end", "template"), next(iter(found), ()), strict=False))


def bytes_per_token(files: Sequence[TokenFile], weights: Sequence[float]) -> float:
    """UTF-8 bytes of text that a training token stands for, on average over the mixture."""
    metas = [file.meta["train"] for file in files]
    ratios = [meta["bytes"] / max(1, meta["tokens"]) for meta in metas]
    return sum(weight * ratio for weight, ratio in zip(weights, ratios, strict=True)) / sum(weights)


def _merged(metas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What a run says of its data, for all corpora together."""
    merged: dict[str, Any] = {
        "sources": [source for meta in metas for source in meta["sources"]],
        "end_of_text": all(meta["end_of_text"] for meta in metas),
    }
    labels: dict[str, set[str]] = {}
    for meta in metas:
        for name, known in (meta.get("conditions") or {}).items():
            labels.setdefault(name, set()).update(known)
    merged["conditions"] = {name: sorted(known) for name, known in labels.items()}
    for split in ("train", "val"):
        parts = [meta[split] for meta in metas]
        bits = [part["bits"] for part in parts if part["documents"]]
        merged[split] = {key: sum(part[key] for part in parts) for key in _COUNTS}
        merged[split]["bits"] = None if None in bits or not bits else sum(bits)
    return merged
