"""verb: text from a trained model; what it does is `jslm.infer`, of which it hands out what users ask for."""

from __future__ import annotations

from typing import Any

__all__ = ["LanguageModel", "load"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        import jslm.infer

        return getattr(jslm.infer, name)
    raise AttributeError(f"module 'jslm.sample' has no attribute {name!r}")
