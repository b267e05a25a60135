"""verb: text from a trained model; what it does is `jslm.infer`, of which it hands out what users ask for."""

from __future__ import annotations

from jslm.lazy import lazy_names

__all__ = ["LanguageModel", "load"]

__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "jslm.infer"))
