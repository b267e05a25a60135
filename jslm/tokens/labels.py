"""The labels of documents, as the numbers that a model knows them by."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from jslm.config import ConditionConfig
from jslm.errors import JslmError
from jslm.tokens.token_file import NO_LABEL, TokenFile


def condition_name(condition: ConditionConfig) -> str:
    """The name of a condition's array in a batch: int32 `[rows, length]`, -1 for none."""
    return f"condition/{condition.name}"


def condition_names(conditions: Sequence[ConditionConfig]) -> tuple[str, ...]:
    """The names of all conditions' arrays, in the model's order."""
    return tuple(condition_name(condition) for condition in conditions)


def labels_of(token_file: TokenFile, condition: ConditionConfig) -> Int32[np.ndarray, " documents"]:
    """Each document's label of `condition`, numbered as there; -1 for none, and where the file has no such condition.

    Raises JslmError for a label that is not among those of `condition`.
    """
    found = token_file.meta.get("conditions") or {}
    if condition.name not in found or token_file.labels is None:
        return np.full(len(token_file.offsets) - 1, NO_LABEL, np.int32)
    known = {label: number for number, label in enumerate(condition.labels)}
    if strange := [label for label in found[condition.name] if label not in known]:
        raise JslmError(
            f"{token_file.path}: label {strange[0]!r} of {condition.name!r} is not among model.conditions, which has "
            f"{', '.join(condition.labels)}; a model learns labels where it first meets the condition: prepare other "
            "data, or start from a model without conditions"
        )
    # The last entry is for -1.
    table = np.array([*(known[label] for label in found[condition.name]), NO_LABEL], np.int32)
    column = list(found).index(condition.name)
    return table[np.asarray(token_file.labels)[:, column]]
