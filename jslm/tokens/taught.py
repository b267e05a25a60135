"""Text with what teachers expect in it: two columns beside the tokens, which `jslm.learn.teachers` makes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray

from jslm.tokens.example_tokens import ExampleTokens
from jslm.tokens.examples import Batch, Examples, Packing, open_examples
from jslm.tokens.token_file import TokenFile

TEACHER_IDS, TEACHER_LOG_PROBS = "teacher_ids", "teacher_log_probs"


@dataclass(frozen=True)
class Columns:
    """What teachers expect in place of each token: `ids` [tokens, k] of the k likeliest ones, uint16 or uint32, and
    their `log_probs` [tokens, k] in nats, float16; they may stay on disk (memory-mapped)."""

    ids: NDArray[np.uint16] | NDArray[np.uint32]
    log_probs: NDArray[np.float16]


def open_places(token_file: TokenFile, length: int, packing: Packing, stride: int = 0) -> Examples:
    """The same examples with places in the file in place of tokens: `targets` are places, -1 where there is none."""
    places = np.arange(len(token_file.tokens), dtype=np.uint32)
    return open_examples(dataclasses.replace(token_file, tokens=places), length, packing, stride)


class TaughtExamples:
    """Examples whose batches have the teachers' columns too: int32 "teacher_ids", float32 "teacher_log_probs"
    `[rows, length, k]`; zeros where nothing is learned."""

    def __init__(self, examples: Examples, places: Examples, columns: Columns) -> None:
        """`places` are those of `open_places`, cut as `examples` are."""
        self.length = examples.length
        self._examples, self._places, self._columns = examples, places, columns

    @property
    def tokens(self) -> ExampleTokens:
        """What an example holds on average."""
        return self._examples.tokens

    @property
    def count(self) -> int:
        """Examples in one pass."""
        return self._examples.count

    @property
    def first_lengths(self) -> tuple[int, int]:
        """The shortest and longest first example that an epoch may begin with."""
        return self._examples.first_lengths

    def gather(self, numbers: Int64[np.ndarray, " rows"], first: Int64[np.ndarray, " rows"]) -> Batch:
        """Examples by number, as those without teachers give them."""
        places = self._places.gather(numbers, first)["targets"]
        learned = (places >= 0)[..., None]
        places = np.maximum(places, 0)
        return {
            **self._examples.gather(numbers, first),
            TEACHER_IDS: np.where(learned, self._columns.ids[places], 0).astype(np.int32),
            TEACHER_LOG_PROBS: np.where(learned, self._columns.log_probs[places], 0).astype(np.float32),
        }
