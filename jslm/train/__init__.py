"""verb: token files to a model, with checkpoints, metrics, samples and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.train.loop import TrainOutcome, train

__all__ = ["TrainOutcome", "train"]

# JAX, optax and Grain come with it.
__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "jslm.train.loop"))
