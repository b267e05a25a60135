"""The pieces of a decoder block, as Flax Linen modules. Nothing outside `jslm.model` sees them."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.model.kernels import Kernels
from jslm.model.rope import apply_rotary
from jslm.parallel import constrain

LayerCache = dict[str, Any]


class Weights(nn.Module):
    """A projection's {"kernel": [in, out], "bias": [out]} in float32; decoding may lay kernels out in its own way."""

    features: int
    axes: tuple[str, str]
    std: float
    use_bias: bool = False

    @nn.compact
    def __call__(self, d_in: int) -> dict[str, Any]:
        weights: dict[str, Any] = {"kernel": self._get("kernel", nn.initializers.normal(self.std), self.axes, d_in)}
        if self.use_bias:
            weights["bias"] = self._get("bias", nn.initializers.zeros, self.axes[1:])
        return weights

    def _get(self, name: str, init: Any, axes: tuple[str, ...], *d_in: int) -> Any:
        if self.has_variable("params", name):
            return self.get_variable("params", name)
        return self.param(name, nn.with_logical_partitioning(init, axes), (*d_in, self.features), jnp.float32)


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last axis, in float32. One that `branches`
    gives its input too, as the stream that goes on beside it."""

    kernels: Kernels
    kind: str
    eps: float
    use_bias: bool = True
    axis: str | None = "embed"
    branches: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Any:
        def vector(name: str, init: Any) -> Any:
            return self.param(name, nn.with_logical_partitioning(init, (self.axis,)), x.shape[-1:], jnp.float32)

        center = self.kind == "layernorm"
        scale = vector("scale", nn.initializers.ones)
        bias = vector("bias", nn.initializers.zeros) if center and self.use_bias else None
        if self.branches:
            return self.kernels.normalized_branch(x, scale, bias, self.eps, center)
        y = self.kernels.normalize(x, scale, self.eps, center)
        return y if bias is None else self.kernels.add_vector(y, bias)


class Dropout(nn.Module):
    """Each element zero with probability `rate`, else divided by 1 - rate."""

    kernels: Kernels
    rate: float

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        return self.kernels.dropout(x, self.rate, self.make_rng("dropout"))


class Attention(nn.Module):
    """Grouped-query self-attention with optional QK-norm, biases and rotary positions."""

    config: ModelConfig
    kernels: Kernels
    train: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        tables: tuple[Array, Array] | None,
        positions: Int[Array, "batch length"] | None,
        cache: LayerCache | None,
        segments: Int[Array, "batch length"] | None,
    ) -> tuple[Float[Array, "batch length d_model"], LayerCache | None]:
        c, kernels = self.config, self.kernels
        batch, length, d_model = x.shape
        parts = [("q", c.n_heads, "heads"), ("k", c.kv_heads, "kv_heads"), ("v", c.kv_heads, "kv_heads")]
        weights = [
            Weights(heads * c.dim_per_head, ("embed", axis), c.initial_std, c.qkv_bias, name=name)(d_model)
            for name, heads, axis in parts
        ]
        q, k, v = (
            constrain(y.reshape(batch, length, heads, c.dim_per_head), "batch", "length", axis, "head_dim")
            for y, (_, heads, axis) in zip(kernels.project(x, weights), parts, strict=True)
        )
        if c.qk_norm:
            q = Norm(kernels, "rmsnorm", c.norm_eps, axis=None, name="q_norm")(q)
            k = Norm(kernels, "rmsnorm", c.norm_eps, axis=None, name="k_norm")(k)
        if tables is not None:
            q, k = apply_rotary(q, tables, kernels), apply_rotary(k, tables, kernels)
        if cache is None:
            rate = c.attention_dropout_rate if self.train else 0.0
            y = kernels.attention(q, k, v, segments, rate, self.make_rng("dropout") if rate else None)
        else:
            assert positions is not None
            cache = {name: kernels.write_cache(cache[name], new, positions[:, 0]) for name, new in (("k", k), ("v", v))}
            y = kernels.cached_attention(q, cache["k"], cache["v"], positions)
        y = y.reshape(batch, length, c.n_heads * c.dim_per_head)
        out = Weights(c.d_model, ("heads", "embed"), residual_std(c), c.out_bias, name="out")
        return multiply(kernels, y, out), cache


class MLP(nn.Module):
    """The feed-forward sublayer; gated forms: Shazeer 2020, "GLU Variants Improve Transformer"."""

    config: ModelConfig
    kernels: Kernels

    @nn.compact
    def __call__(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length d_model"]:
        c, kernels = self.config, self.kernels

        def branch(name: str) -> tuple[Array, Array | None]:
            weights = Weights(c.hidden_dim, ("embed", "mlp"), c.initial_std, c.mlp_bias, name=name)(x.shape[-1])
            return kernels.linear(x, weights["kernel"]), weights.get("bias")

        up = branch("up")
        gate = branch("gate") if c.is_gated else None
        hidden = constrain(kernels.activate(c.activation, up, gate), "batch", "length", "mlp")
        return multiply(kernels, hidden, Weights(c.d_model, ("mlp", "embed"), residual_std(c), c.mlp_bias, name="down"))


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    config: ModelConfig
    kernels: Kernels
    train: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length d_model"],
        tables: tuple[Array, Array] | None,
        positions: Int[Array, "batch length"] | None = None,
        cache: LayerCache | None = None,
        segments: Int[Array, "batch length"] | None = None,
    ) -> tuple[Float[Array, "batch length d_model"], LayerCache | None]:
        c, kernels = self.config, self.kernels

        def norm(name: str) -> Norm:
            return Norm(kernels, c.norm, c.norm_eps, c.norm_bias, branches=True, name=name)

        def drop(y: Array) -> Array:
            return Dropout(kernels, c.dropout)(y) if self.train and c.dropout else y

        x, y = norm("attention_norm")(x)
        y, cache = Attention(c, kernels, self.train, name="attention")(y, tables, positions, cache, segments)
        x, y = norm("mlp_norm")(kernels.add_residual(x, drop(y)))
        return kernels.add_residual(x, drop(MLP(c, kernels, name="mlp")(y))), cache


def multiply(
    kernels: Kernels, x: Float[Array, "batch length d_in"], weights: Weights
) -> Float[Array, "batch length _"]:
    """x @ kernel (+ bias)."""
    found = weights(x.shape[-1])
    y = kernels.linear(x, found["kernel"])
    return kernels.add_vector(y, found["bias"]) if "bias" in found else y


def residual_std(config: ModelConfig) -> float:
    """Radford et al. 2019, section 2.3: residual projections start smaller, by sqrt of their number."""
    return float(config.initial_std / (2 * config.n_layers) ** 0.5)
