"""Floating-point operations of a traced program's matrix products, before any compiler has seen it."""

from __future__ import annotations

import math
from typing import Any

import jax

from jslm.plan.kernels import causal_share, is_splash


def count_flops(traced: jax.stages.Traced) -> float:
    """FLOPs of the matrix products over all devices: 2 for each multiply-add, recomputation included.

    A scan's body counts as often as it runs, a `while_loop`'s once, and of several branches the dearest. cuDNN's
    attention counts as its products would without the fusion, splash attention with the blocks that its mask leaves.
    """
    return _jaxpr_flops(traced.jaxpr)


def _jaxpr_flops(jaxpr: Any) -> float:
    # A closed jaxpr holds the open one.
    return sum(_equation_flops(equation) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation_flops(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs, out = equation.invars[0].aval, equation.outvars[0].aval
        return 2.0 * math.prod(out.shape) * math.prod(lhs.shape[axis] for axis in contracted)
    if name.startswith("dot_product_attention"):
        query, key = equation.invars[0].aval, equation.invars[1].aval
        batch, length, heads, head_dim = query.shape
        # Forward: two products. Backward: the scores again and four gradients.
        return 2.0 * (2 if "fwd" in name else 5) * batch * heads * head_dim * length * key.shape[1]
    if name == "pallas_call":
        grid = [int(size) for size in params["grid_mapping"].grid]
        share = causal_share(grid[-1]) if is_splash(params["name"]) else 1.0
        return _jaxpr_flops(params["jaxpr"]) * math.prod(grid) * share
    if name == "shard_map":
        # Written for one device.
        return float(sum(_jaxpr_flops(value) for value in _jaxprs(params)) * params["mesh"].size)
    if name == "cond":
        return max(_jaxpr_flops(branch) for branch in params["branches"])
    inner = sum(_jaxpr_flops(value) for value in _jaxprs(params))
    return inner * params["length"] if name == "scan" else inner


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    values = [item for value in params.values() for item in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
