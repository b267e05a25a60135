"""What the devices can do: names and peak matrix throughput, for MFU."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class _Device(NamedTuple):
    """What is known of a device kind, as JAX names it. Figures are those of the makers' data sheets.

    `half`, `single`: dense peak in TFLOP/s of 16-bit matrices, and of float32 ones as JAX multiplies them by default:
    NVIDIA's is TF32 without sparsity where the chip has it, on TPUs it is one pass in bfloat16. `memory_gb`: in GB.
    `capability`: CUDA's, of GPUs.
    """

    half: float | None = None
    single: float | None = None
    memory_gb: int | None = None
    capability: float | None = None


_DEVICES = {
    "NVIDIA H100 80GB HBM3": _Device(989.4, 494.7),
    "NVIDIA H100 PCIe": _Device(756.0, 378.0, 80),
    "NVIDIA H100": _Device(memory_gb=80, capability=9.0),
    "NVIDIA H200": _Device(989.4, 494.7, 141, 9.0),
    "NVIDIA A100": _Device(312.0, 156.0, 40, 8.0),
    "NVIDIA A100-SXM4-80GB": _Device(memory_gb=80),
    "NVIDIA A100 80GB PCIe": _Device(memory_gb=80),
    "NVIDIA A10": _Device(125.0, 62.5, 24, 8.6),
    "NVIDIA A10G": _Device(70.0, 35.0, 24, 8.6),
    "NVIDIA L4": _Device(121.0, 60.0, 24, 8.9),
    "NVIDIA L40": _Device(181.0, 90.5, 48, 8.9),
    "NVIDIA L40S": _Device(362.0, 183.0, 48, 8.9),
    "NVIDIA GeForce GTX 1650 Ti": _Device(6.1, 3.0, 4, 7.5),
    "NVIDIA GeForce RTX 3070": _Device(40.6, 20.3, 8, 8.6),
    "NVIDIA GeForce RTX 3090": _Device(71.0, 35.6, 24, 8.6),
    "NVIDIA GeForce RTX 4090": _Device(165.2, 82.6, 24, 8.9),
    "Tesla V100": _Device(125.0, 15.7, 16, 7.0),
    "Tesla T4": _Device(65.0, 8.1, 16, 7.5),
    "TPU v2": _Device(22.5, 22.5),
    "TPU v3": _Device(61.5, 61.5),
    "TPU v4": _Device(275.0, 275.0),
    "TPU v5 lite": _Device(197.0, 197.0, 16),
    "TPU v5e": _Device(197.0, 197.0, 16),
    "TPU v5p": _Device(459.0, 459.0, 95),
    "TPU v5": _Device(459.0, 459.0, 95),
    "TPU v6 lite": _Device(918.0, 918.0, 32),
    "TPU v6e": _Device(918.0, 918.0, 32),
}


def describe_devices(devices: list[jax.Device] | None = None) -> str:
    """For people: "8 x NVIDIA H100 80GB HBM3", or "CPU, 2 cores"."""

    devices = devices or jax.devices()
    kind = devices[0].device_kind
    if devices[0].platform == "cpu":
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        cores = f"CPU, {count} cores"
        return cores if len(devices) == 1 else f"{len(devices)} devices on {cores}"
    return kind if len(devices) == 1 else f"{len(devices)} x {kind}"


def peak_flops(dtype_name: str, device: jax.Device | None = None) -> float | None:
    """Peak FLOP/s of one device for matrix products in "float32", "bfloat16" or "float16"; None where it isn't known.

    On CPUs it is measured: the best of a few large products, all cores, split over the process's CPU devices.
    """
    device = device or jax.devices()[0]
    if device.platform == "cpu":
        return _measured_cpu_peak(dtype_name) / max(1, len(jax.local_devices()))
    peak = _figure(device.device_kind, "single" if dtype_name == "float32" else "half")
    return None if peak is None else 1e12 * peak


def known_kind(kind: str, names: Iterable[str]) -> str | None:
    """The longest of `names` that begins the device kind, by whole words: "NVIDIA A100" of "NVIDIA A100-SXM4-80GB", but
    not "NVIDIA A10". None for a laptop's chip, which only shares its name with the one in the table."""
    found = [name for name in names if re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", kind)]
    return None if "Laptop" in kind else max(found, key=len, default=None)


def compute_capability(kind: str) -> float:
    """The CUDA compute capability of GPUs of that device kind: the table's, else that of this process's own GPU, else
    8.0, the least that a bfloat16 program can run on."""
    if (known := _figure(kind, "capability")) is not None:
        return known
    device = jax.devices()[0]
    return float(getattr(device, "compute_capability", 8.0)) if device.device_kind == kind else 8.0


def device_memory_bytes(kind: str) -> int:
    """Memory of accelerators of that device kind: the table's, else what this process's own has, else 8 GB."""
    if (known := _figure(kind, "memory_gb")) is not None:
        return int(known) * 10**9
    device = jax.devices()[0]
    stats = device.memory_stats() if device.device_kind == kind else None
    return int((stats or {}).get("bytes_limit", 8 * 10**9))


def _figure(kind: str, name: str) -> float | None:
    """A figure of a device kind; None where nothing is known of it."""
    known = {row: found for row, device in _DEVICES.items() if (found := getattr(device, name)) is not None}
    row = known_kind(kind, known)
    return None if row is None else float(known[row])


@functools.cache
def _measured_cpu_peak(dtype_name: str) -> float:
    size = 1024
    with jax.default_device(jax.local_devices()[0]):
        a = jnp.ones((size, size), dtype_name)
        multiply = jax.jit(lambda a: a @ a)
        multiply(a).block_until_ready()
        times = []
        for _ in range(8):
            start = time.perf_counter()
            multiply(a).block_until_ready()
            times.append(time.perf_counter() - start)
    return 2.0 * size**3 / min(times)
