"""The section `[card]`: what only people know of a model; see `schema`."""

from __future__ import annotations

import re

from pydantic import Field, model_validator

from jslm.config.section import Section

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]{2,8})*")


class CardConfig(Section):
    """What the model card of an export says and no run can know. What is left out is named in the card as not said."""

    description: str = Field("", description="What the model is, in a sentence or two.")
    use: str = Field("", description="What it is for, and what it is not for.")
    data: str = Field("", description="What text it learned from, and on what terms that may be used.")
    license: str = Field(
        "", description="Licence of the weights, as the Hugging Face Hub spells it: `mit`, `apache-2.0`, `other`, ..."
    )
    language: list[str] = Field(
        default_factory=list, description='Languages of its text, by their codes, such as `["en", "de"]`.'
    )
    authors: list[str] = Field(default_factory=list, description="Who made it.")

    @model_validator(mode="after")
    def _check(self) -> CardConfig:
        if self.license and not _LICENSE.fullmatch(self.license):
            raise ValueError(
                f"card.license = {self.license[:60]!r} is no name of a licence in small letters, such as 'mit' or "
                "'cc-by-4.0'; for one of your own use 'other', and describe it in card.data"
            )
        for code in self.language:
            if not _LANGUAGE.fullmatch(code):
                raise ValueError(
                    f"card.language has {code[:60]!r}, which is no code of a language such as 'en' or 'pt-BR'"
                )
        if "" in self.authors:
            raise ValueError("card.authors has an empty name; leave it out")
        return self

    @property
    def is_said(self) -> bool:
        """Whether anything is."""
        return any(getattr(self, name) for name in type(self).model_fields)
