"""Attention on a mesh of several devices: each has its rows and heads, which need nothing of the others."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jaxtyping import Array, Float, Int, UInt32

from jslm.parallel import is_split, partition_spec

_HEADS = ("batch", "length", "heads", "head_dim")
_KV_HEADS = ("batch", "length", "kv_heads", "head_dim")


def attend_on_each_device(
    attend: Callable[..., Array],
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    segments: Int[Array, "batch length"] | None,
    seeds: UInt32[Array, "batch heads"] | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """`attend(q, k, v, segments)`, or with `seeds` behind, split over mesh axes data and fsdp by rows and over tensor
    by heads.

    For what the compiler cannot split, or would split badly: kernels, and loops over rows.
    """
    arrays = [q, k, v, segments] if seeds is None else [q, k, v, segments, seeds]
    if not is_split():
        return attend(*arrays)
    axes = [_HEADS, _KV_HEADS, _KV_HEADS, _HEADS[:2], ("batch", "heads")]
    specs = [None if array is None else partition_spec(names) for array, names in zip(arrays, axes, strict=False)]
    # Values that vary over the mesh can't be followed through a kernel; that each device writes its own part is plain.
    split = jax.shard_map(attend, in_specs=tuple(specs), out_specs=partition_spec(_HEADS), check_vma=False)
    return split(*arrays)
