"""How much of a batch is text, how much is learned, and how much is padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ExampleTokens:
    """Of one sequence (or pair of answers), on average over an epoch: its places, and the tokens that fill them.

    `targets` are the tokens that count: they are predicted and learned. Prompts are `text` and no targets.
    """

    places: float
    text: float
    targets: float

    @property
    def padding(self) -> float:
        """Share of the places that hold no text."""
        return max(0.0, 1 - self.text / self.places)

    @property
    def prompts(self) -> float:
        """Share of the places whose text is read and not learned."""
        return max(0.0, (self.text - self.targets) / self.places)


def mean_tokens(parts: Sequence[ExampleTokens], weights: Sequence[float]) -> ExampleTokens:
    """What a sequence of a mixture of `parts` holds on average."""
    total = sum(weights)

    def mean(values: Sequence[float]) -> float:
        return sum(weight * value for weight, value in zip(weights, values, strict=True)) / total

    return ExampleTokens(
        mean([part.places for part in parts]),
        mean([part.text for part in parts]),
        mean([part.targets for part in parts]),
    )
