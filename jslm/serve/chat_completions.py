"""POST /v1/chat/completions, for models that have a chat template."""

from __future__ import annotations

import dataclasses
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from jslm.errors import JslmError
from jslm.infer.job import Sample, Token
from jslm.serve.call import call_of
from jslm.serve.errors import ApiError
from jslm.serve.generation import Generation, answered
from jslm.serve.http import read_body
from jslm.serve.models import ServedModel
from jslm.serve.schemas import ChatRequest, Message
from jslm.serve.service import Service, sampling_values


async def chat_completions(request: Request) -> Response:
    """The assistant's next turn. Raises ApiError and ClientGone."""
    service: Service = request.app.state.service
    call = call_of(request.scope)
    body = await read_body(request, ChatRequest, service.limits.body_bytes)
    served = service.model(call, body.model)
    answer = _Answer(body, served)
    generation = service.generate(call, served, answer.samples())
    return await answered(request, generation, answer.whole, answer.events if body.stream else None)


class _Answer:
    def __init__(self, body: ChatRequest, served: ServedModel) -> None:
        if served.chat is None:
            raise ApiError(
                400,
                served.no_chat,
                code="no_chat_template",
                param="model",
            )
        if body.logit_bias:
            raise ApiError(400, "logit_bias: this server does not have it", param="logit_bias")
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs = true", param="top_logprobs")
        self._body = body
        self._served = served
        self._chat = served.chat
        self._messages = _plain(body.messages)
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def samples(self) -> list[Sample]:
        body = self._body
        most = body.max_completion_tokens or body.max_tokens or self._served.new_limit
        values = {"num_samples": body.n, "max_new_tokens": most, "top_logprobs": body.top_logprobs}
        asked = self._served.request({**sampling_values(body), **values})
        self._served.check_length("".join(message["content"] for message in self._messages))
        try:
            ids = self._chat.prompt_ids(self._messages)
        except JslmError as error:
            raise ApiError(400, f"messages: {error}", param="messages") from None
        return self._served.samples(
            [ids],
            dataclasses.replace(asked, stop=(*asked.stop, *self._chat.stops)),
            scores_prompt=False,
        )

    async def whole(self, generation: Generation) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": outcome.text, "refusal": None},
                "logprobs": self._logprobs(outcome.tokens),
                "finish_reason": outcome.finish_reason,
            }
            for index, outcome in enumerate(await generation.outcomes())
        ]
        return self._frame("chat.completion", choices, usage=generation.usage())

    async def events(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        options = self._body.stream_options
        usage: dict[str, Any] = {"usage": None} if options and options.include_usage else {}
        for index in range(self._body.n):
            yield self._chunk(index, {"role": "assistant", "content": ""}, (), None, usage)
        async for piece in generation.pieces():
            delta = {"content": piece.text} if piece.text else {}
            yield self._chunk(piece.sample, delta, piece.tokens, piece.finish_reason, usage)
        if usage:
            yield self._frame("chat.completion.chunk", [], usage=generation.usage())

    def _chunk(
        self, index: int, delta: dict[str, Any], tokens: Sequence[Token], reason: str | None, usage: dict[str, Any]
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": delta, "logprobs": self._logprobs(tokens), "finish_reason": reason}
        return self._frame("chat.completion.chunk", [choice], **usage)

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        return {
            "content": [
                {
                    **self._entry(token.token, token.logprob or 0.0),
                    "top_logprobs": [self._entry(*pair) for pair in token.top[: self._body.top_logprobs]],
                }
                for token in tokens
            ],
            "refusal": None,
        }

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self._served.model.tokenizer.decode_bytes([token])
        return {"token": self._served.token_text(token), "logprob": logprob, "bytes": list(raw)}

    def _frame(self, kind: str, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        frame = {"id": self._id, "object": kind, "created": self._created, "model": self._served.name}
        return {**frame, "choices": choices, **more}


def _plain(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The messages as a template takes them, the parts of each joined."""
    return [{"role": message.role, "content": message.text()} for message in messages]
