"""Floating-point operations of a traced program's matrix products, before any compiler has seen it."""

from __future__ import annotations

import math
from typing import Any

import jax

from jslm.plan.kernels import causal_share, flash_flops, is_flash, is_splash


def count_flops(traced: jax.stages.Traced, platform: str = "cpu") -> float:
    """FLOPs of the matrix products over all devices: 2 for each multiply-add, recomputation included.

    A scan's body counts as often as it runs, a `while_loop`'s once, and of several branches the dearest, or where they
    are for several platforms ("cpu", "gpu", "tpu") that of `platform`. cuDNN's
    attention counts as its products would without the fusion, splash attention with the blocks that its mask leaves.
    """
    return _jaxpr_flops(traced.jaxpr, platform)


def _jaxpr_flops(jaxpr: Any, platform: str) -> float:
    # A closed jaxpr holds the open one.
    return sum(_equation_flops(equation, platform) for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns)


def _equation_flops(equation: Any, platform: str) -> float:
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
        kernel = params["name"] or ""
        if is_flash(kernel):
            return flash_flops(kernel, equation.invars[0].aval.shape, grid[0])
        share = causal_share(grid[-1]) if is_splash(kernel) else 1.0
        return _jaxpr_flops(params["jaxpr"], platform) * math.prod(grid) * share
    if name == "shard_map":
        # Written for one device.
        return float(sum(_jaxpr_flops(value, platform) for value in _jaxprs(params)) * params["mesh"].size)
    if name == "cond":
        return max(_jaxpr_flops(branch, platform) for branch in _branches(params, platform))
    inner = sum(_jaxpr_flops(value, platform) for value in _jaxprs(params))
    return inner * params["length"] if name == "scan" else inner


def _branches(params: dict[str, Any], platform: str) -> list[Any]:
    """Those of a `cond`, or of `jax.lax.platform_dependent` the one that the platform gets."""
    of_platforms = params.get("branches_platforms")
    if of_platforms is None:
        return list(params["branches"])
    names = {platform, "cuda", "rocm"} if platform == "gpu" else {platform}
    pairs = list(zip(params["branches"], of_platforms, strict=True))
    named = [branch for branch, platforms in pairs if platforms and names.intersection(platforms)]
    return named or [branch for branch, platforms in pairs if not platforms]


def _jaxprs(params: dict[str, Any]) -> list[Any]:
    values = [item for value in params.values() for item in (value if isinstance(value, (tuple, list)) else (value,))]
    return [value for value in values if hasattr(value, "eqns") or hasattr(value, "jaxpr")]
