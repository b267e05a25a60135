"""Schedules at points computed by hand, and what each part of the chain does to which parameter."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jslm.config import LoraConfig, ModelConfig, OptimizerConfig
from jslm.learn.optimizer import (
    even_out,
    is_matrix,
    make_optimizer,
    make_schedule,
    muon_labels,
    orthogonalize,
    orthogonalize_all,
)
from jslm.model import Params, init_adapters, init_params
from jslm.tokens.course import Course

MODEL = ModelConfig(
    n_layers=2, d_model=16, n_heads=2, d_ff=48, context_length=8, vocab_size=20, norm="layernorm", position="learned",
    qkv_bias=True, tie_embeddings=False,
)  # fmt: skip


def config(**keys: Any) -> OptimizerConfig:
    constant = {"schedule": "constant", "warmup_steps": 0, "weight_decay": 0.0, "clip_norm": 0.0}
    return OptimizerConfig.model_validate(constant | {"learning_rate": 0.01} | keys)


@pytest.fixture(scope="module")
def params() -> Params:
    """Nothing is zero, so that decay shows everywhere."""
    return jax.tree.map(lambda leaf: leaf + 0.5, init_params(MODEL, jax.random.key(0)))


@pytest.fixture(scope="module")
def grads(params: Params) -> Params:
    noise = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(noise.standard_normal(leaf.shape, np.float32)), params)


def updates(config: OptimizerConfig, params: Params, grads: Params, steps: int = 1) -> dict[str, np.ndarray]:
    """The last of `steps` updates with the same gradient, by path."""
    optimizer = make_optimizer(config, 100)
    state = optimizer.init(params)
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        found, state = update(grads, state, params)
    return by_path(found)


def by_path(tree: Any) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(part.key) for part in path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.parametrize(
    ("keys", "points"),
    [
        # Warm-up over 10: the first update is 1/11 of the peak, the tenth 10/11.
        ({"schedule": "constant", "warmup_steps": 10}, {0: 1 / 11, 4: 5 / 11, 9: 10 / 11, 10: 1.0, 99: 1.0}),
        ({"schedule": "cosine", "warmup_steps": 10}, {0: 1 / 11, 10: 1.0, 55: 0.55, 100: 0.1, 1000: 0.1}),
        ({"schedule": "cosine", "warmup_steps": 0}, {0: 1.0, 25: 0.1 + 0.9 * (1 + 2**-0.5) / 2, 50: 0.55, 100: 0.1}),
        ({"schedule": "cosine", "warmup_steps": 0, "min_learning_rate_ratio": 0.0}, {50: 0.5, 100: 0.0}),
        ({"schedule": "linear", "warmup_steps": 20}, {0: 1 / 21, 20: 1.0, 60: 0.55, 100: 0.1, 200: 0.1}),
        ({"schedule": "wsd", "warmup_steps": 10}, {0: 1 / 11, 10: 1.0, 50: 1.0, 80: 1.0, 90: 0.55, 100: 0.1}),
        ({"schedule": "wsd", "warmup_steps": 0, "decay_fraction": 0.5}, {0: 1.0, 50: 1.0, 75: 0.55, 100: 0.1}),
        ({"schedule": "constant", "warmup_steps": 0}, {0: 1.0, 100: 1.0}),
        # A warm-up longer than the run is cut to it.
        ({"schedule": "cosine", "warmup_steps": 1000}, {0: 1 / 101, 99: 100 / 101}),
    ],
    ids=str,
)
def test_schedule(keys: dict[str, Any], points: dict[int, float]) -> None:
    schedule = make_schedule(OptimizerConfig.model_validate(keys), 100)
    for count, factor in points.items():
        assert float(schedule(count)) == pytest.approx(factor, abs=1e-5), count


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "constant"])
@pytest.mark.parametrize("changed", [5, 10, 40, 90])
@pytest.mark.parametrize("batch", [4, 16])
def test_schedule_goes_on_where_it_was_at_another_batch_size(kind: str, changed: int, batch: int) -> None:
    """800 examples in batches of 8, then of another size: each later share of them has the rate that it would have."""
    settings = OptimizerConfig.model_validate({"schedule": kind, "warmup_steps": 10})
    before = make_schedule(settings, 100)
    course = Course(8).with_batch_size(batch, changed)
    steps = round(course.step_at(800))
    after = make_schedule(settings, steps, course)
    for step in range(max(changed, 10), steps, 3):
        if changed >= 10:
            assert float(after(step)) == pytest.approx(float(before(course.examples_before(step) / 8)), abs=1e-4)
    # Warm-up is in steps, whatever their size, and the last rate is the floor.
    assert float(after(min(changed, 9))) == pytest.approx((min(changed, 9) + 1) / 11)
    assert float(after(steps)) == pytest.approx(1.0 if kind == "constant" else 0.1, abs=1e-4)
    assert float(make_schedule(settings, 100, Course(8))(57)) == float(before(57))


def test_updates_follow_the_schedule(params: Params, grads: Params) -> None:
    """Adam's update of a constant gradient is the learning rate."""
    keys = {"schedule": "linear", "warmup_steps": 4, "min_learning_rate_ratio": 0.0}
    for step, factor in ((1, 0.2), (3, 0.6), (5, 1.0), (29, 0.75)):
        found = updates(config(**keys), params, grads, step)["embed/tokens"]
        np.testing.assert_allclose(found, -0.01 * factor * np.sign(by_path(grads)["embed/tokens"]), rtol=1e-3)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_is_on_matrices_alone(name: str, params: Params) -> None:
    still = jax.tree.map(jnp.zeros_like, params)
    found = updates(config(name=name, weight_decay=0.1, muon_learning_rate=0.02), params, still)
    values = by_path(params)
    decayed = {path for path, update in found.items() if np.abs(update).max() > 0}
    assert decayed == {path for path in values if path.endswith(("kernel", "tokens", "positions"))}
    assert {"embed/positions", "head/tokens", "layers/mlp/up/kernel"} <= decayed
    for path in decayed:
        rate = 0.02 if name == "muon" and path.endswith("kernel") else 0.01
        np.testing.assert_allclose(found[path], -rate * 0.1 * values[path], rtol=1e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_decay_reaches_adapters_and_conditions(name: str) -> None:
    """Factors are matrices, tables of conditions are embeddings, whatever the user calls them."""
    named = ModelConfig.model_validate(
        MODEL.model_dump() | {"conditions": [{"name": "bias", "labels": ["x", "y"]}], "norm": "rmsnorm"}
    )
    start = init_params(named, jax.random.key(0))
    adapters = init_adapters(start, LoraConfig(rank=2), jax.random.key(0))
    for tree in (start, adapters):
        values = jax.tree.map(lambda leaf: leaf + 0.5, tree)
        found = updates(config(name=name, weight_decay=0.1), values, jax.tree.map(jnp.zeros_like, values))
        for path, update in found.items():
            matrix = path.endswith(("kernel", "tokens", "positions", "/a", "/b")) or path.startswith("embed/conditions")
            np.testing.assert_allclose(update, -0.01 * 0.1 * by_path(values)[path] * matrix, rtol=1e-4, err_msg=path)


def test_adamw_equals_its_formula(params: Params, grads: Params) -> None:
    """Loshchilov & Hutter 2019, two steps with different gradients, in NumPy."""
    optimizer = make_optimizer(config(beta1=0.8, beta2=0.9, weight_decay=0.1), 100)
    state = optimizer.init(params)
    second = jax.tree.map(lambda leaf: -0.3 * leaf + 0.1, grads)
    _, state = optimizer.update(grads, state, params)
    found, _ = optimizer.update(second, state, params)
    values, first, other = by_path(params), by_path(grads), by_path(second)
    for path, update in by_path(found).items():
        m = 0.2 * (0.8 * first[path] + other[path]) / (1 - 0.8**2)
        v = 0.1 * (0.9 * first[path] ** 2 + other[path] ** 2) / (1 - 0.9**2)
        decay = 0.1 * values[path] if path.endswith(("kernel", "tokens", "positions")) else 0.0
        np.testing.assert_allclose(update, -0.01 * (m / (np.sqrt(v) + 1e-8) + decay), rtol=1e-4, atol=1e-7)


def test_clip_scales_all_gradients_together(params: Params, grads: Params) -> None:
    """Adam forgets the size of its first gradient, so the second shows the clip: it is clipped, the small first not."""
    small = jax.tree.map(lambda leaf: leaf * (0.5 / optax.tree.norm(grads)), grads)
    large = jax.tree.map(lambda leaf: 1e4 * leaf, small)

    def second_update(clip: float, gradient: Params) -> dict[str, np.ndarray]:
        optimizer = make_optimizer(config(clip_norm=clip), 100)
        _, state = optimizer.update(small, optimizer.init(params), params)
        return by_path(optimizer.update(gradient, state, params)[0])

    clipped = second_update(1.0, large)
    wanted = second_update(0.0, jax.tree.map(lambda leaf: 2 * leaf, small))
    for path, update in clipped.items():
        np.testing.assert_allclose(update, wanted[path], rtol=1e-3, atol=1e-8)
    unclipped = second_update(0.0, large)
    assert np.abs(unclipped["embed/tokens"] - clipped["embed/tokens"]).max() > 1e-3


def test_muon_takes_the_blocks_kernels(params: Params) -> None:
    labels = {path: str(label) for path, label in by_path(muon_labels(params)).items()}
    muon = {path for path, label in labels.items() if label == "muon"}
    assert muon == {
        *(f"layers/attention/{name}/kernel" for name in ("q", "k", "v", "out")),
        *(f"layers/mlp/{name}/kernel" for name in ("up", "gate", "down")),
    }
    assert set(labels.values()) == {"muon", "adamw"}
    assert not is_matrix(params)["layers"]["attention"]["q"]["bias"]


def test_muon_update_is_orthogonal_with_the_rms_of_adamw(params: Params, grads: Params) -> None:
    found = updates(config(name="muon", muon_learning_rate=0.05), params, grads)
    for path, update in found.items():
        if not path.endswith("kernel"):
            # Embeddings, head, norms and biases: Adam's first step, the learning rate in each place.
            np.testing.assert_allclose(np.abs(update), 0.01, rtol=1e-3)
            continue
        for layer in update:
            assert np.sqrt(np.mean(layer**2)) == pytest.approx(0.2 * 0.05, rel=0.2)
            singular = np.linalg.svd(layer, compute_uv=False)
            assert singular.max() / singular.min() < 2.2, path
        assert np.sum(update * by_path(grads)[path]) < 0


def test_muon_treats_each_layer_by_itself(params: Params, grads: Params) -> None:
    """A layer's update does not change with the other layer's gradient, nor with the size of its own."""
    before = updates(config(name="muon"), params, grads)
    changed = jax.tree.map(lambda leaf: leaf, grads)
    kernel = changed["layers"]["mlp"]["up"]["kernel"]
    changed["layers"]["mlp"]["up"]["kernel"] = kernel.at[1].multiply(-100.0)
    after = updates(config(name="muon"), params, changed)
    path = "layers/mlp/up/kernel"
    np.testing.assert_allclose(after[path][0], before[path][0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(after[path][1], -before[path][1], rtol=0.02, atol=1e-4)


def test_muon_rate_defaults_to_the_other(params: Params, grads: Params) -> None:
    alone = updates(config(name="muon"), params, grads)
    both = updates(config(name="muon", muon_learning_rate=0.01), params, grads)
    for path, update in alone.items():
        np.testing.assert_array_equal(update, both[path])


def test_normuon_gives_each_output_as_much_and_the_whole_what_it_was(params: Params, grads: Params) -> None:
    plain = updates(config(name="muon"), params, grads)
    even = updates(config(name="muon", muon_beta2=0.9), params, grads)
    for path, update in even.items():
        if not path.endswith("kernel"):
            np.testing.assert_array_equal(update, plain[path])
            continue
        sizes, before = (np.linalg.norm(each, axis=1) for each in (update, plain[path]))
        # Muon's own differ, where there are more outputs than inputs above all.
        np.testing.assert_allclose(sizes, np.broadcast_to(sizes.mean(axis=1, keepdims=True), sizes.shape), rtol=1e-4)
        assert np.ptp(before, axis=1).min() > 10 * np.ptp(sizes, axis=1).max()
        np.testing.assert_allclose(np.linalg.norm(sizes, axis=1), np.linalg.norm(before, axis=1), rtol=1e-4)


def test_normuon_divides_by_a_running_mean() -> None:
    noise = np.random.default_rng(0)
    given = [noise.standard_normal((2, 6, 4)) * np.geomspace(0.1, 10, 4) for _ in range(3)]
    normuon = even_out(0.8)
    state, square, found = normuon.init({"a": jnp.zeros((2, 6, 4))}), np.zeros((2, 1, 4)), None
    for each in given:
        found, state = normuon.update({"a": jnp.asarray(each, jnp.float32)}, state)
        square = 0.8 * square + 0.2 * (each**2).mean(axis=1, keepdims=True)
    expected = given[-1] / np.sqrt(square)
    size = np.linalg.norm(given[-1], axis=(1, 2), keepdims=True) / np.linalg.norm(expected, axis=(1, 2), keepdims=True)
    assert found is not None
    np.testing.assert_allclose(found["a"], expected * size, rtol=1e-4)
    still, _ = normuon.update({"a": jnp.zeros((2, 6, 4))}, normuon.init({"a": jnp.zeros((2, 6, 4))}))
    np.testing.assert_array_equal(still["a"], 0.0)


def test_matrices_of_one_shape_are_made_together_and_stay_themselves() -> None:
    rng = np.random.default_rng(1)
    shapes = {"up": (3, 16, 40), "down": (3, 40, 16), "q": (3, 16, 16), "out": (3, 16, 16), "one": (1, 40, 16)}
    tree = {name: jnp.asarray(rng.normal(size=shape), jnp.float32) for name, shape in shapes.items()}
    for dtype, tolerance in ((jnp.float32, 1e-5), (jnp.bfloat16, 0.02)):
        found = orthogonalize_all({"layers": tree}, dtype)["layers"]
        assert found.keys() == tree.keys()
        for name, matrices in tree.items():
            np.testing.assert_allclose(found[name], orthogonalize(matrices, dtype), atol=tolerance, err_msg=name)
    (products,) = {
        str(jax.jit(orthogonalize_all).lower(some).as_text()).count("dot_general")
        for some in ({"up": tree["up"]}, {name: tree[name] for name in ("up", "down", "one")})
    }
    assert products == 15


@pytest.mark.parametrize(("m", "n"), [(24, 24), (24, 60), (60, 24)])
def test_orthogonalize_nears_the_polar_factor(m: int, n: int) -> None:
    """U V^T of the singular value decomposition, for singular values from 0.05 to 1; bfloat16 is a rounded float32."""
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=(3, m, n)), full_matrices=False)
    matrices = jnp.asarray(left * np.geomspace(1.0, 0.05, min(m, n)) @ right, jnp.float32)
    found = np.asarray(orthogonalize(matrices))
    singular = np.linalg.svd(found, compute_uv=False)
    assert singular.min() > 0.65
    assert singular.max() < 1.25
    # The same singular vectors: U^T X V is diagonal.
    diagonal = np.swapaxes(left, 1, 2) @ found @ np.swapaxes(right, 1, 2)
    assert np.abs(diagonal - diagonal * np.eye(min(m, n))).max() < 1e-4
    rounded = np.asarray(orthogonalize(matrices, jnp.bfloat16))
    assert 0 < np.abs(rounded - found).max() < 0.05
    assert not np.any(orthogonalize(jnp.zeros((2, m, n))))
