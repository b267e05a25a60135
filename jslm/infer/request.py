"""`Request`: what a caller may ask of a continuation, made and checked here alone. Imports nothing heavy.

A setting of sampling is a field of `Request`, one of `Arguments`, a range in `_RANGES`, and (where it is the device's)
a field of `jslm.infer.samplers.Sampling`; the command line and the server have words of their own for it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypedDict, Unpack, cast

from jslm.config import SampleConfig
from jslm.errors import JslmError

# Likeliest tokens that can be reported beside each one.
TOP_TOKENS = 20


class Arguments(TypedDict, total=False):
    """Keyword arguments of `generate`, `generate_results` and `stream`; see `Request`. None: the run's `[sample]`
    section."""

    max_new_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float
    frequency_penalty: float
    seed: int
    num_samples: int
    stop: str | Sequence[str]
    greedy: bool
    sliding_window: bool
    document_start: bool
    top_logprobs: int
    conditions: Mapping[str, str] | None


class RewriteArguments(TypedDict, total=False):
    """Keyword arguments of `LanguageModel.rewrite`; what they mean stands there, in `rewrite_sentences`."""

    threshold: float | None
    beams: int | None
    alpha: float
    lookup: bool
    max_new_tokens: int | None
    batch_size: int
    conditions: Mapping[str, str] | None
    where: str


@dataclass(frozen=True)
class Request:
    """How continuations are written, every value checked.

    `temperature` 0 is greedy. The penalties are for tokens that stand in prompt or continuation (repetition, a factor),
    or in the continuation (presence once, frequency for each time, subtracted from the logit, as in OpenAI's API).
    `stop`: texts that end a sample, which is cut before them. `sliding_window`: past the context, its last half is read
    anew and writing goes on from there. `document_start`: the end-of-text token that begins a document goes before the
    prompt. `top_logprobs`: how many of the likeliest tokens are reported beside each. `conditions`: (name, label) of
    what the texts are to be; those of a model that was told already hold where this names none.
    """

    max_new_tokens: int
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    num_samples: int = 1
    stop: tuple[str, ...] = ()
    sliding_window: bool = False
    document_start: bool = True
    top_logprobs: int = 0
    conditions: tuple[tuple[str, str], ...] = ()

    @property
    def penalises(self) -> bool:
        """Whether any token is penalised."""
        return self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0


_FROM_RUN = {field.name for field in fields(Request)} & set(SampleConfig.model_fields)
# Written so that a NaN fails each of them.
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "max_new_tokens": (lambda x: x >= 1, "1 or more"),
    "temperature": (lambda x: 0 <= x < math.inf, "0 (greedy) or more"),
    "top_k": (lambda x: x >= 0, "0 (off) or more"),
    "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    "min_p": (lambda x: 0 <= x <= 1, "from 0 to 1"),
    "repetition_penalty": (lambda x: 0 < x < math.inf, "above 0; 1 is off"),
    "presence_penalty": (math.isfinite, "a finite number; 0 is off"),
    "frequency_penalty": (math.isfinite, "a finite number; 0 is off"),
    "seed": (lambda x: 0 <= x < 2**63, "from 0 to 2**63 - 1"),
    "num_samples": (lambda x: x >= 1, "1 or more"),
    "top_logprobs": (lambda x: 0 <= x <= TOP_TOKENS, f"from 0 to {TOP_TOKENS}"),
}


_WHOLE = ("max_new_tokens", "top_k", "seed", "num_samples", "top_logprobs")


def _is_number(value: object, *, whole: bool = False) -> bool:
    """Whether it is one, of Python's or NumPy's; `whole`: an integer."""
    return isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)


@dataclass(frozen=True)
class RewriteOptions:
    """Checked arguments of rewriting; a threshold or a number of beams of None is the model's own."""

    threshold: float | None
    beams: int | None
    alpha: float
    lookup: bool
    max_new_tokens: int | None
    batch_size: int
    where: str


def make_request(defaults: SampleConfig, **arguments: Unpack[Arguments]) -> Request:
    """The arguments, with `defaults` for those that are None or not there. Raises JslmError for one out of range."""
    asked = {name: value for name, value in arguments.items() if value is not None}
    stop = asked.pop("stop", ())
    conditions = cast(Mapping[str, str], asked.pop("conditions", {}))
    if not isinstance(conditions, Mapping):
        raise JslmError(f"conditions = {conditions!r}; expected names and labels, such as {{'style': 'formal'}}")
    if asked.pop("greedy", False):
        asked["temperature"] = 0.0
    values = {**defaults.model_dump(include=_FROM_RUN), **asked}
    stops = (stop,) if isinstance(stop, str) else tuple(cast(Sequence[str], stop))
    request = Request(**values, stop=stops, conditions=tuple(conditions.items()))
    for name, (fits, expected) in _RANGES.items():
        value = getattr(request, name)
        if not _is_number(value, whole=name in _WHOLE) or not fits(value):
            raise JslmError(f"{name} = {value!r}; expected {expected}")
    if "" in request.stop:
        raise JslmError("stop = ''; expected a text that ends the sample, not an empty one")
    return request


def resolve_rewriting(
    *,
    threshold: float | None = None,
    beams: int | None = None,
    alpha: float = 1.0,
    lookup: bool = True,
    max_new_tokens: int | None = None,
    batch_size: int = 1,
    conditions: Mapping[str, str] | None = None,
    where: str = "sentence",
) -> RewriteOptions:
    """The arguments of rewriting, checked. Raises JslmError for one outside its range."""
    options = RewriteOptions(threshold, beams, alpha, lookup, max_new_tokens, batch_size, where)
    whole = {
        "beams": ("1 (greedy) or more", beams),
        "max_new_tokens": ("1 or more", max_new_tokens),
        "batch_size": ("1 or more", batch_size),
    }
    for name, (expected, value) in whole.items():
        if value is not None and (not _is_number(value, whole=True) or value < 1):
            raise JslmError(f"{name} = {value!r}; expected {expected}")
    if threshold is not None and (not _is_number(threshold) or not 0 <= threshold <= 1):
        raise JslmError(f"threshold = {threshold!r}; expected a probability from 0 to 1")
    if not _is_number(alpha) or not 0 <= alpha < math.inf:
        raise JslmError(f"alpha = {alpha!r}; expected 0 or more")
    # Those are the model's to judge.
    del conditions
    return options
