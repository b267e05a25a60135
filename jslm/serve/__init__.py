"""verb: models as an HTTP API for many users at once. Importing this package imports nothing heavy.

`Engine` writes the samples of many requests together; `create_app` is the HTTP application around it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.serve.app import create_app
    from jslm.serve.engine import Engine
    from jslm.serve.limits import Limits
    from jslm.serve.models import ServedModel

__all__ = ["Engine", "Limits", "ServedModel", "create_app"]

_MODULES = {
    "Engine": "jslm.serve.engine",
    "Limits": "jslm.serve.limits",
    "ServedModel": "jslm.serve.models",
    "create_app": "jslm.serve.app",
}
__getattr__ = lazy_names(__name__, _MODULES)
