"""verb: will it fit, and how fast at best, on devices that need not be here. Imports JAX only when used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jslm.plan.estimate import DecodePlan, Plan, Roofline, make_plan
    from jslm.plan.program import Memory
    from jslm.plan.search import search_plans

__all__ = ["DecodePlan", "Memory", "Plan", "Roofline", "make_plan", "search_plans"]

_MODULES = {
    "DecodePlan": "estimate",
    "Memory": "program",
    "Plan": "estimate",
    "Roofline": "estimate",
    "make_plan": "estimate",
    "search_plans": "search",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"jslm.plan.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'jslm.plan' has no attribute {name!r}")
