"""Where and with what the figures were taken."""

from __future__ import annotations

import datetime
import os
import platform
from pathlib import Path
from typing import Any

import jslm


def describe_machine() -> dict[str, Any]:
    """Date, processor, cores, memory, system, load before the run."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "jslm": jslm.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load_before": os.getloadavg()[0],
        "malloc": os.environ.get("GLIBC_TUNABLES", ""),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    found = dict(line.split(":", 1) for line in lines if ":" in line)
    keys = {key.strip(): value.strip() for key, value in found.items()}
    flags = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in keys.get("flags", "").split()]
    return (
        f"{keys.get('model name', platform.processor())} ({', '.join(flags)})" if flags else keys.get("model name", "")
    )
