"""What the kernels of splash attention compute and move: to the compiler they are closed boxes.

Facts of JAX's kernels (`jax.experimental.pallas.ops.tpu.splash_attention`) with the blocks that
`jslm.model.kernels.splash` gives them: a sequence is n blocks, of which the causal mask leaves n (n + 1) / 2 pairs of
queries and keys. The forward pass and the queries' gradient keep a block of queries on the chip and walk over keys and
values; the gradients of keys and values keep those and walk over queries.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from jslm.model import FLASH_PREFIX, splash_block_length
from jslm.plan.hlo_text import Shape

_PREFIX = "splash_mha_"


def is_splash(name: str) -> bool:
    """Whether a kernel or instruction of that name is one of splash attention's."""
    return name.startswith(_PREFIX)


def is_flash(name: str) -> bool:
    """Whether a kernel is one of jslm's own attention on GPUs (`jslm.model.kernels.gpu_attention`)."""
    return name.startswith(FLASH_PREFIX)


def flash_flops(name: str, queries: tuple[int, ...], blocks: int) -> float:
    """FLOPs of such a kernel's matrix products; its loops over the other blocks are of a length that only it knows.

    `queries` is `[batch, length, heads, width]`. Two products forward, three for the queries' gradient, four for those
    of keys and values, of the pairs of blocks that the causal mask leaves.
    """
    products = {"forward_kernel": 2, "queries_kernel": 3, "keys_kernel": 4}[name.removeprefix(FLASH_PREFIX)]
    batch, length, heads, width = queries
    return products * 2.0 * batch * heads * length**2 * width * causal_share(blocks)


def causal_share(blocks: int) -> float:
    """The share of all pairs of blocks that the kernels compute."""
    return (blocks + 1) / (2 * blocks)


def splash_flops(name: str, operands: Sequence[Shape]) -> float:
    """FLOPs of a kernel's matrix products, without those of blocks that the mask leaves empty.

    Two products forward; three for the queries' gradient, four for those of keys and values, both of which compute the
    scores and the gradient of the weights anew. `operands` as in `splash_bytes`.
    """
    products = {"fwd": 2, "dq": 3, "dkv": 4}[name.removeprefix(_PREFIX).split("_")[0].split(".")[0]]
    batch, heads, length, width = _by_heads(operands)[0].dims
    share = causal_share(length // splash_block_length(length))
    return products * 2.0 * batch * heads * length**2 * width * share


def splash_bytes(name: str, operands: Sequence[Shape], results: Sequence[Shape]) -> float:
    """Bytes of main memory that a kernel reads and writes. Of its operands, numbers `[batch, heads, length, width]` are
    queries, keys, values and what goes with queries; integers number the rows and say which blocks are next.

    A block is read again when another was on the chip in between. Results are written once.
    """
    arrays = _by_heads(operands)
    batch, heads, length, _ = arrays[0].dims
    blocks = length // splash_block_length(length)
    keeps_keys = name.startswith(f"{_PREFIX}dkv")
    total = float(sum(shape.bytes for shape in results if shape.in_main_memory))
    for index, shape in enumerate(arrays):
        of_keys = index in (1, 2)
        passes = 1.0
        if of_keys and not keeps_keys and blocks > 1:
            # Each head of queries walks over its keys; the second block of queries begins where the first one ends.
            passes = heads / shape.dims[1] * (blocks * (blocks + 1) / 2 - 1) / blocks
        elif keeps_keys and not of_keys:
            passes = (blocks + 1) / 2
        total += passes * shape.bytes * shape.in_main_memory
    for shape in operands:
        if _is_number(shape):
            continue
        passes = 1.0
        if length in shape.dims and blocks > 1:
            passes = heads * (batch if len(shape.dims) == 2 else 1)
            if shape.dims[-1] == length:
                passes *= (blocks + 1) / 2
            elif keeps_keys:
                passes /= heads
        total += passes * shape.bytes * shape.in_main_memory
    return total


def _by_heads(operands: Sequence[Shape]) -> list[Shape]:
    """Queries, keys, values and what goes with queries. One sequence alone comes without its axis."""
    arrays = [shape for shape in operands if _is_number(shape)]
    return [dataclasses.replace(shape, dims=(1,) * (4 - len(shape.dims)) + shape.dims) for shape in arrays]


def _is_number(shape: Shape) -> bool:
    return shape.dtype in ("bf16", "f32")
