"""verb: models as an HTTP API for many users at once. Importing this package imports nothing heavy.

`Engine` writes the samples of many requests together; `create_app` is the HTTP application around it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.serve.app import create_app
    from jslm.serve.engine import Engine
    from jslm.serve.limits import Limits
    from jslm.serve.models import ServedModel

__all__ = ["Engine", "Limits", "ServedModel", "create_app"]

_MODULES = {"Engine": "engine", "Limits": "limits", "ServedModel": "models", "create_app": "app"}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.serve.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.serve' has no attribute {name!r}")
