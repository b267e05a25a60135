"""One sample while it is written: its tokens, its text, and what ended it."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import Float, Int

from jslm.errors import JslmError
from jslm.infer.request import Request
from jslm.tokenizer import StreamDecoder, Tokenizer

FinishReason = Literal["stop", "length"]
# (token, log-probability) of the likeliest tokens at a place, likeliest first.
Top = list[tuple[int, float]]


@dataclass(frozen=True)
class Result:
    """One finished sample.

    `text` is the continuation alone, without a character that it ends in the middle of. `tokens` are the ids that
    `text` comes from, without the end-of-text token, and `logprobs` their natural log-probabilities under the model's
    own distribution, before temperature and filters. `finish_reason`: "stop" for end of text or a stop string, "length"
    for `max_new_tokens` or a full context. `top_logprobs`: the likeliest tokens at each place, likeliest first, with
    their log-probabilities, where the request asked for them.
    """

    prompt: str
    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    top_logprobs: list[Top] = field(default_factory=list)


class Row:
    """A sample in progress, on the host. The cache holds `ids[start:]`."""

    def __init__(
        self, prompt: str, ids: Sequence[int], sample: int, limit: int, tokenizer: Tokenizer, request: Request
    ) -> None:
        """`ids` is what the model is shown first; `sample` numbers the samples of one prompt; `limit` is in tokens."""
        self.request = request
        self.prompt = prompt
        self.ids = list(ids)
        self.sample = sample
        self.start = 0
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        # The likeliest tokens at each place with their log-probabilities, where the request asks for them.
        self.tops: list[Top] = []
        # Of the end-of-text token, where that is what ended the sample.
        self.end_logprob: float | None = None
        self.text = ""
        # Where in `text` each token begins.
        self.text_starts: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._limit = limit
        self._stop = request.stop
        self._end_of_text = tokenizer.eot_id
        self._decoder = StreamDecoder(tokenizer, begins_text=not prompt)
        self._emitted = 0

    @property
    def left(self) -> int:
        """Tokens it may still write."""
        return 0 if self.finish_reason else self._limit - len(self.tokens)

    @property
    def all_logprobs(self) -> list[float]:
        """Those of the tokens, and of the end-of-text token where that ended the sample."""
        return self.logprobs if self.end_logprob is None else [*self.logprobs, self.end_logprob]

    @property
    def position(self) -> int:
        """Tokens in the cache."""
        return len(self.ids) - self.start

    def push(self, token: int, logprob: float, top: Top | None = None) -> None:
        """Takes the next token, with the likeliest ones there."""
        if token == self._end_of_text:
            self.end_logprob = logprob
            self.finish_reason = "stop"
            return
        self.ids.append(token)
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if top is not None:
            self.tops.append(top)
        before = len(self.text)
        self.text_starts.append(before)
        self.text += self._decoder.push([token])
        if self._stop and (cut := self._find_stop(before)) is not None:
            kept = sum(start < cut for start in self.text_starts)
            self.text = self.text[:cut]
            del self.tokens[kept:], self.logprobs[kept:], self.tops[kept:]
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
        return Result(self.prompt, self.text, self.tokens, self.logprobs, self.finish_reason, self.tops)

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


def push_tokens(
    row: Row,
    tokens: Int[np.ndarray, " n"],
    logprobs: Float[np.ndarray, " n"],
    top_tokens: Int[np.ndarray, "n top"] | None = None,
    top_logprobs: Float[np.ndarray, "n top"] | None = None,
) -> int:
    """Hands the row its next tokens, up to its end; returns how many it took. Raises JslmError for a NaN."""
    count, most = 0, row.request.top_logprobs
    for index, (token, logprob) in enumerate(zip(tokens.tolist(), logprobs.tolist(), strict=True)):
        if not row.left:
            break
        if not np.isfinite(logprob):
            raise NotFinite(
                "the model's logits are not finite; its training has diverged, or model.dtype is too narrow: "
                "try another checkpoint, or model.dtype=float32"
            )
        top = None
        if most and top_tokens is not None and top_logprobs is not None:
            pair = top_tokens[index, :most].tolist(), top_logprobs[index, :most].tolist()
            top = list(zip(*pair, strict=True))
        row.push(token, logprob, top)
        count += 1
    return count


class NotFinite(JslmError):
    """The model's logits are not numbers."""
