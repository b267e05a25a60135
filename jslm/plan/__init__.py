"""verb: will it fit, and how fast at best, on devices that need not be here. Imports JAX only when used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jslm.lazy import lazy_names

if TYPE_CHECKING:
    from jslm.plan.assume import with_settings
    from jslm.plan.chips import size
    from jslm.plan.estimate import make_plan
    from jslm.plan.fit import compile_step, device_memory, largest_micro_batch

__all__ = [
    "compile_step",
    "device_memory",
    "largest_micro_batch",
    "make_plan",
    "size",
    "with_settings",
]

_MODULES = {
    "compile_step": "jslm.plan.fit",
    "device_memory": "jslm.plan.fit",
    "largest_micro_batch": "jslm.plan.fit",
    "make_plan": "jslm.plan.estimate",
    "size": "jslm.plan.chips",
    "with_settings": "jslm.plan.assume",
}
__getattr__ = lazy_names(__name__, _MODULES)
