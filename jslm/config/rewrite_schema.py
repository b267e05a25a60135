"""The section `[rewrite]`: when a rewriter keeps silent; see `schema`."""

from __future__ import annotations

from pydantic import Field, model_validator

from jslm.config.section import Section

# What `rewrite.calibration` weighs: a constant, the sum of log-probabilities, the lowest, the logarithm of how many.
CALIBRATION_WEIGHTS = 4
# No clause is shorter than half of this (`jslm.corpora.clause_runs`).
_LEAST_CHARACTERS = 24
_NAMES = "constant, sum, lowest, logarithm of the number"


class AgreementConfig(Section):
    """Confidence by how far the best texts of a search agree: for rewriting with beams. In the model's file too."""

    beams: int = Field(
        0,
        ge=0,
        description="Beams that this was fitted with, and that rewriting searches with where the caller names no "
        "number. 0: none of this, rewriting is greedy.",
    )
    calibration: list[float] = Field(
        default_factory=list,
        description="Weights as `rewrite.calibration`, and one for the agreement: the log-odds of the share of all "
        "beams' probability that has the same letters.",
    )
    threshold: float = Field(0.0, ge=0.0, le=1.0, description="As `rewrite.threshold`, with these beams.")

    @model_validator(mode="after")
    def _check(self) -> AgreementConfig:
        expected = CALIBRATION_WEIGHTS + 1 if self.beams else 0
        if len(self.calibration) != expected or self.beams == 1:
            raise ValueError(
                f"rewrite.agreement has beams = {self.beams} and {len(self.calibration)} numbers; expected 0 and "
                f"none, or 2 beams or more and {CALIBRATION_WEIGHTS + 1}: {_NAMES}, agreement"
            )
        return self


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
    retry_beams: int = Field(
        0,
        ge=0,
        description="With `rewrite.faithful`, where the greedy rewrite has other words than its sentence, or does not "
        "end: beams of a search for the best one that has the same, unless its confidence is under a third of "
        "`rewrite.threshold`. 0: none. `lm.rewrite`, `sample` and `evaluate` search; the server, ONNX and readers in "
        "other languages do not, and keep the sentence.",
    )
    clause_characters: int = Field(
        0,
        ge=0,
        description="With `rewrite.faithful`, where the greedy rewrite has other words than its sentence, or does not "
        "end, or the sentence is too long for the context: runs of its clauses of up to so many characters are "
        "rewritten by themselves, and the surest of them that has its words is taken, before any search. 0: none. "
        "For models that learned parts of English sentences (which `jslm corpora rewrite` makes). Where `retry_beams` "
        "search, and by ONNX in Python.",
    )
    clause_word: str = Field(
        "",
        description="With `rewrite.clause_characters`: only runs of clauses with this word are tried, as nothing "
        "changes in the others. For passives with an agent it is `by`. Where a condition asks for what a sentence does "
        "not have, all are tried. Empty: all.",
    )
    agreement: AgreementConfig = AgreementConfig()

    @model_validator(mode="after")
    def _check(self) -> RewriteConfig:
        if self.calibration and len(self.calibration) != CALIBRATION_WEIGHTS:
            raise ValueError(
                f"rewrite.calibration has {len(self.calibration)} numbers; expected {CALIBRATION_WEIGHTS}: {_NAMES}"
            )
        if self.retry_beams == 1 or (self.retry_beams and not self.faithful):
            raise ValueError(
                f"rewrite.retry_beams = {self.retry_beams} with rewrite.faithful = {str(self.faithful).lower()}; "
                "expected 0 (no search), or with rewrite.faithful = true 2 beams or more"
            )
        if self.clause_characters and not (self.faithful and self.clause_characters >= _LEAST_CHARACTERS):
            raise ValueError(
                f"rewrite.clause_characters = {self.clause_characters} with rewrite.faithful = "
                f"{str(self.faithful).lower()}; expected 0 (no parts), or with rewrite.faithful = true "
                f"{_LEAST_CHARACTERS} characters or more"
            )
        return self

    def weights_with(self, beams: int) -> list[float]:
        """Of the confidence of a rewrite that was found with this many beams; empty: none were fitted."""
        return self.agreement.calibration if 1 < beams == self.agreement.beams else self.calibration

    def threshold_with(self, beams: int) -> float:
        """Of rewrites that were found with this many beams."""
        return self.agreement.threshold if 1 < beams == self.agreement.beams else self.threshold

    @property
    def is_said(self) -> bool:
        """Whether anything is set."""
        return self != RewriteConfig()
