"""The decoder as functions of a parameter tree.

Parameters are nested dicts of float32 arrays: `embed/tokens`, `embed/positions` (learned positions only),
`embed/conditions/NAME` `[labels, d_model]` (conditioned models only), `layers/...`
with the layers stacked on axis 0, `final_norm`, and `head/tokens` (untied only). For cached decoding `layers` and the
cache are tuples with an entry a layer, so that XLA updates each entry in place.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jslm.config import ModelConfig
from jslm.model.kernels import Kernels, choose_kernels, decoding_kernels
from jslm.model.kernels.plain import PLAIN, head_table
from jslm.model.keys import make_key
from jslm.model.layers import Block, Dropout, LayerCache, Norm
from jslm.model.loss import cap_logits
from jslm.model.rope import default_positions, rotary_tables, segment_positions
from jslm.parallel import constrain

Params = dict[str, Any]
Cache = tuple[LayerCache, ...]


def init_params(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh float32 parameters; wrap in `jax.jit` with `out_shardings` to create them sharded."""
    return nn.meta.unbox(_boxed_init(config, key))


@functools.lru_cache(maxsize=64)
def param_axes(config: ModelConfig) -> Any:
    """The tree of logical axis names of the parameters, such as `("layers", "embed", "mlp")`; allocates nothing."""
    boxed = jax.eval_shape(lambda: _boxed_init(config, make_key(0)))
    return jax.tree.map(lambda box: box.names, boxed, is_leaf=lambda x: isinstance(x, nn.meta.AxisMetadata))


def param_shapes(config: ModelConfig) -> Params:
    """The tree of `jax.ShapeDtypeStruct` of the parameters; allocates nothing."""
    # A tree of the caller's own, whose leaves nobody changes.
    return jax.tree.map(lambda leaf: leaf, _param_shapes(config))


@functools.lru_cache(maxsize=64)
def _param_shapes(config: ModelConfig) -> Params:
    return jax.eval_shape(lambda: init_params(config, make_key(0)))


def apply_decoder(
    params: Params,
    tokens: Int[Array, "batch length"],
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    *,
    dropout_key: jax.Array | None = None,
    segments: Int[Array, "batch length"] | None = None,
    conditions: Int[Array, "batch length kinds"] | None = None,
    kernels: Kernels | None = None,
) -> Float[Array, "batch length d_model"]:
    """Final hidden states of whole sequences, normalised, in `dtype`. Dropout is on where a `dropout_key` is given.

    `segments` numbers the documents of each row: positions count from each one's start, and none sees another.
    `conditions` is each token's label of each of `config.conditions`, -1 for none; in training whole documents lose
    theirs by `config.condition_dropout`. `kernels`: by default those of the mesh's platform.
    """
    kernels = kernels or choose_kernels(config, dtype)
    positions = default_positions(1, tokens.shape[1]) if segments is None else segment_positions(segments)
    if conditions is not None and dropout_key is not None and config.condition_dropout:
        conditions = _drop_conditions(
            conditions, segments, config.condition_dropout, _key(dropout_key, config.n_layers)
        )
    x = _embed(params, tokens, positions, config, kernels.residual_dtype(dtype), conditions)
    tables = rotary_tables(config, positions) if config.position == "rope" else None
    train = dropout_key is not None and config.drops_out
    if train and config.dropout:
        x = _apply(Dropout(kernels, config.dropout), {}, x, rngs={"dropout": _key(dropout_key, -1)})
    block = Block(config, kernels, train)

    def layer(x: Array, step: tuple[Params, Array]) -> tuple[Array, None]:
        layer_params, index = step
        rngs = {"dropout": _key(dropout_key, index)} if train else {}
        y, _ = block.apply({"params": layer_params}, x, tables, segments=segments, rngs=rngs)
        return y, None

    layers, step = params["layers"], _remat(layer, config)
    unroll = min(config.unroll, config.n_layers) or (
        config.n_layers if config.n_layers <= kernels.unrolled_layers else 1
    )
    if isinstance(layers, tuple) or unroll == config.n_layers:
        for index, layer_params in enumerate(unstack_layers(params)["layers"]):
            x, _ = step(x, (layer_params, jnp.int32(index)))
    else:
        steps = (layers, jnp.arange(config.n_layers, dtype=jnp.int32))
        x, _ = jax.lax.scan(step, x, steps, unroll=unroll)
    return _final_norm(params, x, config, kernels)


