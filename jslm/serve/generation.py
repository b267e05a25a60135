"""A request from the HTTP side: submits its samples to the engine, and collects or streams what comes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jslm.infer import FinishReason
from jslm.infer.job import Job, Piece, Sample, Token
from jslm.serve.call import Call
from jslm.serve.engine import Engine, Refused
from jslm.serve.errors import ApiError, failed, overloaded
from jslm.serve.http import EventStream, while_connected
from jslm.serve.metrics import Metrics
from jslm.serve.models import ServedModel

_LATE_SECONDS = 1.0
Json = dict[str, Any]


@dataclass
class Outcome:
    """A finished sample."""

    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    prompt_tokens: list[Token] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    end_logprob: float | None = None

    @property
    def logprobs(self) -> list[float]:
        """Of what was written, the end-of-text token included (`Row.all_logprobs`)."""
        found = [token.logprob for token in self.tokens if token.logprob is not None]
        return found if self.end_logprob is None else [*found, self.end_logprob]


class Generation:
    """The samples of one request, from submission to the last piece."""

    def __init__(
        self, engine: Engine, metrics: Metrics, call: Call, served: ServedModel, samples: Sequence[Sample]
    ) -> None:
        """Submits them. Raises ApiError where the engine refuses them, or the call's key has no tokens left."""
        limits = engine.limits
        self.samples = list(samples)
        self.written = 0
        self._seconds = limits.seconds
        self._engine, self._metrics, self._call, self._served = engine, metrics, call, served
        self._reserved = self._most_tokens()
        if call.account is not None:
            call.account.reserve(self._reserved)
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._open = len(samples)
        self._last: float | None = None
        deadline = time.monotonic() + limits.seconds
        self.deadline = asyncio.get_running_loop().time() + limits.seconds
        # The engine keeps the time itself, unless it hangs.
        self._alarm = asyncio.get_running_loop().call_at(
            self.deadline + _LATE_SECONDS, self._pieces.put_nowait, Piece(0, failure="timeout")
        )
        self._job = Job(served.name, self.samples, self._pieces.put_nowait, deadline)
        try:
            engine.submit(self._job)
        except Refused as refused:
            self._alarm.cancel()
            if call.account is not None:
                call.account.give_back(self._reserved)
            raise _refusal(refused) from None
        call.prompt_tokens = self._read_tokens()
        if call.keeps_texts:
            call.prompts = [
                served.model.tokenizer.decode(s.row.ids[: s.prompt_length]) for s in self.samples if s.row.sample == 0
            ]
            call.texts = ["" for _ in self.samples]

    def close(self) -> None:
        """Frees what the engine still holds of it; has to be called, however the request ends."""
        self._alarm.cancel()
        if self._open and not self._job.cancelled:
            self._engine.cancel(self._job)
        if self._call.account is not None:
            self._call.account.give_back(self._reserved - self._read_tokens() - self.written)
            self._reserved = self._read_tokens() + self.written

    async def pieces(self) -> AsyncIterator[Piece]:
        """Every piece of every sample as it comes. Raises ApiError where a sample fails."""
        while self._open:
            piece = await self._pieces.get()
            if piece.failure:
                raise failed(piece.failure, self._seconds)
            self._note(piece)
            self._open -= piece.finish_reason is not None
            yield piece
        self._metrics.finished(self._served.name, time.monotonic() - self._job.arrived)

    async def outcomes(self) -> list[Outcome]:
        """All samples, finished."""
        found = [Outcome() for _ in self.samples]
        texts: list[list[str]] = [[] for _ in self.samples]
        async for piece in self.pieces():
            outcome = found[piece.sample]
            texts[piece.sample].append(piece.text)
            outcome.tokens += piece.tokens
            outcome.prompt_tokens += piece.prompt_tokens
            outcome.finish_reason, outcome.end_logprob = piece.finish_reason, piece.end_logprob
        for outcome, parts in zip(found, texts, strict=True):
            outcome.text = "".join(parts)
        return found

    def usage(self) -> dict[str, int]:
        """Tokens read (each prompt once, however many samples it has) and written."""
        read = self._read_tokens()
        return {"prompt_tokens": read, "completion_tokens": self.written, "total_tokens": read + self.written}

    def _read_tokens(self) -> int:
        return sum(sample.prompt_length for sample in self.samples if sample.row.sample == 0)

    def _most_tokens(self) -> int:
        return self._read_tokens() + sum(sample.row.left for sample in self.samples if sample.writes)

    def _note(self, piece: Piece) -> None:
        self.written += len(piece.tokens)
        self._call.completion_tokens = self.written
        if self._call.keeps_texts:
            self._call.texts[piece.sample] += piece.text
        if not piece.tokens:
            return
        now = time.monotonic()
        if self._last is None:
            self._metrics.first_token(self._served.name, now - self._job.arrived)
            self._call.first_token_seconds = now - self._call.started
        elif len(self.samples) == 1:
            self._metrics.more_tokens(self._served.name, (now - self._last) / len(piece.tokens), len(piece.tokens))
        self._last = now


async def answered(
    request: Request,
    generation: Generation,
    whole: Callable[[Generation], Coroutine[Any, Any, Json]],
    events: Callable[[Generation], AsyncIterator[Json]] | None,
) -> Response:
    """What comes of a generation, which is closed in the end: the JSON that `whole` makes of it, or the stream of
    `events` where these are wanted. Raises ApiError and ClientGone."""
    if events is not None:
        return EventStream(events(generation), deadline=generation.deadline, close=generation.close)
    try:
        return JSONResponse(await while_connected(request.receive, whole(generation)))
    finally:
        generation.close()


def _refusal(refused: Refused) -> ApiError:
    match refused.reason:
        case "queue_full":
            return overloaded("too many requests are waiting; try again soon", "queue_full", 429)
        case "draining":
            return overloaded("the server is shutting down", "draining")
        case _:
            return overloaded("the model has stopped; see the server's log", "stopped")
