"""The compiled train step: a pure function of state and batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jslm.config import Config
from jslm.learn.objective import Batch, Sums
from jslm.learn.objectives import make_objective
from jslm.learn.optimizer import decay_apart, make_schedule, timed_factor
from jslm.learn.state import TrainState, state_shardings
from jslm.model import IGNORED, Params, choose_kernels, merge_adapters
from jslm.model.keys import make_key, rows_from
from jslm.parallel import (
    BATCH_AXES,
    batch_sharding,
    device_memory_bytes,
    gather_shards,
    replicated,
    sum_to_shards,
)
from jslm.tokens.course import Course

Metrics = dict[str, Array]

# Good steps after which float16's loss scale doubles (Micikevicius et al. 2018, section 3.2).
_SCALE_GROWTH_STEPS = 1000
# Of a device's memory, for whole weights and gradients of a model that `fsdp` splits: 500M parameters on 16 GB.
_WHOLE_SHARE = 4


def make_train_step(
    config: Config,
    optimizer: optax.GradientTransformation,
    steps: int,
    mesh: Mesh,
    dtype: jnp.dtype,
    course: Course | None = None,
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The jitted step `(state, batch) -> (state, metrics)`; the state is donated.

    `batch` has int32 "inputs" and "targets" `[accumulation, micro_batch, context]`, and "segments" where `data.packing`
    is "documents"; targets of -1 do not count. The loss is what `train.objective` minimises, the mean over what counts
    in the whole batch, however it is accumulated. A step whose loss or gradient is not finite changes nothing but the
    counters. `course` is the schedule's, see `make_schedule`; with `train.minutes` the state's "schedule" holds in
    place of `steps`. Metrics, scalars: loss (nats), grad_norm, param_norm, lr,
    tokens (those counted), bad_steps, bad_in_a_row, loss_scale, and the means of the objective's other figures.
    """
    shardings = state_shardings(config, optimizer, mesh, dtype)
    schedule = make_schedule(config.optimizer, steps, course)
    train = config.train
    objective = make_objective(config, mesh, dtype)

    def minimised(params: Params, base: Params | None, batch: Batch, key: Array, scale: Array) -> tuple[Array, Sums]:
        whole = params if base is None else merge_adapters(base, params, train.lora)
        total, sums = objective.sums(whole, batch, key)
        return total * scale, sums

    def gradients(
        state: TrainState, batch: Batch, count: Float[Array, ""], loss_scale: Float[Array, ""]
    ) -> tuple[Sums, Params]:
        key = jax.random.fold_in(make_key(config.seed), state["step"])
        gradient = jax.value_and_grad(minimised, has_aux=True)
        accumulation = batch["inputs"].shape[0]

        def summed(params: Params, base: Params | None, batch: Batch, key: Array, scale: Array) -> tuple[Sums, Params]:
            def micro(piece: Batch, index: Array) -> tuple[Sums, Params]:
                (_, sums), grads = gradient(params, base, piece, jax.random.fold_in(key, index), scale)
                return sums, grads

            if accumulation == 1:
                return micro({name: rows[0] for name, rows in batch.items()}, jnp.int32(0))

            def add(total: tuple[Sums, Params], piece: tuple[Batch, Array]) -> tuple[tuple[Sums, Params], None]:
                return jax.tree.map(jnp.add, total, micro(*piece)), None

            no_sums = {name: jnp.zeros((), jnp.float32) for name in objective.figures}
            zeros = (no_sums, jax.tree.map(jnp.zeros_like, params))
            pieces = (batch, jnp.arange(accumulation, dtype=jnp.int32))
            return jax.lax.scan(add, zeros, pieces)[0]

        parts = (state["params"], state.get("base"), batch, key, loss_scale / count)
        if not _splits_by_hand(mesh, state):
            return summed(*parts)

        # Left to the compiler, weights and gradients of each micro-batch, and the head's of each chunk of the loss,
        # would travel; so those of a step do, once.
        def on_its_rows(params: Params, base: Params | None, batch: Batch, key: Array, scale: Array) -> Any:
            first = jax.lax.axis_index(BATCH_AXES) * batch["inputs"].shape[1] * objective.rows
            whole, frozen = gather_shards(params, specs["params"]), gather_shards(base, specs.get("base"))
            sums, grads = summed(whole, frozen, batch, rows_from(key, first), scale)
            return jax.lax.psum(sums, BATCH_AXES), sum_to_shards(grads, specs["params"])

        specs = jax.tree.map(lambda sharding: sharding.spec, shardings)
        whole = PartitionSpec()
        return jax.shard_map(
            on_its_rows,
            in_specs=(specs["params"], specs.get("base"), PartitionSpec(None, BATCH_AXES), whole, whole),
            out_specs=(whole, specs["params"]),
            check_vma=False,
        )(*parts)

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        tokens = jnp.maximum(jnp.sum(batch["targets"] != IGNORED), 1).astype(jnp.float32)
        loss_scale = state.get("loss_scale", jnp.ones((), jnp.float32))
        count = objective.count(batch)
        sums, grads = gradients(state, batch, count, loss_scale)
        loss = sums["loss"]
        if "loss_scale" in state:
            grads = jax.tree.map(lambda leaf: leaf / loss_scale, grads)
        grad_norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        if train.minutes:
            warmup, floor = config.optimizer.warmup_steps, config.optimizer.min_learning_rate_ratio
            factor = timed_factor(state["step"], state["schedule"], warmup, floor)
        else:
            factor = schedule(state["step"] - state["bad_steps"])

        def update(params: Params, opt_state: Any) -> tuple[Params, Any]:
            updates, opt_state = optimizer.update(grads, opt_state, params)
            if train.minutes:
                updates = jax.tree.map(lambda leaf: factor * leaf, updates)
            if config.optimizer.weight_decay_schedule != "rate":
                taken = decay_apart(
                    params, config.optimizer, factor, (state["step"] - state["bad_steps"]) / max(1, steps)
                )
                updates = jax.tree.map(jnp.subtract, updates, taken)
            return optax.apply_updates(params, updates), opt_state

        kernels = choose_kernels(config.model, dtype)
        params, opt_state = kernels.update_if(good, update, state["params"], state["opt_state"])

        def keep(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)

        new_state = {
            **state,
            "params": params,
            "opt_state": opt_state,
            "step": state["step"] + 1,
            "bad_steps": state["bad_steps"] + ~good,
            "bad_in_a_row": jnp.where(good, 0, state["bad_in_a_row"] + 1),
        }
        if "ema" in state:
            decay = averaging_decay(train.ema_decay, state["step"] - state["bad_steps"])
            averaged = jax.tree.map(lambda old, new: decay * old + (1 - decay) * new, state["ema"], new_state["params"])
            new_state["ema"] = keep(averaged, state["ema"])
        if "loss_scale" in state:
            new_state |= _next_loss_scale(loss_scale, state["good_steps"], good)
        metrics = {
            **{name: value / count for name, value in sums.items()},
            "grad_norm": grad_norm,
            "param_norm": optax.tree.norm(new_state["params"]),
            "lr": config.optimizer.learning_rate * factor,
            "tokens": tokens,
            "bad_steps": new_state["bad_steps"],
            "bad_in_a_row": new_state["bad_in_a_row"],
            "loss_scale": loss_scale,
        }
        return new_state, metrics

    batch_in = dict.fromkeys(objective.batch_shapes(), batch_sharding(mesh, accumulation=True))
    with jax.set_mesh(mesh):
        options = dict(choose_kernels(config.model, dtype).compiler_options)
    return jax.jit(
        step,
        in_shardings=(shardings, batch_in),
        out_shardings=(shardings, replicated(mesh)),
        donate_argnums=0,
        compiler_options=options or None,
    )