def apply_cached(
    params: Params,
    tokens: Int[Array, "batch length"],
    positions: Int[Array, "batch length"],
    cache: Cache,
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    *,
    conditions: Int[Array, "batch kinds"] | None = None,
    kernels: Kernels | None = None,
) -> tuple[Float[Array, "batch length d_model"], Cache]:
    """Final hidden states of tokens at consecutive `positions` (each row at its own), and the cache with them written.

    Slot j of the cache holds position j. Whatever stands in slots past a row's last position is never seen, so rows may
    be padded on the right. `params["layers"]` may be stacked or unstacked (see `unstack_layers`). `conditions` is each
    row's label of each of `config.conditions`, -1 for none. `kernels`: those that `params` are laid out for, by default
    the mesh's platform's for `params` as they are trained.
    """
    kernels = kernels or choose_kernels(config, dtype)
    labels = None if conditions is None else conditions[:, None]
    x = _embed(params, tokens, positions, config, kernels.residual_dtype(dtype), labels)
    tables = rotary_tables(config, positions) if config.position == "rope" else None
    layers = unstack_layers(params)["layers"]
    block = Block(config, kernels)
    new_cache = []
    for layer_params, layer_cache in zip(layers, cache, strict=True):
        x, layer_cache = _apply(block, {"params": layer_params}, x, tables, positions, layer_cache)
        new_cache.append(layer_cache)
    return _final_norm(params, x, config, kernels), tuple(new_cache)


def init_cache(config: ModelConfig, batch: int, slots: int, dtype: DTypeLike = jnp.float32) -> Cache:
    """An empty cache: per layer, keys and values `[batch, kv_heads, slots, head_dim]`, in the type that the platform
    keeps them in for that compute type."""
    shape = (batch, config.kv_heads, slots, config.dim_per_head)
    dtype = decoding_kernels(config, dtype).cache_dtype(dtype)
    return tuple({name: jnp.zeros(shape, dtype) for name in ("k", "v")} for _ in range(config.n_layers))


def logits_from_hidden(
    params: Params,
    hidden: Float[Array, "batch length d_model"],
    config: ModelConfig,
    kernels: Kernels | None = None,
) -> Float[Array, "batch length vocab"]:
    """float32 logits over the true vocabulary. `kernels`: those that `params` are laid out for (see `apply_cached`)."""
    head_logits = (kernels or PLAIN).head_logits
    return cap_logits(head_logits(params, hidden, config.vocab_size), config.logit_softcap)


