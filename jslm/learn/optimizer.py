"""Schedules and the optax chain: clip -> AdamW, or Muon with AdamW beside it."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jslm.config import OptimizerConfig
from jslm.parallel import is_split
from jslm.tokens.course import Course

# Jordan 2024: an odd polynomial that takes singular values from 0 to 1 to about 0.7 to 1.2 in five rounds.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_ROUNDS = 5


def make_schedule(config: OptimizerConfig, steps: int, course: Course | None = None) -> optax.Schedule:
    """Learning rate as a factor of its peak (0 to 1) by count of updates: linear warm-up, then the chosen shape.

    The warm-up's first update already moves: factor 1 / (warmup + 1). "wsd": Hu et al. 2024, "MiniCPM". With a
    `course`, the shape follows the share of the run's examples rather than of its steps: the same, unless the batch
    size changed on the way, and then the rate goes on from where it was. `steps = 0`: constant, as a run against the
    clock has its factor in its state (`timed_factor`).
    """
    if not steps:
        return optax.constant_schedule(1.0)
    warmup = min(config.warmup_steps, steps)
    floor, ahead = config.min_learning_rate_ratio, 0.0
    total: float = steps
    rest: float = max(steps - warmup, 1)
    if course is not None and len(course.changes) > 1:
        # Everything in steps of the present size, of which those before the last change were more or fewer.
        def place(step: int) -> float:
            return course.examples_before(step) / course.batch_size

        changed = course.changes[-1][0]
        total, rest = place(steps), max(place(steps) - place(warmup), 1.0)
        ahead = place(changed) - changed - (place(warmup) - warmup)
    match config.schedule:
        case "cosine":
            after = optax.cosine_decay_schedule(1.0, rest, alpha=floor)
        case "linear":
            after = _linear(floor, 0, rest)
        case "constant":
            after = optax.constant_schedule(1.0)
        case "wsd":
            decay = max(1, min(rest, round(config.decay_fraction * total)))
            after = _linear(floor, rest - decay, decay)
    shape = (lambda count: after(count + ahead)) if ahead else after
    if not warmup:
        return shape
    return optax.join_schedules([optax.linear_schedule(1 / (warmup + 1), 1.0, warmup), shape], [warmup])


def timed_factor(
    step: Int[Array, ""], schedule: Float[Array, "3"], warmup_steps: int, floor: float
) -> Float[Array, ""]:
    """Learning rate of a run against the clock (`train.minutes`), as a factor of its peak.

    `schedule`: the step at which the linear decay begins, the step at which the run ends (infinite while that is not
    known), and the factor from which it falls, to `floor` of it. A warm-up as in `make_schedule` comes first.
    """
    begin, end, height = schedule[0], schedule[1], schedule[2]
    done = jnp.clip((step - begin) / jnp.maximum(end - begin, 1.0), 0.0, 1.0)
    decayed = height * (1.0 - (1.0 - floor) * jnp.where(jnp.isfinite(end), done, 0.0))
    return jnp.minimum(decayed, (step + 1.0) / (warmup_steps + 1.0))


def _linear(floor: float, begin: float, length: float) -> optax.Schedule:
    """From 1 to `floor` over `length` steps after `begin`."""
    return optax.schedules.polynomial_schedule(1.0, floor, 1, cast(int, length), cast(int, begin))


def make_optimizer(
    config: OptimizerConfig, steps: int, dtype: DTypeLike = jnp.float32, course: Course | None = None
) -> optax.GradientTransformation:
    """The whole chain, for parameter trees of `jslm.model` (layers stacked on axis 0); `dtype` is the compute type.

    `course` is the schedule's, see `make_schedule`; the state is the same with any.

    AdamW: Loshchilov & Hutter 2019; decay on matrices (those of adapters too) and embeddings only. Muon: Jordan 2024,
    with the update scaled to AdamW's RMS of 0.2 (Liu et al. 2025, "Muon is Scalable", section 2.2), so that one
    learning rate serves both; `muon_beta2` makes it NorMuon. A decay that does not go with the rate is not in it, see
    `decay_apart`.
    """
    weight_decay = config.weight_decay if config.weight_decay_schedule == "rate" else 0.0
    schedule = make_schedule(config, steps, course)
    clip = optax.clip_by_global_norm(config.clip_norm) if config.clip_norm else optax.identity()

    def rate(peak: float) -> optax.Schedule:
        return lambda count: peak * schedule(count)

    adamw = optax.adamw(
        rate(config.learning_rate),
        b1=config.beta1,
        b2=config.beta2,
        eps=config.eps,
        weight_decay=weight_decay,
        mask=is_matrix,
    )
    if config.name == "adamw":
        return optax.chain(clip, adamw)
    fast = jnp.bfloat16 if jnp.dtype(dtype) == jnp.bfloat16 else jnp.float32
    muon = optax.chain(
        optax.trace(config.muon_momentum, nesterov=True),
        optax.stateless(lambda updates, _: jax.tree.map(_adamw_rms, orthogonalize_all(updates, fast))),
        *([even_out(config.muon_beta2)] if config.muon_beta2 else []),
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(rate(config.muon_learning_rate or config.learning_rate)),
    )
    return optax.chain(clip, optax.partition({"muon": muon, "adamw": adamw}, muon_labels))


def decay_apart(params: Any, config: OptimizerConfig, factor: Float[Array, ""], done: Float[Array, ""]) -> Any:
    """What a step takes off each parameter where `weight_decay_schedule` is not "rate"; zeros where nothing decays.

    `factor`: the learning rate over its peak; `done`: the share of the run before this step. As in the chain, a matrix
    loses `weight_decay` times its own peak rate: times 1 ("constant", Loshchilov & Hutter 2019, whose decay is not
    the rate's) or times `factor * done` ("rising").
    """
    scale = config.weight_decay * (factor * done if config.weight_decay_schedule == "rising" else jnp.ones_like(factor))
    peaks = {"adamw": config.learning_rate, "muon": config.muon_learning_rate or config.learning_rate}
    labels = muon_labels(params) if config.name == "muon" else jax.tree.map(lambda _: "adamw", params)
    return jax.tree.map(
        lambda leaf, decays, label: scale * peaks[label] * leaf if decays else jnp.zeros_like(leaf),
        params,
        is_matrix(params),
        labels,
    )


def is_matrix(params: Any) -> Any:
    """True for each kernel, embedding table and factor of an adapter, False for biases and norm scales."""

    def decides(path: Any, _: Any) -> bool:
        # Tables of conditions are named by the user.
        names = [part.key for part in path]
        return names[-1] in ("kernel", "tokens", "positions", "a", "b") or "conditions" in names[:-1]

    return jax.tree_util.tree_map_with_path(decides, params)


def muon_labels(params: Any) -> Any:
    """ "muon" for the blocks' kernels; "adamw" for embeddings, head, norms and biases."""

    def label(path: Any, _: Any) -> str:
        return "muon" if path[0].key == "layers" and _leaf_name(path) == "kernel" else "adamw"

    return jax.tree_util.tree_map_with_path(label, params)


def orthogonalize_all(tree: Any, dtype: DTypeLike = jnp.float32) -> Any:
    """`orthogonalize` of each leaf `[layers, m, n]`; those of one shape, or of its transpose, are computed together.

    Not where a mesh splits them, each by axes of its own.
    """
    if is_split():
        return jax.tree.map(lambda leaf: orthogonalize(leaf, dtype), tree)
    leaves, structure = jax.tree.flatten(tree)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, leaf in enumerate(leaves):
        shapes.setdefault(tuple(sorted(leaf.shape[1:])), []).append(index)
    for members in shapes.values():
        wide = [_transposed_if(leaves[i].shape[1] > leaves[i].shape[2], leaves[i]) for i in members]
        done = orthogonalize(jnp.concatenate(wide), dtype)
        start = 0
        for i, part in zip(members, wide, strict=True):
            of_leaf = done[start : start + len(part)]
            leaves[i] = _transposed_if(of_leaf.shape != leaves[i].shape, of_leaf)
            start += len(part)
    return jax.tree.unflatten(structure, leaves)


def _transposed_if(is_so: bool, matrices: Array) -> Array:
    return jnp.swapaxes(matrices, 1, 2) if is_so else matrices


def orthogonalize(matrices: Float[Array, "layers m n"], dtype: DTypeLike = jnp.float32) -> Float[Array, "layers m n"]:
    """Each matrix with its singular values made nearly 1 (0.7 to 1.2), in float32; zeros stay zeros.

    Jordan 2024, "Muon": Newton-Schulz rounds, whose products are in `dtype`. bfloat16, with which Muon was published,
    moves an entry by about a hundredth of the largest and takes half the time.
    """
    a, b, c = _NEWTON_SCHULZ
    tall = matrices.shape[1] > matrices.shape[2]
    x = _transposed_if(tall, matrices)
    x = (x / (jnp.linalg.norm(x, axis=(1, 2), keepdims=True) + 1e-8)).astype(dtype)
    for _ in range(_NEWTON_SCHULZ_ROUNDS):
        gram = jnp.einsum("lij,lkj->lik", x, x)
        x = a * x + jnp.einsum("lij,ljk->lik", b * gram + c * jnp.einsum("lij,ljk->lik", gram, gram), x)
    return _transposed_if(tall, x).astype(jnp.float32)


def even_out(beta2: float) -> optax.GradientTransformation:
    """Divides what a matrix `[..., in, out]` gives each of its outputs by that output's running root mean square, and
    keeps the norm of the whole: NorMuon (Li et al. 2025, "NorMuon: Making Muon more efficient and scalable").

    The state is a tree of mean squares `[..., 1, out]` in float32, over about `1 / (1 - beta2)` steps.
    """

    def init(params: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros((*leaf.shape[:-2], 1, leaf.shape[-1]), jnp.float32), params)

    def update(updates: Any, squares: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        squares = jax.tree.map(
            lambda leaf, old: beta2 * old + (1 - beta2) * jnp.mean(leaf**2, axis=-2, keepdims=True), updates, squares
        )
        return jax.tree.map(_evened, updates, squares), squares

    return optax.GradientTransformation(init, update)


def _evened(update: Array, square: Array) -> Array:
    # That the running mean begins with zeros goes with the norm.
    even = update * jax.lax.rsqrt(square + 1e-20)
    norm, now = (jnp.linalg.norm(matrices, axis=(-2, -1), keepdims=True) for matrices in (update, even))
    return even * (norm / jnp.maximum(now, 1e-20))


def _adamw_rms(update: Array) -> Array:
    # An orthogonal [in, out] update has RMS 1 / sqrt(max(in, out)).
    return update * (0.2 * max(update.shape[-2:]) ** 0.5)


def _leaf_name(path: Any) -> str:
    return str(path[-1].key)
