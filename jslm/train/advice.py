"""What spoils a first run without stopping it, each with its remedy: said once, before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from jslm.config import Config
from jslm.dial.rules import MIN_VALIDATION_WINDOWS
from jslm.train.metrics import format_count

MAX_WARMUP = 0.1
_GOOD_WARMUP = 0.05
# More than that is better learned than held out.
_MAX_VALIDATION = 0.25
# Muennighoff et al. 2023, "Scaling Data-Constrained Language Models", section 5: what a text is worth however often it
# is read, in further readings of new text.
_WORTH_OF_REPEATS = 15.4


@dataclass(frozen=True)
class Amounts:
    """What a run is about to do: `steps`, the model's `parameters`, `training_tokens` in the text that are learned, of
    which it sees `seen_tokens`, repeats included, `validation_tokens` and the `validation_windows` they make."""

    steps: int
    parameters: int
    training_tokens: int
    seen_tokens: float
    validation_tokens: int
    validation_windows: int


def advice(config: Config, amounts: Amounts) -> Iterator[str]:
    """A line for each thing that will spoil the run; `steps` and `seen_tokens` of 0 are not known, and not judged."""
    yield from _warmup(config, amounts.steps)
    # A model to start from has its size, and has learned from other text.
    if not config.train.init_from:
        yield from _size(amounts)
    yield from _validation(config, amounts)


def worth_in_tokens(tokens: float, passes: float) -> float:
    """How many new tokens a text of `tokens` is worth that is read `passes` times (Muennighoff et al. 2023, eq. 5)."""
    repeats = max(0.0, passes - 1)
    return tokens * (min(passes, 1.0) + _WORTH_OF_REPEATS * (1 - math.exp(-repeats / _WORTH_OF_REPEATS)))


def _warmup(config: Config, steps: int) -> Iterator[str]:
    optimizer = config.optimizer
    if not steps or optimizer.warmup_steps <= MAX_WARMUP * steps:
        return
    name = "warmup_share" if optimizer.warmup_share else "warmup_steps"
    share = optimizer.warmup_steps / steps
    yield (
        f"optimizer.{name} = {getattr(optimizer, name)}: the learning rate is still rising "
        + ("when the run ends" if share >= 1 else f"for {share:.0%} of it")
        + f" ({optimizer.warmup_steps:,} of {steps:,} steps), and little is learned until it is up; set "
        f"optimizer.warmup_share={_GOOD_WARMUP:g}"
    )


def _size(amounts: Amounts) -> Iterator[str]:
    passes = amounts.seen_tokens / max(1, amounts.training_tokens)
    worth = worth_in_tokens(amounts.training_tokens, passes)
    if not amounts.seen_tokens or amounts.parameters <= worth:
        return
    yield (
        f"model: {format_count(amounts.parameters)} parameters are too many for {passes:.2g} passes over "
        f"{format_count(amounts.training_tokens)} tokens, which are worth {format_count(worth)} new ones; a model of "
        f"about {format_count(worth / 5)} parameters learns more from them (smaller model.d_model, model.n_layers or "
        "tokenizer.vocab_size)" + ("; so do more passes (train.epochs, train.steps)" if passes < 4 else "")
    )


def _validation(config: Config, amounts: Amounts) -> Iterator[str]:
    windows, tokens = amounts.validation_windows, amounts.validation_tokens
    if not windows or windows >= MIN_VALIDATION_WINDOWS:
        return
    share = tokens / (tokens + amounts.training_tokens)
    wanted = math.ceil(105 * share * MIN_VALIDATION_WINDOWS / windows) / 100
    said = (
        f"data.validation_fraction: {windows:,} windows of {config.model.context_length:,} tokens are few to validate "
        "on, and chance decides which checkpoint is the best; "
    )
    if wanted <= _MAX_VALIDATION and not config.data.mixture:
        yield f"{said}prepare the data with data.validation_fraction={wanted:g}"
    else:
        times = math.ceil(10.5 * MIN_VALIDATION_WINDOWS / windows) / 10
        yield f"{said}give more text ({times:g} times as much makes {MIN_VALIDATION_WINDOWS})"
