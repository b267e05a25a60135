"""Models in from where people have them, and out to where people run them; one module or folder a format.

`load_model` opens a run folder or a model file as a `Bundle`; `import_model`, `export_model` and `inspect_model` are
what `jslm convert` does; `with_start` is what a run takes from the model it starts from. Importing this package imports
no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

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
    "export_model": "jslm.formats.api",
    "import_model": "jslm.formats.api",
    "inspect_model": "jslm.formats.api",
    "known_formats": "jslm.formats.formats",
    "load_model": "jslm.formats.opening",
    "push_model": "jslm.formats.hub",
    "with_start": "jslm.formats.start",
}
__getattr__ = lazy_names(__name__, _MODULES)
