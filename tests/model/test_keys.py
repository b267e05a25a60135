"""jslm's keys draw what JAX's draw, to the bit, however they are split, folded, batched and cut over devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jslm.model.keys import key_words, make_key, rows_from


@pytest.mark.parametrize("seed", [0, 1, 7, 2**31 - 1, 2**32 - 1])
def test_what_is_drawn_is_what_jax_draws(seed: int) -> None:
    ours, theirs = make_key(seed), jax.random.key(seed, impl="threefry2x32")
    for _ in range(2):
        for shape in ((), (1,), (5,), (3, 4), (2, 3, 5), (0, 3)):
            for dtype in (jnp.uint8, jnp.uint16, jnp.uint32):
                assert_same(jax.random.bits(ours, shape, dtype), jax.random.bits(theirs, shape, dtype))
            assert_same(jax.random.normal(ours, shape), jax.random.normal(theirs, shape))
            assert_same(jax.random.bernoulli(ours, 0.3, shape), jax.random.bernoulli(theirs, 0.3, shape))
        ours, theirs = jax.random.split(ours, 3)[1], jax.random.split(theirs, 3)[1]
        ours, theirs = jax.random.fold_in(ours, seed), jax.random.fold_in(theirs, seed)
        assert_same(jax.random.key_data(ours)[:2], jax.random.key_data(theirs))


def test_keys_in_batches_and_in_compiled_loops() -> None:
    def drawn(key: jax.Array) -> jax.Array:
        keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(6))
        rows = jax.vmap(lambda one: jax.random.normal(one, (4,)))(keys)
        steps = jax.lax.scan(lambda k, _: (jax.random.split(k)[0], jax.random.bits(k, (3,))), key, None, length=4)[1]
        return jnp.concatenate([rows.ravel(), jax.lax.bitcast_convert_type(steps, jnp.float32).ravel()])

    assert_same(jax.jit(drawn)(make_key(3)), jax.jit(drawn)(jax.random.key(3, impl="threefry2x32")))


def test_some_rows_are_drawn_as_in_an_array_of_all() -> None:
    whole = make_key(3)
    for first, count in ((0, 8), (3, 2), (7, 1)):
        part = rows_from(whole, first)
        for name in ("fold_in", "split", "itself"):
            keys = [
                jax.random.fold_in(key, 5)
                if name == "fold_in"
                else jax.random.split(key, 3)[2]
                if name == "split"
                else key
                for key in (whole, part)
            ]
            for shape in ((), (4,), (2, 3)):
                drawn = [
                    jax.random.bernoulli(key, 0.5, (rows, *shape)) for key, rows in zip(keys, (8, count), strict=True)
                ]
                assert_same(drawn[0][first : first + count], drawn[1])
    assert_same(jax.random.bits(rows_from(part, 0), (1, 9)), jax.random.bits(whole, (8, 9))[7:])


def test_a_key_of_jax_begins_with_the_first_row() -> None:
    for one, other in zip(key_words(jax.random.key(5)), key_words(make_key(5)), strict=True):
        assert_same(one, other)
    assert_same(jax.random.bits(rows_from(jax.random.key(5), 2), (3,)), jax.random.bits(make_key(5), (5,))[2:])


def test_no_loop_is_compiled() -> None:
    compiled = jax.jit(lambda key: jax.random.normal(key, (64, 64))).lower(make_key(0)).compile().as_text() or ""
    assert "fusion" in compiled
    assert " while(" not in compiled


def test_what_32_bits_cannot_count_is_counted_by_jax() -> None:
    def drawn(key: jax.Array, rows: int) -> jax.Array:
        return jax.random.bits(key, (rows, 2**16), jnp.uint8)

    found, wanted = (
        jax.jit(drawn, static_argnums=1).lower(key, 2**16 + 1).as_text().count("stablehlo.iota")
        for key in (make_key(0), jax.random.key(0, impl="threefry2x32"))
    )
    assert found == wanted
    assert jax.jit(drawn, static_argnums=1).lower(make_key(0), 2**16).as_text().count("stablehlo.while") == 0


def assert_same(found: jax.Array, wanted: jax.Array) -> None:
    assert found.dtype == wanted.dtype
    assert np.asarray(found).tobytes() == np.asarray(wanted).tobytes()
