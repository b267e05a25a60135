"""Mesh, logical-axis rules, multi-process start-up."""

from jslm.parallel.devices import compute_capability, describe_devices, device_memory_bytes, known_kind, peak_flops
from jslm.parallel.mesh import (
    batch_sharding,
    batch_shards,
    check_mesh_fits,
    constrain,
    eval_batch_size,
    is_split,
    make_mesh,
    mesh_axis_size,
    mesh_kind,
    mesh_platform,
    mesh_size,
    partition_spec,
    place_rows,
    replicated,
    tree_shardings,
)
from jslm.parallel.startup import start_jax
from jslm.parallel.together import by_first, leave_at_exit

__all__ = [
    "batch_sharding",
    "batch_shards",
    "by_first",
    "check_mesh_fits",
    "compute_capability",
    "constrain",
    "describe_devices",
    "device_memory_bytes",
    "eval_batch_size",
    "is_split",
    "known_kind",
    "leave_at_exit",
    "make_mesh",
    "mesh_axis_size",
    "mesh_kind",
    "mesh_platform",
    "mesh_size",
    "partition_spec",
    "peak_flops",
    "place_rows",
    "replicated",
    "start_jax",
    "tree_shardings",
]
