"""verb: models in from other programs, and out to them; what it does is `jslm.formats`, whose names it hands out."""

from __future__ import annotations

from typing import Any

__all__ = ["export_model", "import_model", "inspect_model", "known_formats", "load_model"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        import jslm.formats

        return getattr(jslm.formats, name)
    raise AttributeError(f"module 'jslm.convert' has no attribute {name!r}")
