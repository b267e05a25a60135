"""POST /v1/rewrite: a batch of sentences, each rewritten by itself."""

from __future__ import annotations

import time
import uuid
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jslm.infer.judgement import judge
from jslm.infer.rewrite import may_add, without_beams
from jslm.serve.call import call_of
from jslm.serve.generation import Generation
from jslm.serve.http import read_body, while_connected
from jslm.serve.models import ServedModel
from jslm.serve.schemas import RewriteRequest
from jslm.serve.service import Service, sampling_values


async def rewrite(request: Request) -> Response:
    """The rewrite of each sentence, how sure it is, and why a sentence stays. Raises ApiError and ClientGone."""
    service: Service = request.app.state.service
    call = call_of(request.scope)
    body = await read_body(request, RewriteRequest, service.limits.body_bytes)
    served = service.model(call, body.model)
    values = sampling_values(body)
    # A rewriter has one answer, and it is one line, as its sentence was.
    values.setdefault("temperature", 0.0)
    values.setdefault("stop", ("\n",))
    asked = served.request({**values, "max_new_tokens": body.max_tokens})
    samples = served.samples(
        [served.rewrite_prompt(sentence) for sentence in body.sentences],
        asked,
        scores_prompt=False,
    )
    generation = service.generate(call, served, samples)
    try:
        return JSONResponse(await while_connected(request.receive, _answer(body, served, generation)))
    finally:
        generation.close()


async def _answer(body: RewriteRequest, served: ServedModel, generation: Generation) -> dict[str, Any]:
    rewrites = []
    for sentence, outcome in zip(body.sentences, await generation.outcomes(), strict=True):
        logprobs = [token.logprob for token in outcome.tokens if token.logprob is not None]
        settings = served.model.config.rewrite
        judged = judge(
            settings,
            sentence,
            outcome.text,
            logprobs,
            outcome.finish_reason,
            threshold=settings.threshold,
            may_add=may_add(body.conditions or {}),
            without=without_beams(settings),
        )
        rewrites.append(
            {
                "sentence": sentence,
                # As it was written, whatever is made of it; null for the confidence in nothing.
                "rewrite": outcome.text,
                "confidence": judged.confidence,
                "output": judged.output,
                "changed": judged.changed,
                "reason": judged.reason,
                "finish_reason": outcome.finish_reason,
            }
        )
    return {
        "id": f"rewrite-{uuid.uuid4().hex}",
        "object": "rewrite",
        "created": int(time.time()),
        "model": served.name,
        "rewrites": rewrites,
        "usage": generation.usage(),
    }
