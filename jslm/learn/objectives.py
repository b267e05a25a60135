"""The table of objectives, by their names in `train.objective`."""

from __future__ import annotations

import jax.numpy as jnp
from jax.sharding import Mesh

from jslm.config import Config
from jslm.learn.distill import Distill
from jslm.learn.next_token import NextToken
from jslm.learn.objective import Objective
from jslm.learn.preference import Preference

# Where completions alone are learned ("sft"), the labels of the data say so.
_KINDS: dict[str, type[Objective]] = {"text": NextToken, "sft": NextToken, "dpo": Preference, "distill": Distill}


def objective_kind(config: Config) -> type[Objective]:
    """The class of `train.objective`."""
    return _KINDS[config.train.objective]


def make_objective(config: Config, mesh: Mesh, dtype: jnp.dtype) -> Objective:
    """The objective of a run whose batches are split over `mesh`."""
    return objective_kind(config)(config, mesh, dtype)
