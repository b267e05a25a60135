"""Before the first JAX call: several processes, compilation cache, flags."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import jax

from jslm.errors import JslmError

# Any of these says that this process is one of several, and lets jax.distributed find the others by itself.
_CLUSTER_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")


# Between GPUs: gradients and shards travel while the GPUs compute. Both of NVIDIA's and of XLA's guides name these as
# worth their longer compilation (https://openxla.org/xla/gpu_optimization_levels,
# https://docs.nvidia.com/jax-toolbox/performance-profiling/gpu-performance). One GPU has nothing to hide.
_GPU_FLAGS = (
    "--xla_gpu_enable_latency_hiding_scheduler=true",
    "--xla_gpu_enable_pipelined_all_gather=true",
    "--xla_gpu_enable_pipelined_all_reduce=true",
    "--xla_gpu_enable_pipelined_reduce_scatter=true",
)
# As XLA reads a flag of yes or no; without a value it is on.
_ON = ("", "true", "1", "t", "yes")
# XLA aborts the process for a flag that it does not know, and these are its own to rename.
_FLAGS_KNOWN_UNDER = (0, 13)
# Training has a GPU to itself; JAX takes three quarters of its memory by default. The rest is for CUDA's libraries.
_GPU_MEMORY_SHARE = "0.92"


def start_jax(*, training: bool = False) -> None:
    """Joins the other processes where there are some, turns on the persistent compilation cache, and sets what helps
    several GPUs (`XLA_FLAGS`) and a GPU that `training` has to itself (`XLA_CLIENT_MEM_FRACTION`), unless it is set.

    Several processes are recognised by SLURM, Open MPI or Cloud TPU pod variables, or by the explicit trio
    `JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=n JAX_PROCESS_ID=i`; `JSLM_DISTRIBUTED=on` says it where only
    JAX can find the others, as on the workers of a TPU slice. The cache is at
    `$JAX_COMPILATION_CACHE_DIR`, by default `$XDG_CACHE_HOME/jslm/xla`; `JSLM_COMPILATION_CACHE=off` turns it off.
    Raises JslmError for a bad trio.
    """
    _set_for_gpus(training)
    _use_compilation_cache()
    if jax.distributed.is_initialized():
        return
    count = os.environ.get("JAX_NUM_PROCESSES")
    if count is not None:
        address, index = os.environ.get("JAX_COORDINATOR_ADDRESS"), os.environ.get("JAX_PROCESS_ID")
        if not address or index is None or not count.isdigit() or not index.isdigit() or int(index) >= int(count):
            raise JslmError(
                f"environment: JAX_COORDINATOR_ADDRESS={address!r} JAX_NUM_PROCESSES={count!r} "
                f"JAX_PROCESS_ID={index!r}; "
                "expected host:port, a number of processes, and an id under that number"
            )
        if int(count) > 1:
            jax.config.update("jax_cpu_collectives_implementation", "gloo")
            jax.distributed.initialize(address, int(count), int(index))
    elif _runs_on_cluster():
        jax.distributed.initialize()


def _set_for_gpus(training: bool) -> None:
    count = _gpu_count()
    if not count:
        return
    if training and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
        os.environ.setdefault("XLA_CLIENT_MEM_FRACTION", _GPU_MEMORY_SHARE)
    several = count > 1 or _runs_on_cluster() or os.environ.get("JAX_NUM_PROCESSES", "1") != "1"
    if several and jax.__version_info__ < _FLAGS_KNOWN_UNDER:
        os.environ["XLA_FLAGS"] = gpu_flags(os.environ.get("XLA_FLAGS", ""))


def gpu_flags(given: str) -> str:
    """`XLA_FLAGS` with what helps several GPUs, but for flags that are given already."""
    names = {flag.split("=")[0] for flag in given.split()}
    return " ".join([*given.split(), *(flag for flag in _GPU_FLAGS if flag.split("=")[0] not in names)])


def overlap_flags(given: str) -> list[str]:
    """Names of those flags that are on in `XLA_FLAGS`, without what they all begin with; the last word counts."""
    said = dict(flag.partition("=")[::2] for flag in given.split())
    names = [flag.partition("=")[0] for flag in _GPU_FLAGS]
    return [name.removeprefix("--xla_gpu_enable_") for name in names if said.get(name, "0").lower() in _ON]


def compiler_overlap_options() -> dict[str, bool]:
    """What of those flags is an option of one compilation, for a program of several GPUs that are not here. The other
    flags, which XLA takes from the environment alone, are about collectives in loops."""
    return {_GPU_FLAGS[0].partition("=")[0].removeprefix("--"): True}


def describe_overlap(platform: str, devices: int) -> str:
    """For people: what lets `devices` of a platform compute while gradients and weights travel; empty where nothing
    travels, or nothing is known of it (CPUs)."""
    if devices == 1 or platform not in ("gpu", "tpu"):
        return ""
    if platform == "tpu":
        return "latency hiding, the TPU compiler's own"
    return ", ".join(overlap_flags(os.environ.get("XLA_FLAGS", ""))) or "as XLA does by default"


def _gpu_count() -> int:
    """NVIDIA GPUs that JAX would use, without opening one: their driver's files, less what the environment hides."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    if platforms and not any(name in platforms for name in ("cuda", "gpu")):
        return 0
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        return 0
    here = len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return here if visible is None else min(here, len([name for name in visible.split(",") if name.strip()]))


def _runs_on_cluster() -> bool:
    if os.environ.get("JSLM_DISTRIBUTED") == "on":
        return True
    for name in _CLUSTER_VARIABLES:
        value = os.environ.get(name, "")
        if value and value != "1":
            return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _use_compilation_cache() -> None:
    chosen = getattr(jax.config, "jax_compilation_cache_dir", None)
    if chosen or os.environ.get("JSLM_COMPILATION_CACHE", "on") == "off":
        return
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    folder = Path(home) / "jslm" / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        # A read-only home costs only the speed of the next start.
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
