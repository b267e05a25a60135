"""The section `[rewrite]`: when a rewriter keeps silent; see `schema`."""

from __future__ import annotations

from pydantic import Field, model_validator

from jslm.config.section import Section

# What `rewrite.calibration` weighs: a constant, the sum of log-probabilities, the lowest, the logarithm of how many.
CALIBRATION_WEIGHTS = 4


class RewriteConfig(Section):
    """When a model that rewrites leaves a sentence as it is. It travels in the model's file."""

    threshold: float = Field(
        0.0,
        ge=0.0,
        le=1.0,
        description="Confidence under which a sentence stays as it is. `scripts/rewriter.py` chooses it for a stated "
        "precision on held-out pairs.",
    )
    precision: float = Field(
        0.0, ge=0.0, le=1.0, description="The precision that `threshold` was chosen for. 0: none. For people."
    )
    calibration: list[float] = Field(
        default_factory=list,
        description="Weights that make a probability of the log-probabilities of what was written: constant, sum, "
        "lowest, logarithm of their number. Empty: the mean probability of a token, which says little.",
    )
    sentences: bool = Field(
        False, description="Rewrite a text of several sentences one by one. Models that learned single ones want it."
    )
    faithful: bool = Field(
        False,
        description="Leave a sentence as it is where the rewrite has other words than it (by lemma), other names or "
        "numbers, or loses some. For rewrites that keep all words, such as from the passive to the active.",
    )

    @model_validator(mode="after")
    def _check(self) -> RewriteConfig:
        if self.calibration and len(self.calibration) != CALIBRATION_WEIGHTS:
            raise ValueError(
                f"rewrite.calibration has {len(self.calibration)} numbers; expected {CALIBRATION_WEIGHTS}: constant, "
                "sum, lowest, logarithm of the number"
            )
        return self

    @property
    def is_said(self) -> bool:
        """Whether anything is set."""
        return self != RewriteConfig()
