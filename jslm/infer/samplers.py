"""From logits to the next token: pure functions, one row of a batch independent of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

# Logits whose shares are summed together.
_BLOCK = 128


class Sampling(NamedTuple):
    """A setting a row, so that one compiled program serves any mix."""

    temperature: Float[Array, " batch"]
    top_k: Int[Array, " batch"]
    top_p: Float[Array, " batch"]
    min_p: Float[Array, " batch"]
    repetition_penalty: Float[Array, " batch"]


class Plan(NamedTuple):
    """What any row of a batch needs. It is static: a batch that is greedy throughout compiles to an argmax alone."""

    draws: bool = True
    sorts: bool = True
    penalises: bool = True


def sample_tokens(
    logits: Float[Array, "batch vocab"],
    keys: Key[Array, " batch"],
    sampling: Sampling,
    seen: Bool[Array, "batch vocab"] | None,
    plan: Plan,
) -> Int[Array, " batch"]:
    """The next token of each row, int32: drawn from `filter_logits` with the row's key, or the likeliest where its
    temperature is 0. `seen` marks the tokens that the repetition penalty is for; None where `plan` has none."""
    if plan.penalises:
        assert seen is not None
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    likeliest = likeliest_tokens(logits)
    if not plan.draws:
        return likeliest
    filtered = filter_logits(logits, sampling, sort=plan.sorts)
    return jnp.where(sampling.temperature > 0, draw_tokens(filtered, keys), likeliest)


def likeliest_tokens(logits: Float[Array, "*batch vocab"]) -> Int[Array, "*batch"]:
    """`argmax` over the last axis, int32: the first of those that tie.

    Two reductions over single values, which compilers make vector code of; one over pairs takes several times as long.
    """
    vocab = logits.shape[-1]
    top = jnp.max(logits, axis=-1, keepdims=True)
    ids = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    # A row of NaN has no largest.
    return jnp.minimum(jnp.min(jnp.where(logits == top, ids, vocab), axis=-1), vocab - 1)


def draw_tokens(logits: Float[Array, "batch vocab"], keys: Key[Array, " batch"]) -> Int[Array, " batch"]:
    """A token of each row, int32, by the softmax of its logits; never one whose logit is -inf.

    One random number a row (inverse transform sampling) and one key: a row draws the same whatever stands beside it.
    The running sum is over blocks and then within one, so that the vocabulary is passed over once.
    """
    batch, vocab = logits.shape
    blocks = -(-vocab // _BLOCK)
    padded = jnp.pad(logits, ((0, 0), (0, blocks * _BLOCK - vocab)), constant_values=-jnp.inf)
    shares = jnp.exp(padded - jnp.max(padded, axis=-1, keepdims=True)).reshape(batch, blocks, _BLOCK)
    sums = jnp.sum(shares, axis=-1)
    until = jnp.cumsum(sums, axis=-1)
    at = jax.vmap(jax.random.uniform)(keys) * until[:, -1]
    block = _first_beyond(until, sums, at)
    before = jnp.take_along_axis(until - sums, block[:, None], axis=1)[:, 0]
    within = jnp.take_along_axis(shares, block[:, None, None], axis=1)[:, 0]
    return block * _BLOCK + _first_beyond(jnp.cumsum(within, axis=-1), within, at - before)


def _first_beyond(
    until: Float[Array, "batch n"], parts: Float[Array, "batch n"], at: Float[Array, " batch"]
) -> Int[Array, " batch"]:
    """The first whose running sum is beyond `at`; by rounding there may be none, and then the last that has a part."""
    first = jnp.sum(until <= at[:, None], axis=-1)
    last = jnp.max(jnp.where(parts > 0, jnp.arange(parts.shape[-1], dtype=jnp.int32), 0), axis=-1)
    return jnp.minimum(first, last).astype(jnp.int32)


def sample_keys(seed: int, samples: Sequence[int]) -> Key[Array, " batch"]:
    """The key of each sample: of the seed (0 to 2**63 - 1) and the sample's number among its prompt's, alone."""
    # Both halves of the seed count, whatever width JAX gives integers.
    key = jax.random.fold_in(jax.random.key(seed & 0xFFFFFFFF), seed >> 32) if seed >> 32 else jax.random.key(seed)
    return _fold_all(key, np.array(samples, np.uint32))


def penalise_repetition(
    logits: Float[Array, "batch vocab"], seen: Bool[Array, "batch vocab"], penalty: Float[Array, " batch"]
) -> Float[Array, "batch vocab"]:
    """Logits of seen tokens divided by the penalty where positive and multiplied where not.

    Keskar et al. 2019, "CTRL", section 4.1, which divides either; a negative logit would grow likelier so.
    """
    by = penalty[:, None]
    return jnp.where(seen, jnp.where(logits > 0, logits / by, logits * by), logits)


def filter_logits(
    logits: Float[Array, "batch vocab"], sampling: Sampling, *, sort: bool = True
) -> Float[Array, "batch vocab"]:
    """Logits over temperature, with -inf for what top-k, then top-p, then min-p leave out; the likeliest always stays.

    top-p: the likeliest tokens up to the one that reaches p of what top-k left (Holtzman et al. 2020, section 3.1).
    min-p: those with at least that share of the likeliest one's probability (Nguyen et al. 2024). Tokens that tie with
    the last one kept are kept. `sort=False` is for batches in which no row uses top-k or top-p.
    """
    hot = sampling.temperature[:, None]
    scaled = logits / jnp.where(hot > 0, hot, 1.0)
    if sort:
        scaled = jnp.where(scaled >= _smallest_kept(scaled, sampling)[:, None], scaled, -jnp.inf)
    top = jnp.max(scaled, axis=-1, keepdims=True)
    return jnp.where(scaled >= top + jnp.log(sampling.min_p)[:, None], scaled, -jnp.inf)


# Compiled, since a server asks for keys all the time.
_fold_all = jax.jit(jax.vmap(jax.random.fold_in, (None, 0)))


def _smallest_kept(scaled: Float[Array, "batch vocab"], sampling: Sampling) -> Float[Array, " batch"]:
    """The least of the logits that top-k and then top-p keep. Halving finds it without sorting the vocabulary."""
    vocab = scaled.shape[-1]
    ranks = _as_ranks(scaled)
    k = jnp.where(sampling.top_k > 0, jnp.minimum(sampling.top_k, vocab), vocab)
    kth = _largest(lambda rank: jnp.sum(ranks >= rank[:, None], axis=-1) >= k, len(k))
    shares = jax.nn.softmax(jnp.where(ranks >= kth[:, None], scaled, -jnp.inf), axis=-1)
    p = sampling.top_p
    reaching = _largest(lambda rank: jnp.sum(jnp.where(ranks >= rank[:, None], shares, 0.0), axis=-1) >= p, len(p))
    # Rounding can bring the sum to 1 before the last tokens, which a p of 1 must keep.
    return _as_floats(jnp.where(p < 1, jnp.maximum(kth, reaching), kth))


def _largest(holds: Callable[[Int[Array, " batch"]], Bool[Array, " batch"]], batch: int) -> Int[Array, " batch"]:
    """The largest int32 of each row that `holds`, which then holds for all below it; the smallest where none does."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        # Rounded up, without overflow.
        middle = (low >> 1) + (high >> 1) + ((low | high) & 1)
        enough = holds(middle)
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    limits = jnp.iinfo(jnp.int32)
    bounds = (jnp.full(batch, limits.min, jnp.int32), jnp.full(batch, limits.max, jnp.int32))
    return jax.lax.fori_loop(0, 32, halve, bounds)[0]


def _as_ranks(x: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
    """float32 as integers of the same order."""
    bits = jax.lax.bitcast_convert_type(x, jnp.int32)
    return jnp.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


def _as_floats(ranks: Int[Array, "*shape"]) -> Float[Array, "*shape"]:
    bits = jnp.where(ranks < 0, ranks ^ 0x7FFFFFFF, ranks)
    floats: Array = jax.lax.bitcast_convert_type(bits, jnp.float32)
    return floats
