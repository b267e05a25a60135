"""Attention on a mesh of several devices: each has its rows and heads, which need nothing of the others."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float, Int

from jslm.parallel import partition_spec

_HEADS = ("batch", "length", "heads", "head_dim")
_KV_HEADS = ("batch", "length", "kv_heads", "head_dim")


def attend_on_each_device(
    attend: Callable[[Array, Array, Array, Array | None], Array],
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None,
) -> Float[Array, "batch length heads head_dim"]:
    """`attend(q, k, v, segments)`, split over mesh axes data and fsdp by rows and over tensor by heads.

    For what the compiler cannot split, or would split badly: kernels, and loops over rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return attend(q, k, v, segments)
    heads, kv_heads = partition_spec(_HEADS), partition_spec(_KV_HEADS)
    rows: PartitionSpec | None = None if segments is None else partition_spec(_HEADS[:2])
    # Values that vary over the mesh can't be followed through a kernel; that each device writes its own part is plain.
    spread = jax.shard_map(attend, in_specs=(heads, kv_heads, kv_heads, rows), out_specs=heads, check_vma=False)
    return spread(q, k, v, segments)
