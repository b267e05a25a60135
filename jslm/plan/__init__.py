"""verb: will it fit, and how fast at best, on devices that need not be here. Imports JAX only when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.plan.estimate import make_plan, with_settings
    from jslm.plan.fit import compile_step, device_memory, largest_micro_batch
    from jslm.plan.show import size

__all__ = [
    "compile_step",
    "device_memory",
    "largest_micro_batch",
    "make_plan",
    "size",
    "with_settings",
]

_MODULES = {
    "compile_step": "fit",
    "device_memory": "fit",
    "largest_micro_batch": "fit",
    "make_plan": "estimate",
    "size": "show",
    "with_settings": "estimate",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.plan.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.plan' has no attribute {name!r}")
