"""GPUs that need not be here: what XLA's compiler is told of each.

Numbers of a compute capability are those of NVIDIA's CUDA Programming Guide ("Technical Specifications per Compute
Capability"), those of a card from its data sheet; the fields are of XLA's `GpuTargetConfigProto`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import re

import jax
from jax.experimental import topologies

from jslm.errors import JslmError
from jslm.installation import install_command
from jslm.parallel import compute_capability, device_memory_bytes
from jslm.plan.chips import chip_named

_MOST_GPUS = 64


@dataclasses.dataclass(frozen=True)
class _Gpu:
    """`kind` is JAX's device kind; `cores` are streaming multiprocessors; `clock` in GHz.

    `like` is a card of the same capability: Pallas asks the card itself where its own list has none of that name, and
    finds one that is named anywhere in a device kind.
    """

    kind: str
    cores: int
    clock: float
    like: str = ""

    @property
    def described(self) -> str:
        """The device kind as compilers are told it."""
        return f"{self.kind} (as {self.like})" if self.like else self.kind


GPUS = {
    "h100": _Gpu("NVIDIA H100 80GB HBM3", 132, 1.98),
    "h200": _Gpu("NVIDIA H200", 132, 1.98),
    "a100": _Gpu("NVIDIA A100-SXM4-40GB", 108, 1.41),
    "a100-80gb": _Gpu("NVIDIA A100-SXM4-80GB", 108, 1.41),
    "l4": _Gpu("NVIDIA L4", 58, 2.04),
    "gtx1650ti": _Gpu("NVIDIA GeForce GTX 1650 Ti", 16, 1.485),
    "rtx3070": _Gpu("NVIDIA GeForce RTX 3070", 46, 1.725, "NVIDIA A10"),
    "rtx3090": _Gpu("NVIDIA GeForce RTX 3090", 82, 1.7, "NVIDIA A10"),
    "rtx4090": _Gpu("NVIDIA GeForce RTX 4090", 128, 2.52),
    "t4": _Gpu("Tesla T4", 40, 1.59),
}
# Capability: (lanes a core, threads a core, shared memory a core and the most of it a block may take, in bytes).
_CAPABILITIES = {
    9.0: (128, 2048, 233472, 232448),
    8.9: (128, 1536, 102400, 101376),
    8.6: (128, 1536, 102400, 101376),
    8.0: (64, 2048, 167936, 166912),
    7.5: (64, 1024, 65536, 65536),
}


def is_gpu_topology(text: str) -> bool:
    """Whether `text` is the name of a GPU, or NAME:N for N of them on one machine; raises JslmError for a bad N."""
    found = re.fullmatch(r"([\w-]+?)(?::(\w+))?", text)
    if found is None or found[1] not in GPUS:
        return False
    count = found[2] or "1"
    if not count.isdigit() or not 1 <= int(count) <= _MOST_GPUS:
        raise JslmError(f"--topology {text}: expected {found[1]}:N with 1 to {_MOST_GPUS} GPUs, as {found[1]}:2")
    return True


def gpu_devices(text: str) -> list[jax.Device]:
    """Devices to compile for, of `h100` or `a100:2`. Raises JslmError where JAX's plugin for GPUs is missing."""
    name, _, count = text.partition(":")
    plugins = [f"jax_cuda{version}_plugin" for version in (13, 12)]
    if not any(importlib.util.find_spec(plugin) for plugin in plugins):
        raise JslmError(
            f"--topology {text}: needs the GPU's compiler (JAX's plugin for CUDA; no GPU): {install_command('cuda13')}"
        )
    # The plugin looks for a driver otherwise, and need not find one.
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    try:
        topology = topologies.get_topology_desc(
            text, "cuda", target_config=target_config(name), topology=f"1x1x{count or 1}"
        )
    except Exception as error:
        said = str(error).splitlines()[0]
        raise JslmError(f"--topology {text}: the GPU's compiler does not start ({said})") from None
    return list(topology.devices)


def target_config(name: str) -> str:
    """A `GpuTargetConfigProto` in text form, of one of `GPUS`."""
    gpu = GPUS[name]
    capability = compute_capability(gpu.kind)
    lanes, threads, shared, shared_block = _CAPABILITIES[capability]
    chip = chip_named(gpu.kind)
    major, minor = str(capability).split(".")
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  shared_memory_per_block_optin: {shared_block}
  threads_per_core_limit: {threads}
  core_count: {gpu.cores}
  fpus_per_core: {lanes}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  memory_bandwidth: {round(chip.memory_bandwidth)}
  l2_cache_size: {round(chip.cache_bytes)}
  clock_rate_ghz: {gpu.clock}
  device_memory_size: {device_memory_bytes(gpu.kind)}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.described}"
"""
