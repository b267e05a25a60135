"""What each accelerator can do: memory, memory bandwidth and the links to its neighbours."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jslm.errors import JslmError
from jslm.parallel import device_memory_bytes, known_kind, peak_flops

_GB = 1e9


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device. `link_bandwidth` is what it can send to its neighbours, all links together; 0: not counted.
    `cache_bytes`: its last cache; 0 for TPUs, whose compiler places buffers in on-chip memory itself.
    """

    name: str
    flops: float
    memory_bytes: float
    memory_bandwidth: float
    link_bandwidth: float
    cache_bytes: float
    source: str


# By what JAX's device kinds start with: (name, memory GB/s, links GB/s one way, cache MB, source). Peak FLOP/s
# and memory are those of `jslm.parallel`. Google gives links in Gbit/s a chip: 1,600, 4,800, 3,584.
_CHIPS = {
    "TPU v5 lite": ("v5e", 819, 200, 0, "Google Cloud documentation, TPU v5e: system architecture"),
    "TPU v5e": ("v5e", 819, 200, 0, "Google Cloud documentation, TPU v5e: system architecture"),
    "TPU v5": ("v5p", 2765, 600, 0, "Google Cloud documentation, TPU v5p: system architecture"),
    "TPU v5p": ("v5p", 2765, 600, 0, "Google Cloud documentation, TPU v5p: system architecture"),
    "TPU v6 lite": ("v6e", 1640, 448, 0, "Google Cloud documentation, TPU v6e: system architecture"),
    "TPU v6e": ("v6e", 1640, 448, 0, "Google Cloud documentation, TPU v6e: system architecture"),
    "NVIDIA H100": ("H100 SXM", 3350, 450, 50, "NVIDIA H100 data sheet (SXM5)"),
    "NVIDIA H100 PCIe": ("H100 PCIe", 2000, 300, 50, "NVIDIA H100 data sheet (PCIe)"),
    "NVIDIA H200": ("H200 SXM", 4800, 450, 50, "NVIDIA H200 data sheet (SXM)"),
    "NVIDIA A100": ("A100 40GB", 1555, 300, 40, "NVIDIA A100 data sheet (SXM4, 40 GB)"),
    "NVIDIA A100-SXM4-80GB": ("A100 80GB", 2039, 300, 40, "NVIDIA A100 data sheet (SXM4, 80 GB)"),
    "NVIDIA A10": ("A10", 600, 0, 6, "NVIDIA A10 data sheet"),
    "NVIDIA A10G": ("A10G", 600, 0, 6, "NVIDIA A10G data sheet"),
    "NVIDIA L4": ("L4", 300, 0, 48, "NVIDIA L4 data sheet"),
    "NVIDIA L40": ("L40", 864, 0, 96, "NVIDIA L40 data sheet"),
    "NVIDIA L40S": ("L40S", 864, 0, 96, "NVIDIA L40S data sheet"),
    "NVIDIA GeForce GTX 1650 Ti": ("GTX 1650 Ti", 192, 0, 1, "NVIDIA GeForce GTX 16 series, specifications"),
    "NVIDIA GeForce RTX 3070": ("RTX 3070", 448, 0, 4, "NVIDIA Ampere GA102 white paper, appendix on GA104"),
    "NVIDIA GeForce RTX 3090": ("RTX 3090", 936, 0, 6, "NVIDIA Ampere GA102 white paper"),
    "NVIDIA GeForce RTX 4090": ("RTX 4090", 1008, 0, 72, "NVIDIA Ada white paper"),
    "Tesla V100": ("V100 16GB", 900, 150, 6, "NVIDIA V100 data sheet (SXM2, 16 GB)"),
    "Tesla T4": ("T4", 320, 0, 4, "NVIDIA T4 data sheet"),
    "NVIDIA A100 80GB PCIe": ("A100 80GB PCIe", 1935, 300, 40, "NVIDIA A100 data sheet (PCIe, 80 GB)"),
}


def chip_of(device: jax.Device, dtype_name: str) -> Chip:
    """The chip of a device, with its peak FLOP/s in `dtype_name`; a CPU is measured (a second).

    Raises JslmError for an accelerator that the tables don't have.
    """
    if device.platform == "cpu":
        return _measured_cpu(device, dtype_name)
    known = known_kind(device.device_kind, _CHIPS)
    peak = peak_flops(dtype_name, device)
    if known is None or peak is None:
        raise JslmError(
            f"--topology: nothing is known about {device.device_kind!r}; "
            f"expected one of {', '.join(name for name, *_ in _CHIPS.values())}"
        )
    return chip_named(device.device_kind, peak)


def chip_named(kind: str, peak: float = 0.0) -> Chip:
    """The accelerator of a device kind that the table has, with those peak FLOP/s. Raises KeyError for another."""
    name, bandwidth, links, cache, source = _CHIPS[known_kind(kind, _CHIPS) or kind]
    return Chip(name, peak, device_memory_bytes(kind), bandwidth * _GB, links * _GB, cache * 1e6, source)


def _measured_cpu(device: jax.Device, dtype_name: str) -> Chip:
    # Each float is read once and written once, in a size that no cache holds.
    size = 2**25
    with jax.default_device(device):
        source = jnp.zeros(size, jnp.float32)
        shift = jax.jit(lambda x: x + 1)
        shift(source).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            shift(source).block_until_ready()
            times.append(time.perf_counter() - start)
    peak = peak_flops(dtype_name, device)
    assert peak is not None, "CPUs are measured"
    memory = available_memory() / len(jax.local_devices())
    share = 8 * size / min(times) / len(jax.local_devices())
    return Chip("CPU", peak, memory, share, 0.0, _last_cache(), "measured now")


def _last_cache() -> float:
    """Bytes of the largest cache that the kernel knows of; 0 where it tells none."""
    found = [path.read_text("ascii").strip() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
    return max((1024.0 * int(text.removesuffix("K")) for text in found if text.endswith("K")), default=0.0)


def available_memory() -> float:
    """Bytes that processes may still take, as the kernel sees it."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return 1024.0 * int(fields["MemAvailable"].split()[0])
    except (OSError, KeyError) as error:
        raise JslmError("--topology cpu: reads free memory from /proc/meminfo, which is not here; plan on Linux") from (
            error
        )


def size(number: float) -> str:
    """Bytes, as 1.23 GB (powers of 1,000)."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if number >= scale:
            return f"{number / scale:.2f} {unit}"
    return f"{number / 1e3:.1f} kB" if number else "0"
