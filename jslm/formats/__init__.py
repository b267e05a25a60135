"""Models in from where people have them, and out to where people run them; one module or folder a format.

`load_model` opens a run folder or a model file as a `Bundle`; `import_model`, `export_model` and `inspect_model` are
what `jslm convert` does; `with_start` is what a run takes from the model it starts from. Importing this package imports
no heavy library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.formats.api import export_model, import_model, inspect_model
    from jslm.formats.formats import known_formats
    from jslm.formats.hub import push_model
    from jslm.formats.opening import load_model
    from jslm.formats.start import with_start

__all__ = [
    "export_model",
    "import_model",
    "inspect_model",
    "known_formats",
    "load_model",
    "push_model",
    "with_start",
]

_MODULES = {
    "export_model": "api",
    "known_formats": "formats",
    "import_model": "api",
    "inspect_model": "api",
    "load_model": "opening",
    "push_model": "hub",
    "with_start": "start",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.formats.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.formats' has no attribute {name!r}")
