"""verb: models in from where people have them, and out to where people run them; one module a format.

`load_model` opens a run folder or a model file as a `Bundle`; `import_model`, `export_model` and `inspect_model` are
the command line's three. Importing this package imports no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.convert.api import export_model, import_model, inspect_model
    from jslm.convert.formats import known_formats
    from jslm.convert.runs import load_model, open_checkpoint
    from jslm.convert.start import with_start
    from jslm.runs.bundle import Bundle, Format

__all__ = [
    "Bundle",
    "Format",
    "export_model",
    "import_model",
    "inspect_model",
    "known_formats",
    "load_model",
    "open_checkpoint",
    "with_start",
]

_MODULES = {
    "Bundle": "bundle",
    "Format": "bundle",
    "export_model": "api",
    "known_formats": "formats",
    "import_model": "api",
    "inspect_model": "api",
    "load_model": "runs",
    "open_checkpoint": "runs",
    "with_start": "start",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.convert.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.convert' has no attribute {name!r}")
