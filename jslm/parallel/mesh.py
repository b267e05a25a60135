"""The device mesh, and the one table from logical axis names to its axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jslm.config import Config, MeshConfig
from jslm.errors import JslmError

MESH_AXES = ("data", "fsdp", "tensor")
# Those that split the rows of a batch.
BATCH_AXES = ("data", "fsdp")

# What each array axis is called in the model, and the mesh axes that split it.
AXIS_RULES: dict[str | None, tuple[str, ...] | str | None] = {
    "batch": BATCH_AXES,
    "length": None,
    "layers": None,
    "embed": "fsdp",
    "activation_embed": None,
    "vocab": "tensor",
    "mlp": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    None: None,
}


def make_mesh(config: MeshConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of axes ("data", "fsdp", "tensor") over `devices` (default: all of them).

    Raises JslmError where the sizes do not multiply to the number of devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    sizes = [config.data, config.fsdp, config.tensor]
    fixed = int(np.prod([size for size in sizes if size != -1]))
    if -1 in sizes and len(devices) % fixed == 0:
        sizes[sizes.index(-1)] = len(devices) // fixed
    if int(np.prod(sizes)) != len(devices) or -1 in sizes:
        asked = f"mesh.data = {config.data}, mesh.fsdp = {config.fsdp}, mesh.tensor = {config.tensor}"
        raise JslmError(
            f"{asked} does not fit {len(devices)} device(s); the sizes must multiply to {len(devices)}, "
            "and one may be -1 for the rest"
        )
    return jax.make_mesh(tuple(sizes), MESH_AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def check_mesh_fits(config: Config, mesh: Mesh) -> None:
    """Raises JslmError where a sharded dimension does not divide by its mesh axes."""
    model = config.model
    checks = [
        ("mesh.fsdp", mesh.shape["fsdp"], "model.d_model", model.d_model),
        ("mesh.tensor", mesh.shape["tensor"], "model.n_heads", model.n_heads),
        ("mesh.tensor", mesh.shape["tensor"], "model.n_kv_heads", model.kv_heads),
        ("mesh.tensor", mesh.shape["tensor"], "model.d_ff", model.hidden_dim),
        ("mesh.tensor", mesh.shape["tensor"], "padded vocabulary", model.padded_vocab_size),
    ]
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    checks.append(("mesh.data * mesh.fsdp", shards, "train.micro_batch", config.train.micro_rows))
    checks.append(("mesh.data * mesh.fsdp", shards, "train.eval_batch_size", eval_batch_size(config)))
    for axis, size, name, dimension in checks:
        if dimension % size:
            raise JslmError(f"{axis} = {size} does not divide {name} = {dimension}; change one of them")


def eval_batch_size(config: Config) -> int:
    """Sequences a validation batch, with the default resolved."""
    return config.train.eval_batch_size or config.train.micro_rows


def partition_spec(axes: Sequence[str | None]) -> PartitionSpec:
    """Logical axis names, one an array dimension, as a PartitionSpec over the mesh's axes."""
    return PartitionSpec(*(AXIS_RULES[axis] for axis in axes))


def mesh_platform() -> str:
    """That of the mesh in context, whose devices need not be this process's (`jslm.plan`), else the default one."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return device.platform if device and device.platform else jax.default_backend()


def mesh_kind() -> str:
    """The device kind, such as "NVIDIA A100-SXM4-40GB", of the mesh in context, else of this process's devices."""
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return str(device.device_kind) if device and device.device_kind else jax.devices()[0].device_kind


def mesh_axis_size(axis: str) -> int:
    """Devices along that axis of the mesh in context; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[axis]


def mesh_size() -> int:
    """Devices of the mesh in context; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else int(mesh.size)


def is_split() -> bool:
    """Whether the compiler splits what is computed here over devices: not without a mesh of several in context, and not
    in code that has split it by itself (`shard_map`), which sees one device."""
    mesh = jax.sharding.get_abstract_mesh()
    return not mesh.empty and mesh.size > 1 and AxisType.Manual not in mesh.axis_types


def batch_shards(mesh: Mesh) -> int:
    """Parts that the compiler splits the rows of a batch into, on that mesh and where this is asked (`is_split`)."""
    return mesh.shape["data"] * mesh.shape["fsdp"] if is_split() else 1


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """States how `x` is sharded, by logical axis names; does nothing where nothing is split (`is_split`)."""
    if not is_split():
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(axes))


def tree_shardings(mesh: Mesh, axes_tree: Any) -> Any:
    """A tree of logical-axis tuples as a tree of NamedShardings."""
    return jax.tree.map(
        lambda axes: NamedSharding(mesh, partition_spec(axes)), axes_tree, is_leaf=lambda x: isinstance(x, tuple)
    )


def gather_shards(tree: Any, specs: Any) -> Any:
    """Inside `shard_map`: each array whole, of the parts that the devices along `fsdp` hold; `specs` is the tree of
    their PartitionSpecs."""

    def gather(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        return x if (at := _fsdp_dimension(spec)) is None else jax.lax.all_gather(x, "fsdp", axis=at, tiled=True)

    return jax.tree.map(gather, tree, specs)


def sum_to_shards(tree: Any, specs: Any) -> Any:
    """Inside `shard_map`: the sum of each array over the devices that share a batch, of which each keeps the part that
    `gather_shards` takes from it: one reduce-scatter along `fsdp`, then a sum of those parts along `data`."""

    def add(x: jax.Array, spec: PartitionSpec) -> jax.Array:
        if (at := _fsdp_dimension(spec)) is None:
            return jax.lax.psum(x, BATCH_AXES)
        return jax.lax.psum(jax.lax.psum_scatter(x, "fsdp", scatter_dimension=at, tiled=True), "data")

    return jax.tree.map(add, tree, specs)


def _fsdp_dimension(spec: PartitionSpec) -> int | None:
    """The dimension that `fsdp` splits, where more than one device does."""
    return spec.index("fsdp") if "fsdp" in spec and mesh_axis_size("fsdp") > 1 else None


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, accumulation: bool = False) -> NamedSharding:
    """The sharding of `[batch, length]` token arrays (`[micro, batch, length]` with `accumulation`)."""
    axes = ("batch", "length")
    return NamedSharding(mesh, partition_spec((None, *axes) if accumulation else axes))


def place_rows(batch: Mapping[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """A process's `[rows, ...]` arrays as global ones, whose rows the mesh splits."""
    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()}
