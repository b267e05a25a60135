"""POST /v1/completions: from the request to its samples, and from their tokens to OpenAI's answer."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

import jslm.infer as infer
from jslm.infer.job import Token
from jslm.serve.call import call_of
from jslm.serve.errors import ApiError
from jslm.serve.generation import Generation, answered
from jslm.serve.http import read_body
from jslm.serve.models import ServedModel
from jslm.serve.schemas import CompletionRequest
from jslm.serve.service import Service, sampling_values


async def completions(request: Request) -> Response:
    """Text after each prompt. Raises ApiError and ClientGone."""
    service: Service = request.app.state.service
    call = call_of(request.scope)
    body = await read_body(request, CompletionRequest, service.limits.body_bytes)
    served = service.model(call, body.model)
    answer = _Answer(body, served)
    generation = service.generate(call, served, answer.samples())
    return await answered(request, generation, answer.whole, answer.events if body.stream else None)


class _Answer:
    """One request's answer. Choice i is sample `i % n` of prompt `i // n`."""

    def __init__(self, body: CompletionRequest, served: ServedModel) -> None:
        if body.best_of not in (None, body.n):
            raise ApiError(400, f"best_of = {body.best_of}: this server takes only n, {body.n}", param="best_of")
        if body.logit_bias:
            raise ApiError(400, "logit_bias: this server does not have it", param="logit_bias")
        if body.max_tokens == 0 and not body.echo:
            raise ApiError(400, "max_tokens = 0 without echo asks for nothing", param="max_tokens")
        self._body = body
        self._served = served
        self._prompts = _prompts(body, served)
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())

    def samples(self) -> list[Any]:
        body = self._body
        asked = self._asked()
        return self._served.samples(
            self._prompts,
            asked,
            scores_prompt=body.echo and (body.logprobs is not None or body.max_tokens == 0),
            writes=body.max_tokens != 0,
        )

    async def whole(self, generation: Generation) -> dict[str, Any]:
        choices = []
        for index, outcome in enumerate(await generation.outcomes()):
            prompt = self._prompt_text(index) if self._body.echo else ""
            tokens = [*outcome.prompt_tokens, *_moved(outcome.tokens, len(prompt))]
            choices.append(self._choice(index, prompt + outcome.text, tokens, outcome.finish_reason))
        return self._frame(choices, usage=generation.usage())

    async def events(self, generation: Generation) -> AsyncIterator[dict[str, Any]]:
        body = self._body
        with_usage = body.stream_options is not None and body.stream_options.include_usage
        begun: set[int] = set()
        async for piece in generation.pieces():
            prompt = ""
            # The prompt goes out with the first words, or its scores, of each sample.
            if body.echo and piece.sample not in begun:
                prompt = self._prompt_text(piece.sample)
            begun.add(piece.sample)
            lead = len(self._prompt_text(piece.sample)) if body.echo else 0
            tokens = [*piece.prompt_tokens, *_moved(piece.tokens, lead)]
            choice = self._choice(piece.sample, prompt + piece.text, tokens, piece.finish_reason)
            yield self._frame([choice], **({"usage": None} if with_usage else {}))
        if with_usage:
            yield self._frame([], usage=generation.usage())

    def _asked(self) -> infer.Request:
        body = self._body
        # Without max_tokens the run's own default; a sample that only scores still needs room for one.
        most = max(1, body.max_tokens) if body.max_tokens is not None else None
        values = {"num_samples": body.n, "max_new_tokens": most, "top_logprobs": body.logprobs}
        return self._served.request({**sampling_values(body), **values})

    def _prompt_text(self, index: int) -> str:
        prompt = self._prompts[index // self._body.n]
        return prompt if isinstance(prompt, str) else self._served.model.tokenizer.decode(prompt)

    def _choice(self, index: int, text: str, tokens: Sequence[Token], finish_reason: str | None) -> dict[str, Any]:
        logprobs = None if self._body.logprobs is None else self._logprobs(tokens)
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any]:
        name, most = self._served.token_text, self._body.logprobs
        tops: list[dict[str, float] | None] = []
        for token in tokens:
            top = {name(other): logprob for other, logprob in token.top[:most]}
            tops.append(top if token.logprob is not None and most else None)
        return {
            "tokens": [name(token.token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": tops if most else None,
            "text_offset": [token.start for token in tokens],
        }

    def _frame(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._served.name,
            "choices": choices,
            **more,
        }


def _prompts(body: CompletionRequest, served: ServedModel) -> list[str] | list[list[int]]:
    """The prompts as the model reads them: `echo` and the offsets of its tokens are about the same text."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [served.model.as_read(prompt)]
    if isinstance(prompt[0], int):
        return [prompt]
    if isinstance(prompt[0], list):
        return prompt
    return [served.model.as_read(each) for each in prompt]


def _moved(tokens: Sequence[Token], by: int) -> list[Token]:
    return [Token(token.token, token.start + by, token.logprob, token.top) for token in tokens]
