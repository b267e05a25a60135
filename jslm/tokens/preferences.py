"""Preferences: prompts with two answers each, as rows of the one beside rows of the other.

A folder of pairs (`data.prompt_end`) made with `data.rejected` has the preferred answers as its completions, and a
folder `rejected` inside it with the other answers, a document each in the same order; the outer `meta.json` gives
their SHA-256 as `rejected`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int32, Int64

from jslm.config import ConditionConfig
from jslm.errors import JslmError
from jslm.tokens.example_tokens import ExampleTokens
from jslm.tokens.labels import condition_name, labels_of
from jslm.tokens.packing import NO_TARGET
from jslm.tokens.token_file import Split, TokenFile, open_tokens

log = logging.getLogger("jslm")

REJECTED = "rejected"


def open_rejected(token_file: TokenFile) -> TokenFile:
    """The rejected answers that belong to a split of pairs.

    Raises JslmError where there are none, and where they are not those that were made with the pairs.
    """
    known = token_file.meta.get(REJECTED)
    folder = token_file.path.parent
    if known is None or token_file.prompts is None:
        raise JslmError(
            f"{folder}: no preferences here; train.objective = 'dpo' needs data made with data.rejected, the key of "
            "the answer that was not preferred"
        )
    split: Split = "val" if token_file.path.stem == "val" else "train"
    rejected = open_tokens(folder / REJECTED, split)
    found = rejected.meta[split]["sha256"]
    if found != known[split] or len(rejected.offsets) != len(token_file.offsets):
        raise JslmError(
            f"{rejected.path}: expected the answers with SHA-256 {known[split]}, found {found}: they belong to other "
            "pairs; prepare again: jslm prepare --config CONFIG --force"
        )
    return rejected


class PreferencePairs:
    """Examples of two rows each, `[2, length]`: a prompt with the preferred answer, and with the other one.

    Inputs begin with the end-of-text token that stands before a document (absent in corpora without it) and are filled
    up with 0; targets are those of the answers, up to their end-of-text token, and -1 elsewhere. With `conditions`, all
    tokens of a pair have its labels. `reference`, where it is given, has the summed log-probabilities of both answers
    under the reference model, which `gather` hands out as float32 "reference" `[rows, 2]`.

    Pairs of which one row is longer than `length` are left out, which is said; JslmError where none is left.
    """

    def __init__(
        self,
        token_file: TokenFile,
        length: int,
        conditions: Sequence[ConditionConfig] = (),
        reference: Float32[np.ndarray, "pairs 2"] | None = None,
    ) -> None:
        rejected = open_rejected(token_file)
        assert token_file.prompts is not None
        self.length = length
        self.reference = reference
        # Plain views: indexing through np.memmap's subclass machinery is several times slower.
        self._tokens, self._other_tokens = np.asarray(token_file.tokens), np.asarray(rejected.tokens)
        self._offsets = np.asarray(token_file.offsets).astype(np.int64)
        self._other_offsets = np.asarray(rejected.offsets).astype(np.int64)
        self._prompts = np.asarray(token_file.prompts).astype(np.int64)
        self._labels = {condition_name(condition): labels_of(token_file, condition) for condition in conditions}
        has_end = bool(token_file.meta["end_of_text"])
        # The token that ends documents, where they have one, as an array.
        end = int(self._offsets[1]) if has_end and len(self._prompts) else 0
        self._before: np.ndarray = self._tokens[max(0, end - 1) : end]
        chosen_sizes, other_sizes = np.diff(self._offsets), self._prompts + np.diff(self._other_offsets)
        sizes = np.maximum(chosen_sizes, other_sizes) - (not has_end)
        self._numbers = np.flatnonzero(sizes <= length)
        self._text = int((chosen_sizes + other_sizes - 2 * (not has_end))[self._numbers].sum())
        self.targets = int((chosen_sizes + other_sizes - 2 * self._prompts)[self._numbers].sum())
        if left_out := len(sizes) - self.count:
            longest = int(sizes.argmax())
            said = (
                f"{token_file.path}: {left_out:,} of {len(sizes):,} preferences are over one context of {length:,} "
                f"tokens (the longest, number {longest:,}, has {int(sizes[longest]):,})"
            )
            remedy = "raise model.context_length or shorten them"
            if not self.count:
                raise JslmError(f"{said}; none is left: {remedy}")
            log.warning("%s and are left out (%s)", said, remedy)

    @property
    def count(self) -> int:
        """Pairs that fit."""
        return len(self._numbers)

    @property
    def tokens(self) -> ExampleTokens:
        """What a pair, two rows, holds on average."""
        return ExampleTokens(2 * self.length, self._text / self.count, self.targets / self.count)

    @property
    def first_lengths(self) -> tuple[int, int]:
        """Pairs don't depend on where an epoch begins."""
        return self.length, self.length

    def gather(
        self, rows: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"] | None = None
    ) -> dict[str, np.ndarray]:
        """The pairs of these numbers; a negative number gives an empty pair. `first` is for windows, see the loader."""
        del first
        shape = (len(rows), 2, self.length)
        batch: dict[str, Int32[np.ndarray, "rows 2 length"]] = {
            "inputs": np.zeros(shape, np.int32),
            "targets": np.full(shape, NO_TARGET, np.int32),
            **{name: np.full(shape, NO_TARGET, np.int32) for name in self._labels},
        }
        present = np.flatnonzero(rows >= 0)
        for row, number in zip(present, self._numbers[rows[present]], strict=True):
            start, stop = self._offsets[number : number + 2]
            answer = start + self._prompts[number]
            prompt = np.concatenate([self._before, self._tokens[start:answer]])
            other = self._other_tokens[slice(*self._other_offsets[number : number + 2])]
            for side, text in enumerate((self._tokens[answer:stop], other)):
                end = len(prompt) + len(text) - 1
                batch["inputs"][row, side, :end] = np.concatenate([prompt, text[:-1]])
                batch["targets"][row, side, len(prompt) - 1 : end] = text
            for name, labels in self._labels.items():
                batch[name][row] = labels[number]
        if self.reference is None:
            return batch
        reference = np.zeros((len(rows), 2), np.float32)
        reference[present] = self.reference[rows[present]]
        return {**batch, "reference": reference}
