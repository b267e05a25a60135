"""What a platform's kernels are: a frozen set of functions, chosen once (see `jslm.model.kernels`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.typing import DTypeLike
from jaxtyping import Array

Params = dict[str, Any]
# A product, and the bias that is still to be added to it.
Branch = tuple[Array, Array | None]


@dataclasses.dataclass(frozen=True)
class Kernels:
    """What a platform may compute in its own way. Shapes and meaning stand at the functions' references in `plain`.

    Static: two sets made by the same choice are the same object, so that programs compiled with them are shared.
    """

    # Layers.
    linear: Callable[[Array, Array], Array]
    add_vector: Callable[[Array, Array], Array]
    project: Callable[[Array, list[Params]], list[Array]]
    normalize: Callable[[Array, Array, float, bool], Array]
    normalized_branch: Callable[[Array, Array, Array | None, float, bool], tuple[Array, Array]]
    # Of the residual stream, for that compute type.
    residual_dtype: Callable[[DTypeLike], DTypeLike]
    add_residual: Callable[[Array, Array], Array]
    activate: Callable[[str, Branch, Branch | None], Array]
    rotate: Callable[[Array, Array, Array], Array]
    dropout: Callable[[Array, float, jax.Array], Array]
    attention: Callable[[Array, Array, Array, Array | None, float, jax.Array | None], Array]
    # Most layers of a model that are compiled one by one rather than as a loop, where `model.unroll` is 0.
    unrolled_layers: int
    # Decoding.
    cache_dtype: Callable[[DTypeLike], DTypeLike]
    cached_attention: Callable[[Array, Array, Array, Array], Array]
    write_cache: Callable[[Array, Array, Array], Array]
    decoding_params: Callable[[Params, int], Params]
    head_logits: Callable[[Params, Array, int], Array]
    # Rows of a server that decode together at most: a group always computes at its full width.
    rows_together: int
    # Losses.
    cross_entropy: Callable[[Array, Array, Array, int, float, float, int], tuple[Array, Array]]
    loss_chunk: Callable[[int, int, int, int], int]
    pick_logit: Callable[[Array, Array], Array]
    # The whole step.
    update_if: Callable[..., Any]
    compiler_options: tuple[tuple[str, bool], ...] = ()
