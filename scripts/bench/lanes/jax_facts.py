"""What a lane of jslm says about its libraries and device."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import jax

from jslm.parallel import describe_devices


def jax_facts() -> dict[str, Any]:
    """Versions and device."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy")}
    return {"versions": {"python": platform.python_version(), **versions}, "device": describe_devices()}


def device_memory() -> int | None:
    """Most memory in use at once on the accelerator, in bytes; None on CPUs, where it is the process's."""
    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    return stats.get("peak_bytes_in_use") if stats else None
