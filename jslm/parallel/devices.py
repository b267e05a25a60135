"""What the devices can do: names and peak matrix throughput, for MFU."""

from __future__ import annotations

import functools
import os
import re
import time
from collections.abc import Iterable

import jax
import jax.numpy as jnp

# Dense peak in TFLOP/s by device kind as JAX names it: (16-bit matrices, float32 matrices as JAX runs them by default).
# From the makers' data sheets; NVIDIA's float32 figure is TF32 without sparsity where the chip has it. On TPUs JAX
# multiplies float32 in bfloat16 passes, by default a single one.
_PEAK_TFLOPS = {
    "NVIDIA H100 80GB HBM3": (989.4, 494.7),
    "NVIDIA H100 PCIe": (756.0, 378.0),
    "NVIDIA H200": (989.4, 494.7),
    "NVIDIA A100": (312.0, 156.0),
    "NVIDIA A10": (125.0, 62.5),
    "NVIDIA A10G": (70.0, 35.0),
    "NVIDIA L4": (121.0, 60.0),
    "NVIDIA L40": (181.0, 90.5),
    "NVIDIA L40S": (362.0, 183.0),
    "NVIDIA GeForce GTX 1650 Ti": (6.1, 3.0),
    "NVIDIA GeForce RTX 3070": (40.6, 20.3),
    "NVIDIA GeForce RTX 3090": (71.0, 35.6),
    "NVIDIA GeForce RTX 4090": (165.2, 82.6),
    "Tesla V100": (125.0, 15.7),
    "Tesla T4": (65.0, 8.1),
    "TPU v2": (22.5, 22.5),
    "TPU v3": (61.5, 61.5),
    "TPU v4": (275.0, 275.0),
    "TPU v5 lite": (197.0, 197.0),
    "TPU v5e": (197.0, 197.0),
    "TPU v5p": (459.0, 459.0),
    "TPU v5": (459.0, 459.0),
    "TPU v6 lite": (918.0, 918.0),
    "TPU v6e": (918.0, 918.0),
}

# CUDA compute capability of GPUs by device kind.
_CAPABILITY = {
    "NVIDIA H100": 9.0,
    "NVIDIA H200": 9.0,
    "NVIDIA A100": 8.0,
    "NVIDIA A10": 8.6,
    "NVIDIA A10G": 8.6,
    "NVIDIA L4": 8.9,
    "NVIDIA L40": 8.9,
    "NVIDIA L40S": 8.9,
    "NVIDIA GeForce GTX 1650 Ti": 7.5,
    "NVIDIA GeForce RTX 3070": 8.6,
    "NVIDIA GeForce RTX 3090": 8.6,
    "NVIDIA GeForce RTX 4090": 8.9,
    "Tesla V100": 7.0,
    "Tesla T4": 7.5,
}
# Memory in GB of accelerators by device kind, from the makers' data sheets.
_MEMORY_GB = {
    "TPU v5 lite": 16,
    "TPU v5e": 16,
    "TPU v5": 95,
    "TPU v5p": 95,
    "TPU v6 lite": 32,
    "TPU v6e": 32,
    "NVIDIA H100": 80,
    "NVIDIA H100 PCIe": 80,
    "NVIDIA H200": 141,
    "NVIDIA A100": 40,
    "NVIDIA A100-SXM4-80GB": 80,
    "NVIDIA A10": 24,
    "NVIDIA A10G": 24,
    "NVIDIA L4": 24,
    "NVIDIA L40": 48,
    "NVIDIA L40S": 48,
    "NVIDIA GeForce GTX 1650 Ti": 4,
    "NVIDIA GeForce RTX 3070": 8,
    "NVIDIA GeForce RTX 3090": 24,
    "NVIDIA GeForce RTX 4090": 24,
    "Tesla V100": 16,
    "Tesla T4": 16,
    "NVIDIA A100 80GB PCIe": 80,
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
    name = known_kind(device.device_kind, _PEAK_TFLOPS)
    if name is None:
        return None
    half, single = _PEAK_TFLOPS[name]
    return 1e12 * (single if dtype_name == "float32" else half)


def known_kind(kind: str, names: Iterable[str]) -> str | None:
    """The longest of `names` that begins the device kind, by whole words: "NVIDIA A100" of "NVIDIA A100-SXM4-80GB", but
    not "NVIDIA A10". None for a laptop's chip, which only shares its name with the one in the table."""
    found = [name for name in names if re.match(rf"{re.escape(name)}(?![A-Za-z0-9])", kind)]
    return None if "Laptop" in kind else max(found, key=len, default=None)


def compute_capability(kind: str) -> float:
    """The CUDA compute capability of GPUs of that device kind: the table's, else that of this process's own GPU, else
    8.0, the least that a bfloat16 program can run on."""
    if name := known_kind(kind, _CAPABILITY):
        return _CAPABILITY[name]
    device = jax.devices()[0]
    return float(getattr(device, "compute_capability", 8.0)) if device.device_kind == kind else 8.0


def device_memory_bytes(kind: str) -> int:
    """Memory of accelerators of that device kind: the table's, else what this process's own has, else 8 GB."""
    if name := known_kind(kind, _MEMORY_GB):
        return _MEMORY_GB[name] * 10**9
    device = jax.devices()[0]
    stats = device.memory_stats() if device.device_kind == kind else None
    return int((stats or {}).get("bytes_limit", 8 * 10**9))


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
