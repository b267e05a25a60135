"""One split of one corpus as numbered training sequences, and several of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np
from jaxtyping import Int32, Int64

from jslm.config import ConditionConfig, Config
from jslm.errors import JslmError
from jslm.tokens.example_tokens import ExampleTokens, mean_tokens
from jslm.tokens.labels import condition_names
from jslm.tokens.packing import PackedDocuments
from jslm.tokens.preferences import PreferencePairs
from jslm.tokens.token_file import TokenFile
from jslm.tokens.windows import Windows

# `data.packing`, or pairs of answers for train.objective = "dpo" (see `packing_of`).
Packing = Literal["windows", "documents", "preferences"]

# "inputs", "targets" and, for packed documents, "segments". `targets[r, i]` is the token that follows `inputs[r, i]`,
# or -1 where there is none to predict; `segments[r, i]` numbers the documents of a row from 1, and padding is 0.
# Preferences are `[rows, 2, length]`, and have a float32 "reference" `[rows, 2]`: see `PreferencePairs`.
Batch = dict[str, Int32[np.ndarray, "rows length"]]


class Examples(Protocol):
    """`count` sequences of `length` inputs and targets."""

    length: int

    @property
    def tokens(self) -> ExampleTokens:
        """What a sequence holds; nothing is asked of a split without any."""
        ...

    @property
    def count(self) -> int:
        """Sequences in one pass."""
        ...

    @property
    def first_lengths(self) -> tuple[int, int]:
        """The shortest and longest first sequence that an epoch may begin with."""
        ...

    def gather(self, numbers: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"]) -> Batch:
        """Sequences by number, in an epoch whose first one has `first` targets; a negative number is an empty row."""
        ...


def batch_names(packing: Packing, conditions: Sequence[ConditionConfig] = ()) -> tuple[str, ...]:
    """The arrays of a batch."""
    extra = {"windows": (), "documents": ("segments",), "preferences": ("reference",)}
    return ("inputs", "targets", *extra[packing], *condition_names(conditions))


def packing_of(config: Config) -> Packing:
    """How a run's token files are cut: as `data.packing` says, or as `train.objective` demands."""
    return "preferences" if config.train.objective == "dpo" else config.data.packing


def open_examples(
    token_file: TokenFile,
    length: int,
    packing: Packing,
    stride: int = 0,
    conditions: Sequence[ConditionConfig] = (),
    reference: np.ndarray | None = None,
) -> Examples:
    """A token file cut as `packing` says; `stride` (0: `length`) is for windows, `reference` for preferences.

    `conditions` are the model's. Raises JslmError as `PreferencePairs`, and where prompt/completion pairs, or documents
    with labels, are to be cut in windows.
    """
    if packing == "preferences":
        return PreferencePairs(token_file, length, conditions, reference)
    if packing == "documents":
        return PackedDocuments(token_file, length, conditions)
    if conditions:
        raise JslmError(
            f"{token_file.path}: a model with conditions learns them document by document; it needs data.packing = "
            "'documents', found 'windows'"
        )
    if token_file.has_completions:
        raise JslmError(
            f"{token_file.path}: these are pairs or conversations, whose prompts are not learned; they need "
            "data.packing = 'documents', found 'windows'"
        )
    return Windows(token_file, length, stride)


def gather_rows(
    examples: Sequence[Examples],
    corpus: Int64[np.ndarray, " rows"],
    numbers: Int64[np.ndarray, " rows"],
    first: Int64[np.ndarray, " rows"],
) -> Batch:
    """Row r is sequence `numbers[r]` of `examples[corpus[r]]`."""
    if len(examples) == 1:
        return examples[0].gather(numbers, first)
    batch: Batch = {}
    for index in np.unique(corpus):
        rows = corpus == index
        for name, part in examples[index].gather(numbers[rows], first[rows]).items():
            batch.setdefault(name, np.empty((len(corpus), *part.shape[1:]), part.dtype))[rows] = part
    return batch


class Chain:
    """Several splits one after the other, numbered through: what validation on a mixture reads."""

    def __init__(self, examples: Sequence[Examples]) -> None:
        self._examples = [part for part in examples if part.count]
        self.length = examples[0].length
        self._ends = np.cumsum([part.count for part in self._examples], dtype=np.int64)

    @property
    def count(self) -> int:
        """Sequences of all splits together."""
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def tokens(self) -> ExampleTokens:
        """What a sequence holds on average."""
        return mean_tokens([part.tokens for part in self._examples], [part.count for part in self._examples])

    @property
    def first_lengths(self) -> tuple[int, int]:
        """Validation text is always cut at the same places."""
        return self.length, self.length

    def gather(self, numbers: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"]) -> Batch:
        """Sequences by number; a negative number gives an empty row."""
        corpus = np.searchsorted(self._ends, numbers, side="right")
        begins = np.concatenate([[0], self._ends])[corpus]
        return gather_rows(self._examples, corpus, np.where(numbers < 0, numbers, numbers - begins), first)
