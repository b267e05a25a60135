"""One sample while it is written: its tokens, its text, and what ended it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jslm.errors import JslmError
from jslm.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Result:
    """One finished sample.

    `text` is the continuation alone, without a character that it ends in the middle of. `tokens` are the ids that
    `text` comes from, without the end-of-text token, and `logprobs` their natural log-probabilities under the model's
    own distribution, before temperature and filters. `finish_reason`: "stop" for end of text or a stop string, "length"
    for `max_new_tokens` or a full context.
    """

    prompt: str
    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason


class Row:
    """A sample in progress, on the host. The cache holds `ids[start:]`."""

    def __init__(
        self, prompt: str, ids: Sequence[int], sample: int, limit: int, tokenizer: Tokenizer, stop: Sequence[str]
    ) -> None:
        """`ids` is what the model is shown first; `sample` numbers the samples of one prompt; `limit` is in tokens."""
        self.prompt = prompt
        self.ids = list(ids)
        self.sample = sample
        self.start = 0
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        # Of the end-of-text token, where that is what ended the sample.
        self.end_logprob: float | None = None
        self.text = ""
        # Where in `text` each token begins.
        self.text_starts: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._limit = limit
        self._stop = tuple(stop)
        self._end_of_text = tokenizer.eot_id
        self._decoder = StreamDecoder(tokenizer, begins_text=not prompt)
        self._emitted = 0

    @property
    def left(self) -> int:
        """Tokens it may still write."""
        return 0 if self.finish_reason else self._limit - len(self.tokens)

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return len(self.ids) - self.start

    def push(self, token: int, logprob: float) -> None:
        """Takes the next token."""
        if token == self._end_of_text:
            self.end_logprob = logprob
            self.finish_reason = "stop"
            return
        self.ids.append(token)
        self.tokens.append(token)
        self.logprobs.append(logprob)
        before = len(self.text)
        self.text_starts.append(before)
        self.text += self._decoder.push([token])
        if self._stop and (cut := self._find_stop(before)) is not None:
            kept = sum(start < cut for start in self.text_starts)
            self.text = self.text[:cut]
            del self.tokens[kept:], self.logprobs[kept:]
            self.finish_reason = "stop"
        elif len(self.tokens) == self._limit:
            self.finish_reason = "length"

    def take(self) -> str:
        """The text since the last call that no later token can take back."""
        end = len(self.text) if self.finish_reason else len(self.text) - self._possible_stop()
        piece = self.text[self._emitted : end]
        self._emitted = max(self._emitted, end)
        return piece

    @property
    def settled(self) -> int:
        """Of the tokens, how many begin in text that `take` has given: none of these is taken back."""
        return len(self.tokens) if self.finish_reason else bisect.bisect_left(self.text_starts, self._emitted)

    def result(self) -> Result:
        """The finished sample."""
        assert self.finish_reason is not None
        return Result(self.prompt, self.text, self.tokens, self.logprobs, self.finish_reason)

    def _find_stop(self, before: int) -> int | None:
        """Where the first stop string begins that the characters from `before` on have completed."""
        found = [self.text.find(stop, max(0, before - len(stop) + 1)) for stop in self._stop]
        return min((at for at in found if at >= 0), default=None)

    def _possible_stop(self) -> int:
        """Characters at the end that may turn out to begin a stop string."""
        longest = max(map(len, self._stop), default=1) - 1
        for size in range(min(longest, len(self.text)), 0, -1):
            if any(stop.startswith(self.text[-size:]) for stop in self._stop):
                return size
        return 0


def push_tokens(row: Row, tokens: Int[np.ndarray, " n"], logprobs: Float[np.ndarray, " n"]) -> int:
    """Hands the row its next tokens, up to its end; returns how many it took. Raises JslmError for a NaN."""
    count = 0
    for token, logprob in zip(tokens.tolist(), logprobs.tolist(), strict=True):
        if not row.left:
            break
        if not np.isfinite(logprob):
            raise JslmError(
                "the model's logits are not finite; its training has diverged, or model.dtype is too narrow: "
                "try another checkpoint, or model.dtype=float32"
            )
        row.push(token, logprob)
        count += 1
    return count
