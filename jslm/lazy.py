"""Names of a package whose modules are imported when somebody uses them, so that `--help` stays quick (PEP 562)."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """A package's `__getattr__`: each name is that of the module it stands behind, which is imported then.

    A name that stands behind the module of its own name, such as `train` of `jslm` behind `jslm.train`, is that module:
    so it is the same before and after somebody imports it.
    """

    def find(name: str) -> Any:
        if name in modules:
            module = importlib.import_module(modules[name])
            return module if modules[name] == f"{package}.{name}" else getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find
