"""A request inside the engine: a job is one or more samples, and hears of them in pieces."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from jslm.infer import FinishReason, Options, Row

Failure = Literal["timeout", "stopped", "not_finite"]


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a continuation or a prompt: `start` is where its text begins; `logprob` is None for a first token
    that nothing stands before; `top` are the likeliest ones there, likeliest first, where they were asked for."""

    token: int
    start: int
    logprob: float | None
    top: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of a sample: text that nothing takes back, its tokens, and at the end its reason or its failure."""

    sample: int
    text: str = ""
    tokens: Sequence[Token] = ()
    prompt_tokens: Sequence[Token] = ()
    finish_reason: FinishReason | None = None
    failure: Failure | None = None


class Sample:
    """One row to write, and how. `options` are those of jslm.sample; the penalties are OpenAI's."""

    def __init__(
        self,
        row: Row,
        options: Options,
        *,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        wants_top: bool = False,
        scores_prompt: bool = False,
        lead: int = 0,
        writes: bool = True,
        labels: Sequence[int] = (),
    ) -> None:
        """`scores_prompt` reports the prompt's own tokens, but for `lead` at its front that are not the caller's;
        without `writes` that is all. `labels`: the number of its label of each of the model's conditions, -1 for none;
        empty: none of all."""
        self.row = row
        self.options = options
        self.presence_penalty = presence_penalty
        self.frequency_penalty = frequency_penalty
        self.wants_top = wants_top
        self.scores_prompt = scores_prompt
        self.lead = lead
        self.writes = writes
        self.labels = labels
        self.number = 0
        self.prompt_length = len(row.ids)
        self.tops: list[list[tuple[int, float]]] = []
        self._told = 0

    def new_tokens(self) -> list[Token]:
        """The settled tokens since the last call."""
        row, first = self.row, self._told
        self._told = row.settled
        starts, logprobs, tops = row.text_starts, row.logprobs, self.tops
        return [
            Token(row.tokens[i], starts[i], logprobs[i], tops[i] if self.wants_top else [])
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