def _splits_by_hand(mesh: Mesh, state: TrainState) -> bool:
    """Whether each device computes its rows as if alone, with whole weights; `state` holds arrays or their shapes.

    Not beside `tensor`: split by hand along some axes alone, XLA's partitioner (jaxlib 0.12) ends the process. And not
    where `fsdp` splits a model that is large for the device, whose weights are better gathered layer by layer.
    """
    if mesh.size == 1 or mesh.shape["tensor"] > 1:
        return False
    if mesh.shape["fsdp"] == 1:
        return True
    # The weights, and gradients of those that are trained.
    held = 2 * _bytes(state["params"]) + _bytes(state.get("base"))
    return held <= device_memory_bytes(mesh.devices.flat[0].device_kind) / _WHOLE_SHARE


def _bytes(tree: Any) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def averaging_decay(limit: float, updates: Int[Array, ""]) -> Float[Array, ""]:
    """The share of the old average after so many updates: `limit`, or (1 + n) / (10 + n) while that is less.

    So the average is of about the last tenth of a run until `limit` is a shorter memory, and what training started from
    is soon forgotten, as a constant decay of 0.999 does only after some thousands of updates (the warm-up of
    TensorFlow's `ExponentialMovingAverage`, `num_updates`).
    """
    return jnp.minimum(limit, (1.0 + updates) / (10.0 + updates))


def _next_loss_scale(scale: Array, good_steps: Int[Array, ""], good: Array) -> dict[str, Array]:
    count = jnp.where(good, good_steps + 1, 0)
    grow = count >= _SCALE_GROWTH_STEPS
    factor = jnp.where(good, jnp.where(grow, 2.0, 1.0), 0.5)
    return {
        "loss_scale": jnp.clip(scale * factor, 1.0, 2.0**24),
        "good_steps": jnp.where(grow, 0, count).astype(jnp.int32),
    }
