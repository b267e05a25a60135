"""verb: token files to a model, with checkpoints, metrics, samples and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.train.loop import TrainOutcome, train

__all__ = ["TrainOutcome", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        # JAX, optax and Grain come with it.
        import jslm.train.loop

        return getattr(jslm.train.loop, name)
    raise AttributeError(f"module 'jslm.train' has no attribute {name!r}")
