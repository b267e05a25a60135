"""Before the first JAX call: several processes, compilation cache, flags."""

from __future__ import annotations

import os
from pathlib import Path

from jslm.errors import JslmError

# Any of these says that this process is one of several, and lets jax.distributed find the others by itself.
_CLUSTER_VARIABLES = ("JAX_COORDINATOR_ADDRESS", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "MEGASCALE_NUM_SLICES")


def start_jax() -> None:
    """Joins the other processes where there are some, and turns on the persistent compilation cache.

    Several processes are recognised by SLURM, Open MPI or Cloud TPU pod variables, or by the explicit trio
    `JAX_COORDINATOR_ADDRESS=host:port JAX_NUM_PROCESSES=n JAX_PROCESS_ID=i`. The cache is at
    `$JAX_COMPILATION_CACHE_DIR`, by default `$XDG_CACHE_HOME/jslm/xla`; `JSLM_COMPILATION_CACHE=off` turns it off.
    Raises JslmError for a bad trio.
    """
    import jax

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


def _runs_on_cluster() -> bool:
    for name in _CLUSTER_VARIABLES:
        value = os.environ.get(name, "")
        if value and value != "1":
            return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def _use_compilation_cache() -> None:
    import jax

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
