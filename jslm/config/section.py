"""What the sections of a config share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, lt=1.0)]


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# A tuple that TOML spells as an array: sections that JAX takes as static arguments must be hashable.
from_list = BeforeValidator(_as_tuple)


class Section(BaseModel):
    """A frozen section that refuses unknown keys and silent type changes (a string for a number, 1.5 for an int)."""

    model_config = ConfigDict(defer_build=True, frozen=True, extra="forbid", strict=True, allow_inf_nan=False)
