"""A model between two formats: what every reader returns and every writer takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jslm.config import Config
from jslm.errors import JslmError
from jslm.tokenizer import Tokenizer


@dataclass(frozen=True)
class Bundle:
    """A whole model, on the host.

    `params` is the tree of `jslm.model.init_params` as numpy arrays (layers stacked on axis 0, embeddings and head with
    `config.model.padded_vocab_size` rows, the padding rows 0). `config.model.vocab_size` is the true size.
    `ends_documents`: whether the training text had end-of-text tokens between documents. `figures`: what a model card
    may say of its training (`parameters`, `val/loss`, `val/bits_per_byte`, `steps`, ...). `source`: where it came from.
    `chat_template`: the Jinja source of how conversations become its prompts; empty for models that continue texts.
    """

    config: Config
    params: dict[str, Any]
    tokenizer: Tokenizer
    ends_documents: bool = True
    figures: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    chat_template: str = ""


def check_vocabulary(config: Config, tokenizer: Tokenizer) -> None:
    """Raises JslmError where the tokenizer has another vocabulary size than the model."""
    if config.model.vocab_size != tokenizer.vocab_size:
        raise JslmError(
            f"model.vocab_size = {config.model.vocab_size:,}, but the tokenizer has {tokenizer.vocab_size:,} entries; "
            "use the tokenizer that the model was trained with"
        )


@dataclass(frozen=True)
class Format:
    """One file format. `read` and `write` are None where the format goes one way only.

    `detect(path)` is cheap (names and first bytes) and never raises. `read(path)` raises JslmError for a bad file.
    `write(bundle, path, dtype, **options)` takes one of `dtypes` and any of the keywords that `options` names, is
    atomic (the whole target or nothing), and raises JslmError listing every option of the model that the format can't
    express. `describe(path)` is what `inspect` prints, without reading the weights.
    """

    name: str
    summary: str
    detect: Callable[[Path], bool]
    describe: Callable[[Path], dict[str, Any]]
    read: Callable[[Path], Bundle] | None = None
    write: Callable[..., None] | None = None
    dtypes: tuple[str, ...] = ("float32", "float16", "bfloat16")
    options: tuple[str, ...] = ()
