"""What a caller may ask of a sample: defaults filled in, every range checked. Imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from jslm.config import SampleConfig
from jslm.errors import JslmError


class Arguments(TypedDict, total=False):
    """Keyword arguments of `generate`, `generate_results` and `stream`. None: the run's `[sample]` section."""

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    seed: int
    num_samples: int
    stop: str | Sequence[str]
    greedy: bool
    sliding_window: bool
    document_start: bool


class RewriteArguments(TypedDict, total=False):
    """Keyword arguments of `LanguageModel.rewrite`; what they mean stands there, in `rewrite_sentences`."""

    threshold: float | None
    beams: int
    alpha: float
    lookup: bool
    max_new_tokens: int | None
    batch_size: int
    conditions: Mapping[str, str] | None
    where: str


@dataclass(frozen=True)
class Options:
    """Resolved and checked arguments; temperature 0 is greedy."""

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    seed: int
    num_samples: int
    stop: tuple[str, ...]
    sliding_window: bool
    document_start: bool


@dataclass(frozen=True)
class RewriteOptions:
    """Checked arguments of rewriting; a threshold of -inf is none."""

    threshold: float
    beams: int
    alpha: float
    lookup: bool
    max_new_tokens: int | None
    batch_size: int
    where: str


def resolve_options(
    defaults: SampleConfig,
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float | None = None,
    seed: int = 0,
    num_samples: int = 1,
    stop: str | Sequence[str] = (),
    greedy: bool = False,
    sliding_window: bool = False,
    document_start: bool = True,
) -> Options:
    """The arguments with None replaced by the run's own defaults. Raises JslmError for one outside its range."""
    options = Options(
        max_new_tokens=defaults.max_new_tokens if max_new_tokens is None else max_new_tokens,
        temperature=0.0 if greedy else defaults.temperature if temperature is None else temperature,
        top_k=defaults.top_k if top_k is None else top_k,
        top_p=defaults.top_p if top_p is None else top_p,
        min_p=defaults.min_p if min_p is None else min_p,
        repetition_penalty=defaults.repetition_penalty if repetition_penalty is None else repetition_penalty,
        seed=seed,
        num_samples=num_samples,
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        sliding_window=sliding_window,
        document_start=document_start,
    )
    # Written so that a NaN fails each of them.
    ranges = [
        ("max_new_tokens", options.max_new_tokens >= 1, "1 or more"),
        ("temperature", 0 <= options.temperature < math.inf, "0 (greedy) or more"),
        ("top_k", options.top_k >= 0, "0 (off) or more"),
        ("top_p", 0 < options.top_p <= 1, "above 0 and at most 1"),
        ("min_p", 0 <= options.min_p <= 1, "from 0 to 1"),
        ("repetition_penalty", 0 < options.repetition_penalty < math.inf, "above 0; 1 is off"),
        ("seed", 0 <= options.seed < 2**63, "from 0 to 2**63 - 1"),
        ("num_samples", options.num_samples >= 1, "1 or more"),
    ]
    _check_ranges(options, ranges)
    if "" in options.stop:
        raise JslmError("stop = ''; expected a text that ends the sample, not an empty one")
    return options


def resolve_rewriting(
    *,
    threshold: float | None = None,
    beams: int = 1,
    alpha: float = 1.0,
    lookup: bool = True,
    max_new_tokens: int | None = None,
    batch_size: int = 1,
    conditions: Mapping[str, str] | None = None,
    where: str = "sentence",
) -> RewriteOptions:
    """The arguments of rewriting, checked. Raises JslmError for one outside its range."""
    least = -math.inf if threshold is None else threshold
    options = RewriteOptions(least, beams, alpha, lookup, max_new_tokens, batch_size, where)
    ranges = [
        ("threshold", least <= 0, "a mean log-probability: 0 or less"),
        ("beams", beams >= 1, "1 (greedy) or more"),
        ("alpha", 0 <= alpha < math.inf, "0 or more"),
        ("max_new_tokens", max_new_tokens is None or max_new_tokens >= 1, "1 or more"),
        ("batch_size", batch_size >= 1, "1 or more"),
    ]
    _check_ranges(options, ranges)
    # Those are the model's to judge.
    del conditions
    return options


def _check_ranges(options: Options | RewriteOptions, ranges: Sequence[tuple[str, bool, str]]) -> None:
    for name, fits, expected in ranges:
        if not fits:
            raise JslmError(f"{name} = {getattr(options, name)}; expected {expected}")
