"""verb: models in from other programs, and out to them; what it does is `jslm.formats`, whose names it hands out."""

from __future__ import annotations

from jslm.lazy import lazy_names

__all__ = ["export_model", "import_model", "inspect_model", "known_formats", "load_model"]
__getattr__ = lazy_names(__name__, dict.fromkeys(__all__, "jslm.formats"))
