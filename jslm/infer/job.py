"""A request inside the engine: a job is one or more samples, and hears of them in pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jslm.infer.row import FinishReason, Row, Top

Failure = Literal["timeout", "stopped", "not_finite"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a continuation or a prompt: `start` is where its text begins; `logprob` is None for a first token
    that nothing stands before; `top` are the likeliest ones there, likeliest first, where they were asked for."""

    token: int
    start: int
    logprob: float | None
    top: Top


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of a sample: text that nothing takes back, its tokens, and at the end its reason or its failure.

    `end_logprob` is that of the end-of-text token, which is none of the tokens, where the sample ended with it.
    """

    sample: int
    text: str = ""
    tokens: Sequence[Token] = ()
    prompt_tokens: Sequence[Token] = ()
    finish_reason: FinishReason | None = None
    failure: Failure | None = None
    end_logprob: float | None = None


class Sample:
    """One row to write, as its request says."""

    def __init__(self, row: Row, *, scores_prompt: bool = False, lead: int = 0, writes: bool = True) -> None:
        """`scores_prompt` reports the prompt's own tokens, but for `lead` at its front that are not the caller's;
        without `writes` that is all."""
        self.row = row
        self.scores_prompt = scores_prompt
        self.lead = lead
        self.writes = writes
        self.number = 0
        self.prompt_length = len(row.ids)
        self._told = 0

    def new_tokens(self) -> list[Token]:
        """The settled tokens since the last call."""
        row, first = self.row, self._told
        self._told = row.settled
        return [
            Token(row.tokens[i], row.text_starts[i], row.logprobs[i], row.tops[i] if row.tops else [])
            for i in range(first, self._told)
        ]


@dataclass
class Job:
    """The samples of one request to one model. `tell` is called with each piece, on the engine's `post`."""

    model: str
    samples: list[Sample]
    tell: Callable[[Piece], None]
    deadline: float = float("inf")
    arrived: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    def __post_init__(self) -> None:
        """Numbers the samples."""
        for number, sample in enumerate(self.samples):
            sample.number = number
