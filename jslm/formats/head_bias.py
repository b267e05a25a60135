"""A bias on the output head, in a model whose head has none."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32


def fold_head_bias(
    table: Float32[np.ndarray, "vocab d_model"],
    scale: Float32[np.ndarray, " d_model"],
    bias: Float32[np.ndarray, " d_model"],
    head_bias: Float32[np.ndarray, " vocab"],
) -> tuple[Float32[np.ndarray, "vocab d_model"], Float32[np.ndarray, " d_model"], Float32[np.ndarray, " d_model"]]:
    """A head and final LayerNorm (table, scale, bias) with the logits of `table`, `scale`, `bias` and `head_bias`.

    What LayerNorm gives before its scale, z, sums to 0, so a number c added to a whole row W of the head changes
    nothing but what it makes of the norm's bias. With scale s, bias t and head bias b the logit is W(s z + t) + b; a
    norm of scale 1 and bias 1 and the row W s + c give W s z + W s 1 + c d, which is the same for
    c = (b + W t - W s) / d. The scale is not divided by, so that it may be 0. Not for RMSNorm, whose z has no such sum.
    """
    weights, s, t = (part.astype(np.float64) for part in (table, scale, bias))
    shift = (head_bias.astype(np.float64) + weights @ (t - s)) / len(s)
    ones = np.ones_like(scale)
    return (weights * s + shift[:, None]).astype(np.float32), ones, ones.copy()