def loss_sums(
    params: Params,
    inputs: Int[Array, "batch length"],
    targets: Int[Array, "batch length"],
    config: ModelConfig,
    dtype: DTypeLike = jnp.float32,
    *,
    dropout_key: jax.Array | None = None,
    z_loss: float = 0.0,
    loss_chunk: int = 0,
    batch_shards: int = 1,
    segments: Int[Array, "batch length"] | None = None,
    conditions: Int[Array, "batch length kinds"] | None = None,
    kernels: Kernels | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sums in nats over the positions whose target is not -1: (objective with z-loss, cross-entropy)."""
    kernels = kernels or choose_kernels(config, dtype)
    hidden = apply_decoder(
        params,
        inputs,
        config,
        dtype,
        dropout_key=dropout_key,
        segments=segments,
        conditions=conditions,
        kernels=kernels,
    )
    batch, length = inputs.shape
    chunk = kernels.loss_chunk(max(1, batch // batch_shards), length, config.padded_vocab_size, loss_chunk)
    return kernels.cross_entropy(
        hidden, head_table(params), targets, config.vocab_size, config.logit_softcap, z_loss, chunk
    )


def stack_conditions(batch: Mapping[str, Array], config: ModelConfig) -> Int[Array, "batch length kinds"] | None:
    """The labels of a batch (`condition/NAME` `[batch, length]` each) in the order of `config.conditions`."""
    if not config.conditions:
        return None
    return jnp.stack([batch[f"condition/{condition.name}"] for condition in config.conditions], axis=-1)


def unstack_layers(params: Params) -> Params:
    """The same parameters with `layers` as a tuple of one dict a layer; of NumPy's arrays, views of them. Already
    unstacked ones come back as they are.
    """
    layers = params["layers"]
    if isinstance(layers, tuple):
        return params
    leaves, structure = jax.tree.flatten(layers)
    n_layers = leaves[0].shape[0]

    def pieces(leaf: Any) -> list[Any]:
        if isinstance(leaf, np.ndarray):
            return list(leaf)
        # A split's gradient is one concatenation; that of slices would be a sum of as many arrays of zeros.
        split = jax.lax.split(leaf, [1] * n_layers) if n_layers > 1 else [leaf]
        return [jnp.squeeze(piece, 0) for piece in split]

    columns = zip(*map(pieces, leaves), strict=True)
    return {**params, "layers": tuple(jax.tree.unflatten(structure, column) for column in columns)}


def decoding_params(params: Params, config: ModelConfig, dtype: DTypeLike) -> Params:
    """Unstacked parameters as `decoding_kernels` of that compute type multiply by them, the output head cut to the true
    vocabulary."""
    return decoding_kernels(config, dtype).decoding_params(params, config.vocab_size)


def _boxed_init(config: ModelConfig, key: jax.Array) -> Any:
    def table(rows: int, axes: tuple[str | None, str], key: jax.Array) -> nn.LogicallyPartitioned:
        value = config.initial_std * jax.random.normal(key, (rows, config.d_model), jnp.float32)
        return nn.LogicallyPartitioned(value, axes)

    token_key, position_key, layer_key, head_key = jax.random.split(key, 4)
    embed: dict[str, Any] = {"tokens": table(config.padded_vocab_size, ("vocab", "embed"), token_key)}
    if config.position == "learned":
        embed["positions"] = table(config.context_length, (None, "embed"), position_key)
    if config.conditions:
        # Zeros: a model that learns its conditions later starts as what it was.
        embed["conditions"] = {
            condition.name: nn.LogicallyPartitioned(
                jnp.zeros((len(condition.labels), config.d_model), jnp.float32), (None, "embed")
            )
            for condition in config.conditions
        }
    x = jnp.zeros((1, 1, config.d_model))
    tables = rotary_tables(config, default_positions(1, 1)) if config.position == "rope" else None
    block = Block(config, PLAIN)
    layers = jax.vmap(lambda key: block.init(key, x, tables)["params"])(jax.random.split(layer_key, config.n_layers))
    layers = jax.tree.map(
        lambda box: nn.LogicallyPartitioned(box.value, ("layers", *box.names)),
        layers,
        is_leaf=lambda leaf: isinstance(leaf, nn.meta.AxisMetadata),
    )
    params = {"embed": embed, "layers": layers, "final_norm": _norm(config, PLAIN).init(key, x)["params"]}
    if not config.tie_embeddings:
        params["head"] = {"tokens": table(config.padded_vocab_size, ("vocab", "embed"), head_key)}
    return params


def _embed(
    params: Params, tokens: Array, positions: Array, config: ModelConfig, dtype: DTypeLike, conditions: Array | None
) -> Array:
    x = params["embed"]["tokens"][tokens].astype(dtype)
    if config.position == "learned":
        x = x + params["embed"]["positions"][positions].astype(dtype)
    if conditions is not None:
        for index, condition in enumerate(config.conditions):
            label = conditions[..., index]
            added = params["embed"]["conditions"][condition.name][jnp.maximum(label, 0)].astype(dtype)
            x = x + jnp.where(label[..., None] >= 0, added, jnp.zeros((), dtype))
    return constrain(x, "batch", "length", "activation_embed")


def _drop_conditions(conditions: Array, segments: Array | None, rate: float, key: jax.Array) -> Array:
    """`conditions` with -1 for whole documents (rows, where there are no segments), each kind by itself."""
    batch, length, kinds = conditions.shape
    kept = jax.random.bernoulli(key, 1 - rate, (batch, length + 1, kinds))
    numbers = jnp.zeros((batch, length), jnp.int32) if segments is None else segments
    return jnp.where(jnp.take_along_axis(kept, numbers[..., None], axis=1), conditions, -1)


def _norm(config: ModelConfig, kernels: Kernels) -> Norm:
    return Norm(kernels, config.norm, config.norm_eps, config.norm_bias)


def _final_norm(params: Params, x: Array, config: ModelConfig, kernels: Kernels) -> Array:
    y: Array = _apply(_norm(config, kernels), {"params": params["final_norm"]}, x)
    return y


def _apply(module: nn.Module, variables: Params, *args: Any, **kwargs: Any) -> Any:
    # Linen's own annotation is a union of all that any module may return.
    return module.apply(variables, *args, **kwargs)


def _key(key: jax.Array | None, index: int | Array) -> jax.Array:
    assert key is not None
    return jax.random.fold_in(key, index + 1)


def _remat(layer: Any, config: ModelConfig) -> Any:
    match config.remat:
        case "none":
            return layer
        case "dots":
            return jax.checkpoint(layer, policy=jax.checkpoint_policies.dots_with_no_batch_dims_saveable)
        case _:
            return jax.checkpoint(layer)
