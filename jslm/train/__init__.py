"""verb: token files to a model, with checkpoints, metrics, samples and a report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["TrainOutcome", "train"]

if TYPE_CHECKING:
    from jslm.train.loop import TrainOutcome, train


def __getattr__(name: str) -> Any:
    if name in __all__:
        from jslm.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module 'jslm.train' has no attribute {name!r}")
