"""POST /v1/rewrite: a batch of texts, each rewritten by itself, as `LanguageModel.rewrite` does it greedily."""

from __future__ import annotations

import time
import unicodedata
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from jslm.infer.judgement import Rewrite, StandIns, judge, kept
from jslm.infer.rewrite import may_add, most_tokens, without_beams
from jslm.infer.sentences import Unreadable, joined, parts_of, read_sentence
from jslm.serve.call import call_of
from jslm.serve.errors import ApiError
from jslm.serve.generation import Generation, Outcome, answered
from jslm.serve.http import read_body
from jslm.serve.models import ServedModel
from jslm.serve.schemas import RewriteRequest
from jslm.serve.service import Service, sampling_values

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


class _Part(NamedTuple):
    """A sentence of a text: its prompt and what stands in it for characters that the model lacks, or why neither."""

    sentence: str
    prompt: str = ""
    stand_ins: StandIns | None = None
    unread: str = ""


class _Written(NamedTuple):
    """What became of a sentence, what the model wrote for it, and how that ended (None where it could not read it)."""

    judged: Rewrite
    text: str
    finish_reason: str | None

    def in_place(self) -> str:
        """What was written, with the white space around its sentence; the sentence where it could not be read."""
        source = self.judged.source
        core = source.strip()
        return source if self.finish_reason is None or not core else source.replace(core, self.text.strip(), 1)


async def rewrite(request: Request) -> Response:
    """The rewrite of each text, how sure it is, and why a sentence stays. Raises ApiError and ClientGone."""
    service: Service = request.app.state.service
    call = call_of(request.scope)
    body = await read_body(request, RewriteRequest, service.limits.body_bytes)
    served = service.model(call, body.model)
    values = sampling_values(body)
    # A rewriter has one answer, and it is one line, as its sentence was.
    values.setdefault("temperature", 0.0)
    values.setdefault("stop", ("\n",))
    split = [parts_of(served.model, text) for text in body.sentences]
    # Before any is encoded, which takes its time.
    if (count := sum(map(len, split))) > served.sample_limit:
        message = f"{count} sentences in all; this server takes {served.sample_limit} a request"
        raise ApiError(400, message, param="sentences")
    texts = [[_read(served, part) for part in parts] for parts in split]
    prompts = [part.prompt for parts in texts for part in parts if not part.unread]
    if not prompts:
        # What is asked for is checked all the same.
        served.request({**values, "max_new_tokens": body.max_tokens})
        return JSONResponse(_answer(body, served, texts, [], dict.fromkeys(_USAGE, 0)))
    samples = []
    for prompt in prompts:
        # Its own room: what becomes of a sentence does not depend on its company.
        most = body.max_tokens or min(served.new_limit, most_tokens(served.model, prompt))
        asked = served.request({**values, "max_new_tokens": most})
        samples += served.samples([prompt], asked, scores_prompt=False)
    generation = service.generate(call, served, samples)

    async def whole(generation: Generation) -> dict[str, Any]:
        return _answer(body, served, texts, await generation.outcomes(), generation.usage())

    return await answered(request, generation, whole, None)


def _read(served: ServedModel, sentence: str) -> _Part:
    core = unicodedata.normalize("NFC", sentence.strip())
    try:
        served.check_length(core)
        text, stand_ins = read_sentence(served.model, core)
    except Unreadable as reason:
        return _Part(sentence, unread=str(reason))
    except ApiError as error:
        return _Part(sentence, unread=error.message)
    return _Part(sentence, served.rewrite_prompt(text), stand_ins)


def _answer(
    body: RewriteRequest,
    served: ServedModel,
    texts: Sequence[Sequence[_Part]],
    outcomes: Sequence[Outcome],
    usage: dict[str, int],
) -> dict[str, Any]:
    """`outcomes`: one for each sentence that was read, in order."""
    following = iter(outcomes)
    rewrites = []
    for text, parts in zip(body.sentences, texts, strict=True):
        written = [_judged(served, part, following, body) for part in parts]
        judged = written[0].judged if len(written) == 1 else joined(text, [each.judged for each in written])
        ends = {each.finish_reason for each in written} - {None}
        rewrites.append(
            {
                "sentence": text,
                # As it was written, whatever is made of it; null for the confidence in nothing.
                "rewrite": written[0].text if len(written) == 1 else "".join(each.in_place() for each in written),
                "confidence": judged.confidence,
                "output": judged.output,
                "changed": judged.changed,
                "reason": judged.reason,
                "finish_reason": "length" if "length" in ends else next(iter(ends), None),
            }
        )
    return {
        "id": f"rewrite-{uuid.uuid4().hex}",
        "object": "rewrite",
        "created": int(time.time()),
        "model": served.name,
        "rewrites": rewrites,
        "usage": usage,
    }


def _judged(served: ServedModel, part: _Part, outcomes: Iterator[Outcome], body: RewriteRequest) -> _Written:
    if part.stand_ins is None:
        return _Written(kept(part.sentence, part.unread), "", None)
    outcome = next(outcomes)
    settings = served.model.config.rewrite
    text = part.stand_ins.take(outcome.text)
    judged = judge(
        settings,
        part.sentence,
        text,
        outcome.logprobs,
        outcome.finish_reason,
        threshold=settings.threshold if body.threshold is None else body.threshold,
        may_add=may_add(served.model, body.conditions or {}),
        without=without_beams(settings),
    )
    return _Written(judged, text, outcome.finish_reason)
