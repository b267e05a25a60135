"""What a model writes by itself: how varied it is, how much it repeats itself, and how much it has by heart."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jslm.evaluate.copies import Copy, longest_copies
from jslm.tokens import TokenFile

if TYPE_CHECKING:
    from jslm.infer import LanguageModel

LEAST_COPY = 8
_ORDERS = (1, 2, 3, 4)
_SHOWN_CHARACTERS = 300


def sample_quality(
    model: LanguageModel,
    count: int = 100,
    *,
    seed: int = 0,
    training: TokenFile | None = None,
    held_out: TokenFile | None = None,
) -> dict[str, Any]:
    """Figures of `count` samples from the start of a document, drawn as the run's `[sample]` section says.

    `distinct`: different n-grams of words over all, in all samples together (Li et al. 2016), for n = 1 to 4.
    `repetition`: share of a sample's 4-grams that it had before, on average (Welleck et al. 2020, "seq-rep-4").
    `ended`: share that came to an end by themselves. Words are what white space separates. With the `training` tokens,
    `copies` says how long the longest runs are that stand there word for word, and which file that is; with `held_out`
    tokens also how long those of as many pieces of real text as long are, for comparison.
    """
    results = model.generate_results("", num_samples=count, seed=seed)
    words = [result.text.split() for result in results]
    record: dict[str, Any] = {
        "samples": count,
        "mean_tokens": statistics.fmean(len(result.tokens) for result in results),
        "mean_words": statistics.fmean(map(len, words)),
        "ended": statistics.fmean(result.finish_reason == "stop" for result in results),
        "distinct": {str(order): distinct(words, order) for order in _ORDERS},
        "repetition": statistics.fmean(repetition(text) for text in words),
    }
    if training is not None:
        samples = [result.tokens for result in results]
        copies = longest_copies(samples, training.tokens, least=LEAST_COPY)
        record["copies"] = _lengths(copies) | _longest(model, samples, copies)
        record["copies"]["training_sha256"] = training.meta["train"]["sha256"]
        if held_out is not None and len(held_out.tokens):
            pieces = _pieces(held_out, [len(sample) for sample in samples])
            record["copies"]["held_out"] = _lengths(longest_copies(pieces, training.tokens, least=LEAST_COPY))
    return record


def distinct(texts: Sequence[Sequence[str]], order: int) -> float:
    """Different n-grams over all n-grams of the texts; 0 where there are none."""
    grams = [gram for text in texts for gram in _grams(text, order)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repetition(words: Sequence[str], order: int = 4) -> float:
    """Share of the n-grams of a text that stood in it before; 0 where it has none."""
    grams = list(_grams(words, order))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _grams(words: Sequence[str], order: int) -> zip[tuple[str, ...]]:
    return zip(*(itertools.islice(words, start, None) for start in range(order)), strict=False)


def _lengths(copies: Sequence[Copy]) -> dict[str, Any]:
    lengths = [copy.length for copy in copies]
    return {"least_tokens": LEAST_COPY, "longest_tokens": max(lengths), "median_tokens": statistics.median(lengths)}


def _longest(model: LanguageModel, samples: Sequence[Sequence[int]], copies: Sequence[Copy]) -> dict[str, Any]:
    index = max(range(len(copies)), key=lambda i: copies[i].length)
    start, length = copies[index]
    text = model.tokenizer.decode(samples[index][start : start + length])
    shares = [copy.length / len(sample) for copy, sample in zip(copies, samples, strict=True) if sample]
    return {
        "longest_characters": len(text),
        "longest_text": text[:_SHOWN_CHARACTERS],
        "mean_share": statistics.fmean(shares) if shares else 0.0,
    }


def _pieces(file: TokenFile, lengths: Sequence[int]) -> list[list[int]]:
    """Runs of tokens from evenly spaced documents, none longer than its document."""
    documents = len(file.offsets) - 1
    chosen = (np.arange(len(lengths)) * documents // len(lengths)).tolist()
    starts = [int(file.offsets[document]) for document in chosen]
    ends = [int(file.offsets[document + 1]) for document in chosen]
    if documents < len(lengths):
        # Few long documents: evenly spaced places of the whole do as well.
        starts = (np.arange(len(lengths)) * len(file.tokens) // len(lengths)).tolist()
        ends = [len(file.tokens)] * len(lengths)
    spans = zip(starts, ends, lengths, strict=True)
    return [file.tokens[start : min(start + length, end)].tolist() for start, end, length in spans]
