"""The pieces of a decoder block, as Flax Linen modules. Nothing outside `jslm.model` sees them."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.model.attention import Implementation, cached_attention, causal_attention
from jslm.model.ops import add_vector, fusion_boundary, linear, linear_by_rows, normalize, recomputed
from jslm.model.rope import apply_rotary
from jslm.parallel import constrain

LayerCache = dict[str, Any]


class Linear(nn.Module):
    """x @ kernel (+ bias), kernel `[in, out]` in float32, cast to x's type. Decoding may have `rows` `[out, in]`."""

    features: int
    axes: tuple[str, str]
    std: float
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_out"]:
        if self.has_variable("params", "rows"):
            y = linear_by_rows(x, self.get_variable("params", "rows"))
        else:
            init = nn.with_logical_partitioning(nn.initializers.normal(self.std), self.axes)
            kernel: Any = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
            y = linear(x, kernel)
        if self.use_bias:
            bias_init = nn.with_logical_partitioning(nn.initializers.zeros, self.axes[1:])
            bias: Any = self.param("bias", bias_init, (self.features,), jnp.float32)
            y = add_vector(y, bias)
        return y


class Norm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last axis, in float32."""

    kind: str
    eps: float
    use_bias: bool = True
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "*batch width"]) -> Float[Array, "*batch width"]:
        def vector(name: str, init: Any) -> Any:
            return self.param(name, nn.with_logical_partitioning(init, (self.axis,)), x.shape[-1:], jnp.float32)

        y = normalize(x, vector("scale", nn.initializers.ones), self.eps, self.kind == "layernorm")
        if self.kind == "layernorm" and self.use_bias:
            y = add_vector(y, vector("bias", nn.initializers.zeros))
        return y


class Attention(nn.Module):
    """Grouped-query self-attention with optional QK-norm, biases and rotary positions."""

    config: ModelConfig
    implementation: Implementation
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
        c = self.config
        batch, length, _ = x.shape
        head_dim = c.dim_per_head

        def project(name: str, heads: int, axis: str) -> Array:
            y = Linear(heads * head_dim, ("embed", axis), c.initial_std, c.qkv_bias, name=name)(x)
            return constrain(y.reshape(batch, length, heads, head_dim), "batch", "length", axis, "head_dim")

        q = project("q", c.n_heads, "heads")
        k = project("k", c.kv_heads, "kv_heads")
        v = project("v", c.kv_heads, "kv_heads")
        if c.qk_norm:
            q = Norm("rmsnorm", c.norm_eps, axis=None, name="q_norm")(q)
            k = Norm("rmsnorm", c.norm_eps, axis=None, name="k_norm")(k)
        if tables is not None:
            q, k = apply_rotary(q, tables), apply_rotary(k, tables)
        if cache is None:
            key = self.make_rng("dropout") if self.train and c.dropout else None
            y = causal_attention(
                q,
                k,
                v,
                segments,
                implementation=self.implementation,
                dropout=c.dropout if self.train else 0.0,
                dropout_key=key,
            )
        else:
            assert positions is not None
            cache = {name: _write(cache[name], new, positions[:, 0]) for name, new in (("k", k), ("v", v))}
            y = cached_attention(q, cache["k"], cache["v"], positions)
        y = y.reshape(batch, length, c.n_heads * head_dim)
        out = Linear(c.d_model, ("heads", "embed"), residual_std(c), c.out_bias, name="out")(y)
        return out, cache


class MLP(nn.Module):
    """The feed-forward sublayer; gated forms: Shazeer 2020, "GLU Variants Improve Transformer"."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: Float[Array, "batch length d_model"]) -> Float[Array, "batch length d_model"]:
        c = self.config
        up = Linear(c.hidden_dim, ("embed", "mlp"), c.initial_std, c.mlp_bias, name="up")(x)
        if c.is_gated:
            gate = Linear(c.hidden_dim, ("embed", "mlp"), c.initial_std, c.mlp_bias, name="gate")(x)
            hidden = recomputed(lambda gate, up: _activate(c.activation, gate) * up)(gate, up)
        else:
            hidden = recomputed(functools.partial(_activate, c.activation))(up)
        hidden = constrain(hidden, "batch", "length", "mlp")
        return Linear(c.d_model, ("mlp", "embed"), residual_std(c), c.mlp_bias, name="down")(hidden)


class Block(nn.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    config: ModelConfig
    implementation: Implementation = "xla"
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
        c = self.config

        def norm(name: str) -> Norm:
            return Norm(c.norm, c.norm_eps, c.norm_bias, name=name)

        def drop(y: Array) -> Array:
            return nn.Dropout(c.dropout, deterministic=not self.train)(y) if c.dropout else y

        y, cache = Attention(c, self.implementation, self.train, name="attention")(
            norm("attention_norm")(x), tables, positions, cache, segments
        )
        x = _residual(x + drop(y))
        return _residual(x + drop(MLP(c, name="mlp")(norm("mlp_norm")(x)))), cache


def residual_std(config: ModelConfig) -> float:
    """Radford et al. 2019, section 2.3: residual projections start smaller, by sqrt of their number."""
    return float(config.initial_std / (2 * config.n_layers) ** 0.5)


def _residual(x: Array) -> Array:
    return fusion_boundary(constrain(x, "batch", "length", "activation_embed"))


def _activate(name: str, x: Array) -> Array:
    match name:
        case "swiglu":
            return nn.silu(x)
        case "geglu" | "gelu":
            return nn.gelu(x, approximate=True)
        case "gelu_exact":
            return nn.gelu(x, approximate=False)
        case "relu":
            return nn.relu(x)
        case _:
            return jnp.square(nn.relu(x))


def _write(
    cache: Float[Array, "batch kv_heads slots head_dim"],
    new: Float[Array, "batch length kv_heads head_dim"],
    start: Int[Array, " batch"],
) -> Float[Array, "batch kv_heads slots head_dim"]:
    """The cache with `new` in slots start, start + 1, ... of each row."""
    new = jnp.swapaxes(new, 1, 2).astype(cache.dtype)
    if cache.shape[0] == 1:
        # Without the boundary XLA's CPU compiler copies the whole cache for each token.
        return fusion_boundary(jax.lax.dynamic_update_slice(cache, new, (0, 0, start[0], 0)))
    return jax.vmap(lambda row, update, at: jax.lax.dynamic_update_slice(row, update, (0, at, 0)))(cache, new, start)
