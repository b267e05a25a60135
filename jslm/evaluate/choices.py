"""Questions answered by likelihood: which continuation is the most probable, by itself or a character."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jslm.console import Bar
from jslm.errors import JslmError
from jslm.evaluate.questions import Question
from jslm.evaluate.scoring import BATCH_TOKENS, Window, score_windows, start_ids, windows_of
from jslm.infer import LanguageModel


class Likelihood(NamedTuple):
    """Of a continuation: natural log-probability, tokens, and whether greedy decoding would write it."""

    logprob: float
    tokens: int
    greedy: bool


def likelihoods(
    model: LanguageModel, pairs: Iterable[tuple[str, str]], *, batch_tokens: int = BATCH_TOKENS
) -> list[Likelihood]:
    """The likelihood of each (context, continuation), in their order.

    The two are encoded as one text; the tokens that the continuation adds are its own. Spaces at the context's end
    count as the continuation's, where tokenizers have them. What doesn't fit in the model's context is cut off on the
    left. An empty context is the start of a document. Raises JslmError for an empty continuation.
    """
    windows: list[Window] = []
    count = 0
    for count, (context, continuation) in enumerate(pairs, 1):
        ids, first = encode_pair(model, context, continuation)
        windows += windows_of(ids, first, model.config.model.context_length, count - 1)
    logprobs, tokens = np.zeros(count), np.zeros(count, np.int64)
    greedy = np.ones(count, bool)
    with Bar("scoring", len(windows), "answers") as bar:
        for scored in score_windows(model, windows, batch_tokens=batch_tokens):
            logprobs[scored.owner] += np.sum(scored.logprobs, dtype=np.float64)
            tokens[scored.owner] += scored.logprobs.size
            greedy[scored.owner] &= bool(np.all(scored.likeliest))
            bar.add()
    return [Likelihood(*values) for values in zip(logprobs.tolist(), tokens.tolist(), greedy.tolist(), strict=True)]


def encode_pair(model: LanguageModel, context: str, continuation: str) -> tuple[list[int], int]:
    """Ids of both, after the start of a document where sampling puts one, and the index of the continuation's first.

    Both are read as `LanguageModel.as_read` has it. Raises JslmError where the continuation is empty.
    """
    if not continuation:
        raise JslmError(f"nothing to score after {context[-40:]!r}; expected a continuation")
    tokenizer = model.tokenizer
    context, continuation = model.as_read(context), model.as_read(continuation)
    # "word" + " next" is how most tokenizers cut, and "word " + "next" is not.
    kept = context.rstrip()
    continuation = context[len(kept) :] + continuation
    if not kept:
        before = start_ids(model)
        return before + tokenizer.encode(continuation), len(before)
    whole, alone = tokenizer.encode(kept + continuation), tokenizer.encode(kept)
    # Where a token spans the border, it is the continuation's.
    shared = next((i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b), len(alone))
    before = [tokenizer.bos_id] if model.ends_documents and tokenizer.adds_bos else []
    if not before and not shared:
        before = start_ids(model)
    return before + whole, len(before) + min(shared, len(whole) - 1)


def answer_questions(
    model: LanguageModel, questions: Sequence[Question], *, batch_tokens: int = BATCH_TOKENS
) -> dict[str, Any]:
    """Accuracy over the questions, as a record for the report.

    Multiple choice: `accuracy` by the sum of log-probabilities, `accuracy_normalized` by that sum over the choice's
    characters (as lm-evaluation-harness's `acc_norm`), and `chance`. A tie with a wrong choice counts as wrong. Cloze:
    `accuracy` is the share that greedy decoding completes, `perplexity` that of the missing text. `groups` has the
    accuracy of each part, where there are several.
    """
    pairs = [(question.context, choice) for question in questions for choice in question.choices]
    scores = iter(likelihoods(model, pairs, batch_tokens=batch_tokens))
    right, right_normalized, nats = [], [], 0.0
    for question in questions:
        found = [next(scores) for _ in question.choices]
        if question.cloze:
            right.append(found[0].greedy)
            nats -= found[0].logprob
            continue
        sums = [score.logprob for score in found]
        right.append(_wins(sums, question.answer))
        ratios = [total / max(1, length) for total, length in zip(sums, question.lengths, strict=True)]
        right_normalized.append(_wins(ratios, question.answer))
    record: dict[str, Any] = {"items": len(questions), "accuracy": float(np.mean(right))}
    record["stderr"] = math.sqrt(record["accuracy"] * (1 - record["accuracy"]) / len(questions))
    if right_normalized:
        record["accuracy_normalized"] = float(np.mean(right_normalized))
        record["chance"] = float(np.mean([1 / len(question.choices) for question in questions]))
    else:
        record["perplexity"] = math.exp(min(nats / len(questions), 690))
    groups = sorted({question.group for question in questions})
    if len(groups) > 1:
        parts = {g: [ok for ok, q in zip(right, questions, strict=True) if q.group == g] for g in groups}
        record["groups"] = {
            group: {"items": len(part), "accuracy": float(np.mean(part))} for group, part in parts.items()
        }
    return record


def _wins(scores: Sequence[float], answer: int) -> bool:
    return all(score < scores[answer] for index, score in enumerate(scores) if index != answer)
