"""Text that was held out, and a model's loss on it: what rounding the weights costs is a difference of two."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from jslm.config import DataConfig
from jslm.errors import JslmError
from jslm.model import count_parameters, loss_sums
from jslm.model.kernels.plain import PLAIN
from jslm.runs.bundle import Bundle
from jslm.storage import data_folder
from jslm.text.documents import InputFile, clean_document
from jslm.text.readers import read_file
from jslm.tokens import open_tokens, read_meta
from jslm.tokens.token_file import META_NAME

_MAX_TOKENS = 1 << 14
_MIN_TOKENS = 1 << 11
# Of one pass over the tokens: a few seconds on two cores.
_MAX_PRODUCTS = 2.5e11
# A row is no longer, and a batch has so many tokens.
_MAX_LENGTH = 1024


@dataclass(frozen=True)
class HeldText:
    """Rows of tokens `[length]` each that the model is measured on, and what they are, in words."""

    rows: list[NDArray[np.int64]]
    what: str

    @property
    def tokens(self) -> int:
        """How many of them are predicted."""
        return sum(len(row) - 1 for row in self.rows)


def held_text(bundle: Bundle, text: str | Path | None) -> HeldText | None:
    """The text file, or the validation tokens of the run where they are here; None where there is neither.

    Documents are rows, each after the token that begins one, cut at the context (of 1,024 at most). Raises JslmError
    where the file is absent or no text.
    """
    found = _file_documents(bundle, Path(text)) if text is not None else _validation_documents(bundle)
    if found is None:
        return None
    documents, what = found
    limit = int(_MAX_PRODUCTS / count_parameters(bundle.config.model)["total"])
    left = max(_MIN_TOKENS, min(_MAX_TOKENS, limit))
    start = [bundle.tokenizer.bos_id] if bundle.ends_documents else []
    # One more than is read: the last token is only predicted.
    length = min(bundle.config.model.context_length, _MAX_LENGTH) + 1
    rows = []
    for document in documents:
        ids = np.concatenate([np.asarray(start, np.int64), np.asarray(document, np.int64)])
        for begin in range(0, len(ids) - 1, length - 1):
            row = ids[begin : begin + min(length, left + 1)]
            rows.append(row)
            left -= len(row) - 1
            if left <= 0:
                return HeldText(rows, what)
    if not rows and text is not None:
        raise JslmError(f"{text}: no tokens to predict; expected text of some sentences")
    return HeldText(rows, what) if rows else None


def own_loss(bundle: Bundle, held: HeldText, labels: list[int]) -> float:
    """Nats a token by jslm itself, in float32. `labels`: the number of the label of each condition, -1 for none."""
    model = bundle.config.model

    def sums(params: Any, inputs: Any, targets: Any) -> Any:
        row = jnp.asarray(labels, jnp.int32)[None, None]
        kinds = jnp.broadcast_to(row, (*inputs.shape, len(labels))) if labels else None
        return loss_sums(params, inputs, targets, model, jnp.float32, conditions=kinds, kernels=PLAIN)[1]

    compiled = jax.jit(sums)
    width = max(map(len, held.rows)) - 1
    batch, total = max(1, _MAX_LENGTH // width), 0.0
    for first in range(0, len(held.rows), batch):
        inputs, targets = np.zeros((batch, width), np.int32), np.full((batch, width), -1, np.int32)
        for index, row in enumerate(held.rows[first : first + batch]):
            inputs[index, : len(row) - 1], targets[index, : len(row) - 1] = row[:-1], row[1:]
        total += float(compiled(bundle.params, inputs, targets))
    return total / held.tokens


def _validation_documents(bundle: Bundle) -> tuple[Iterable[NDArray[Any]], str] | None:
    folder = data_folder(bundle.config.data_dir)
    if not (folder / META_NAME).is_file():
        return None
    if read_meta(folder)["tokenizer"]["fingerprint"] != bundle.tokenizer.fingerprint:
        return None
    file = open_tokens(folder, "val")
    bounds = itertools.pairwise(np.asarray(file.offsets).astype(np.int64).tolist())
    return (file.tokens[start:end] for start, end in bounds), "the run's validation split"


def _file_documents(bundle: Bundle, path: Path) -> tuple[Iterable[NDArray[Any]], str]:
    """The documents of a text file, read and cleaned as in training."""
    data = bundle.config.data
    config = DataConfig(format="text", separator=data.separator, cleaners=data.cleaners)
    documents = (clean_document(raw, config) for raw in read_file(InputFile(str(path), 0), config))
    encode = bundle.tokenizer.encode
    return (np.asarray(encode(document.text), np.int64) for document in documents), path.name
