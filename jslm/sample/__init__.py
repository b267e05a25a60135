"""verb: text from a trained model. `load` opens a run folder as a `LanguageModel`. Imports JAX only when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.sample.language_model import LanguageModel
    from jslm.sample.loading import load
    from jslm.sample.row import Result

__all__ = ["LanguageModel", "Result", "load"]

_MODULES = {"LanguageModel": "language_model", "Result": "row", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.sample.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.sample' has no attribute {name!r}")
